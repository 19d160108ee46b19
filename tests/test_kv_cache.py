"""Rows written to caches of keys and values, beside plain torch."""

from __future__ import annotations

import sys
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from flag_gems import _C, fused, warm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass
from compare import counts
from cpu_modes import EVERY_THREAD, run_in_mode

DEVICE = flag_gems.device
OPS = torch.ops.flag_gems
FP8 = {"fp8": torch.float8_e4m3fn, "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
HALVES = (torch.bfloat16, torch.float16, torch.float32)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def slots(tokens: int, most: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Slots that come once, some tokens left out."""
    generator = torch.Generator().manual_seed(tokens)
    places = torch.randperm(most, generator=generator)[:tokens]
    places[torch.arange(tokens) % 5 == 3] = -1
    return places.to(dtype).to(DEVICE)


def stored(x: Tensor, word: str, scale: float, cache: Tensor) -> Tensor:
    """Elements as a cache has them."""
    if word == "auto":
        return x.to(cache.dtype)
    limits = torch.finfo(FP8[word])
    made = (x.float() / scale).clamp(limits.min, limits.max).to(FP8[word])
    return made.view(cache.dtype)


def paged(cache: Tensor, slot: int, x: Tensor) -> None:
    """Writes [heads, size] to a slot; slots are the last dim but one of a key cache, the last of a value cache."""
    at = cache.dim() - 2 if cache.dim() == 5 else 3
    size = cache.shape[at]
    place = cache[slot // size].select(at - 1, slot % size)
    place.copy_(x.reshape(place.shape))


def rows(cache: Tensor, slot: int, x: Tensor) -> None:
    cache[slot // cache.shape[1], slot % cache.shape[1]] = x


def assert_cached(
    function: Any, put: Any, given_: tuple[Tensor, Tensor], caches: tuple[Tensor, Tensor], *rest: Any
) -> None:
    """The call writes what the loop writes, bit by bit, and nothing else."""
    mapping, word, scales = rest
    expected = [cache.clone() for cache in caches]
    for token, slot in enumerate(mapping.tolist()):
        if slot >= 0:
            for x, cache, scale in zip(given_, expected, scales, strict=True):
                put(cache, slot, stored(x[token], word, scale, cache))
    tensors = [torch.tensor(s, device=DEVICE) for s in scales]
    name = f"flag_gems::{function.__name__}"
    before = counts(name)["kernel"]
    assert function(*given_, *caches, mapping, word, *tensors) is None
    assert counts(name)["kernel"] == before + 1
    for cache, wanted in zip(caches, expected, strict=True):
        same_bits = torch.equal(bits(cache), bits(wanted))
        assert same_bits, (bits(cache) != bits(wanted)).nonzero()[:5]


def bits(x: Tensor) -> Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(kinds[x.element_size()])


def make_caches(layout: str, heads: int, size: int, value_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    blocks, block = 5, 4
    kind = torch.float32 if dtype == torch.uint8 else dtype
    if layout == "paged":
        x = next(x for x in (16 // torch.empty(0, dtype=dtype).element_size(), 4, 1) if size % x == 0)
        made = draw(blocks, heads, size // x, block, x, dtype=kind), draw(blocks, heads, value_size, block, dtype=kind)
    elif layout == "flash":
        made = draw(blocks, block, heads, size, dtype=kind), draw(blocks, block, heads, value_size, dtype=kind)
    elif layout == "heads first":
        made = tuple(
            draw(blocks, heads, block, n, dtype=kind).transpose(1, 2)
            for n in (size, value_size)  # a view of the other order
        )
    else:  # both in one tensor, block by block
        both = draw(blocks, 2, block, heads, size, dtype=kind)
        both = both if dtype != torch.uint8 else both.to(torch.uint8)
        return both[:, 0], both[:, 1]
    return tuple(c if dtype != torch.uint8 else (c * 50).to(torch.uint8) for c in made)


@settings(max_examples=50, deadline=None)
@given(
    layout=st.sampled_from(["paged", "flash", "heads first", "together"]),
    tokens=st.sampled_from([0, 1, 3, 11]),
    heads=st.sampled_from([1, 2, 3]),
    sizes=st.sampled_from([(64, 64), (16, 32), (80, 80), (12, 5), (3, 3)]),
    dtype=st.sampled_from(HALVES),
    word=st.sampled_from(["auto", "auto", *FP8]),
    narrow=st.booleans(),
    fused_rows=st.booleans(),
)
def test_values(
    layout: str,
    tokens: int,
    heads: int,
    sizes: tuple[int, int],
    dtype: torch.dtype,
    word: str,
    narrow: bool,
    fused_rows: bool,
) -> None:
    size, value_size = sizes if layout != "together" else (sizes[0], sizes[0])
    key, value = draw(tokens, heads, size, dtype=dtype) * 9, draw(tokens, heads, value_size, dtype=dtype, seed=1) * 9
    if fused_rows and size == value_size:
        key, value = torch.cat((key, value, value), 1).split((heads, heads, heads), 1)[:2]
    caches = make_caches(layout, heads, size, value_size, dtype if word == "auto" else torch.uint8)
    mapping = slots(tokens, 20, torch.int32 if narrow else torch.int64)
    function = fused.reshape_and_cache if layout == "paged" else fused.reshape_and_cache_flash
    put = paged if layout == "paged" else rows
    assert_cached(function, put, (key, value), caches, mapping, word, (0.75, 2.5))


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.sampled_from([0, 1, 11]),
    sizes=st.sampled_from([(512, 64), (12, 5), (8, 3)]),
    dtype=st.sampled_from(HALVES),
    word=st.sampled_from(["auto", *FP8]),
    sliced=st.booleans(),
)
def test_latent_rows(tokens: int, sizes: tuple[int, int], dtype: torch.dtype, word: str, sliced: bool) -> None:
    both = draw(tokens, sum(sizes) + 1, dtype=dtype)
    kv_c, k_pe = both[:, : sizes[0]], both[:, sizes[0] : sum(sizes)]
    if not sliced:
        kv_c, k_pe = kv_c.contiguous(), k_pe.contiguous()
    cache = draw(5, 4, sum(sizes), dtype=dtype)
    cache = cache if word == "auto" else (cache * 50).to(torch.uint8)
    mapping, expected = slots(tokens, 20), cache.clone()
    for token, slot in enumerate(mapping.tolist()):
        if slot >= 0:
            rows(expected, slot, stored(both[token, : sum(sizes)], word, 0.5, cache))
    fused.concat_and_cache_mla(kv_c, k_pe, cache, mapping, word, torch.tensor(0.5, device=DEVICE))
    assert torch.equal(bits(cache), bits(expected))


def test_every_value_of_a_half_to_fp8() -> None:
    """Ties, small numbers, infinities that saturate, NaN: as torch rounds what was clamped."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = every.view(dtype).view(-1, 1, 64).to(DEVICE)
        for word, kind in FP8.items():
            zeros = torch.zeros(64, 16, 1, 64, dtype=torch.uint8, device=DEVICE)
            cache = zeros, zeros.view(kind).clone()
            mapping = torch.arange(1024, device=DEVICE)
            with pytest.raises(RuntimeError, match="different dtypes"):
                fused.reshape_and_cache_flash(x, x, *cache, mapping, word, 1.0, None)
            same = cache[0], cache[0].clone()
            fused.reshape_and_cache_flash(x, x, *same, mapping, word, 1.0, None)
            made, wanted = (t.view(kind).float().flatten() for t in (same[0], stored(x, word, 1.0, same[0])))
            torch.testing.assert_close(made, wanted, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(same[0], same[1])
            typed = torch.zeros_like(same[0]).view(kind), torch.zeros_like(same[0]).view(kind)
            fused.reshape_and_cache_flash(x, x, *typed, mapping, word, None, 1.0)
            assert torch.equal(typed[0].view(torch.uint8), same[0])


def test_padding_behind_the_slots_is_not_written() -> None:
    key, value = draw(7, 2, 8), draw(7, 2, 8, seed=1)
    caches = make_caches("flash", 2, 8, 8, torch.float32)
    expected = [c.clone() for c in caches]
    fused.reshape_and_cache_flash(key, value, *caches, slots(4, 20)[:2], "auto", None, None)
    for x, cache, wanted in zip((key, value), caches, expected, strict=True):
        for token, slot in enumerate(slots(4, 20)[:2].tolist()):
            rows(wanted, slot, x[token])
        assert torch.equal(cache, wanted)


def test_another_dtype_is_cast() -> None:
    key, value = draw(4, 2, 8), draw(4, 2, 8, seed=1)
    assert_cached(
        fused.reshape_and_cache_flash,
        rows,
        (key, value),
        make_caches("flash", 2, 8, 8, torch.bfloat16),
        slots(4, 20),
        "auto",
        (1.0, 1.0),
    )


@pytest.mark.parametrize("layout", ["dims outermost", "stepped", "offset", "expanded"])
def test_strided_rows(layout: str) -> None:
    change = {
        "dims outermost": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
        "stepped": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
        "offset": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
        "expanded": lambda x: x[:, :1].expand(x.shape),
    }[layout]
    key, value = (change(draw(6, 3, 32, dtype=torch.bfloat16, seed=s)) for s in (0, 1))
    for kind, function, put in (
        ("paged", fused.reshape_and_cache, paged),
        ("flash", fused.reshape_and_cache_flash, rows),
    ):
        for word, dtype in (("auto", torch.bfloat16), ("fp8", torch.uint8)):
            caches = make_caches(kind, 3, 32, 32, dtype)
            assert_cached(function, put, (key, value), caches, slots(12, 20)[::2], word, (2.0, 3.0))


def test_offsets_beyond_32_bits() -> None:
    """Two far pages of one memory are touched, no more."""
    memory = torch.empty(2**31 + 4096, dtype=torch.float16, device=DEVICE)
    caches = [memory.as_strided((2, 4, 2, 16), (2**31, 32, 16, 1), at) for at in (0, 1024)]
    key, value = draw(2, 2, 16, dtype=torch.float16), draw(2, 2, 16, dtype=torch.float16, seed=1)
    fused.reshape_and_cache_flash(key, value, *caches, torch.tensor([6, 1], device=DEVICE), "auto", None, None)
    for x, cache in zip((key, value), caches, strict=True):
        assert torch.equal(cache[1, 2], x[0]) and torch.equal(cache[0, 1], x[1])


def test_arrays_of_numpy() -> None:
    key, caches = np.arange(64, dtype=np.float32).reshape(2, 2, 16), [np.zeros((2, 4, 2, 16), np.float32)] * 2
    caches = [cache.copy() for cache in caches]
    if DEVICE == "cpu":
        fused.reshape_and_cache_flash(key, key, *caches, np.array([6, -1]), "auto", None, None)
        assert all((cache[1, 2] == key[0]).all() and np.count_nonzero(cache) == 31 for cache in caches)


def test_wrong_arguments() -> None:
    key, value, mapping = draw(4, 2, 8), draw(4, 2, 8, seed=1), slots(4, 20)
    caches = make_caches("flash", 2, 8, 8, torch.float32)
    kept = [c.clone() for c in caches]
    for args, text in (
        ((key, value, *caches, mapping, "int8"), "kv_cache_dtype"),
        ((key, value, *caches, mapping, "fp8"), "an fp8 cache"),
        ((key, value.double(), *caches, mapping, "auto"), "rows of different"),
        ((key, value, caches[0], caches[0], mapping, "auto"), "shares memory"),
        ((key, value, *caches, slots(9, 20), "auto"), "more slots"),
        ((key, value, *caches, mapping.float(), "auto"), "slot_mapping"),
        ((key[:, :1], value, *caches, mapping, "auto"), "differ in"),
        ((key[:, :, :4], value[:, :, :4], *caches, mapping, "auto"), "caches are"),
    ):
        with pytest.raises(RuntimeError, match=text):
            fused.reshape_and_cache_flash(*args, None, None)
    if DEVICE == "cpu":  # a GPU's context ends by the assertion
        with pytest.raises(IndexError, match=r"slot \d+ is out of range"):
            fused.reshape_and_cache_flash(key, value, *caches, mapping + 20, "auto", None, None)
    assert all(torch.equal(a, b) for a, b in zip(caches, kept, strict=True))
    with pytest.raises(RuntimeError, match="no gradient"):
        fused.reshape_and_cache_flash(key.requires_grad_(), value, *caches, mapping, "auto", None, None)


@pytest.mark.parametrize("name", ["reshape_and_cache", "reshape_and_cache_flash", "concat_and_cache_mla"])
def test_opcheck(name: str) -> None:
    if name == "concat_and_cache_mla":
        args = (draw(4, 16), draw(4, 8), draw(5, 4, 24), slots(4, 20), "auto", torch.ones((), device=DEVICE))
    else:
        caches = make_caches("paged" if name == "reshape_and_cache" else "flash", 2, 8, 8, torch.float32)
        args = (draw(4, 2, 8), draw(4, 2, 8), *caches, slots(4, 20), "auto")
    torch.library.opcheck(getattr(OPS, name), args)
    written = args[2]
    before = written._version
    getattr(OPS, name)(*args)
    assert written._version == before + 1


def test_compile() -> None:
    key, value, mapping = draw(4, 2, 8), draw(4, 2, 8, seed=1), slots(4, 20)

    def function(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor) -> Tensor:
        fused.reshape_and_cache_flash(key * 2, value, key_cache, value_cache, mapping, "auto", None, None)
        return key_cache.sum() + value_cache.sum()

    results = []
    for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        caches = make_caches("flash", 2, 8, 8, torch.float32)
        results.append((run(key, value, *caches), *caches))
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
    torch.compiler.reset()


@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_nvrtc_without_spills(arch: str) -> None:
    for dtype in ("bfloat16", "float32"):
        reports = warm.compile_item(warm.Item("cuda", arch, "reshape_and_cache_flash", dtype))
        assert len(reports) == 3
        for report in reports:
            assert report["error"] is None and report["spill_bytes"] == 0 and report["registers"] <= 64, report


def test_machine_code() -> None:
    """Whole vectors are read and written, of a cache of bytes as well."""
    for i, loads in ((0, 1), (1, 2)):
        text = _C.program_text("reshape_and_cache_flash", "bfloat16", i, "sm_90a", "cuda")
        found = sass.kernels(text, ["kv_cache"], "sm_90a")["kv_cache"]
        assert found.count("LDG.E.128") >= loads and found.has("STG.E.128"), found.opcodes
        assert not found.has("LDL") and not found.has("STL")


def main() -> int:
    """Small calls of every program."""
    torch.set_num_threads(1)
    for dtype in (torch.bfloat16, torch.float32):
        for size in (64, 12):
            key, value = draw(7, 2, size, dtype=dtype) * 9, draw(7, 2, size, dtype=dtype, seed=1) * 9
            for word in ("auto", "fp8", "fp8_e5m2"):
                for layout in ("paged", "flash", "together"):
                    caches = make_caches(layout, 2, size, size, dtype if word == "auto" else torch.uint8)
                    function = fused.reshape_and_cache if layout == "paged" else fused.reshape_and_cache_flash
                    put = paged if layout == "paged" else rows
                    assert_cached(function, put, (key, value), caches, slots(7, 20), word, (0.75, 2.5))
    kv_c, k_pe, cache = draw(7, 32), draw(7, 12), draw(5, 4, 44)
    expected = cache.clone()
    for token, slot in enumerate(slots(7, 20).tolist()):
        if slot >= 0:
            rows(expected, slot, torch.cat((kv_c, k_pe), -1)[token])
    fused.concat_and_cache_mla(kv_c, k_pe, cache, slots(7, 20), "auto", None)
    assert torch.equal(cache, expected)
    return 0


@EVERY_THREAD
def test_with_every_thread_of_a_block(mode: str, order: str) -> None:
    run_in_mode(mode, order, __file__, seconds=600)


if __name__ == "__main__":
    sys.exit(main())
