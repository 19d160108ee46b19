"""Rotary embeddings beside plain torch in float64."""

from __future__ import annotations

import inspect
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
from compare import FLOATS, counts
from cpu_modes import EVERY_THREAD, run_in_mode

DEVICE = flag_gems.device
OPS = torch.ops.flag_gems
rotate = fused.apply_rotary_pos_emb


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def places(*shape: int, most: int, dtype: torch.dtype = torch.int64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, most, shape, generator=generator).to(dtype).to(DEVICE)


def plain(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool) -> Tensor:
    """As models write it: x * cos + rotate_half(x) * sin."""
    if positions is None:
        positions = torch.arange(x.shape[-3], device=x.device)
    if positions.dim() < x.dim() - 2:
        positions = positions.expand(x.shape[:-2])
    c, s = cos[positions.long()].unsqueeze(-2), sin[positions.long()].unsqueeze(-2)
    turning = 2 * c.shape[-1]
    head, rest = x[..., :turning], x[..., turning:]
    if interleaved:
        c, s = c.repeat_interleave(2, -1), s.repeat_interleave(2, -1)
        other = torch.stack((-head[..., 1::2], head[..., ::2]), -1).flatten(-2)
    else:
        c, s = torch.cat((c, c), -1), torch.cat((s, s), -1)
        other = torch.cat((-head[..., turning // 2 :], head[..., : turning // 2]), -1)
    return torch.cat((head * c + other * s, rest), -1)


def assert_turned(made: tuple[Tensor, Tensor], given_: tuple[Tensor, Tensor], *rest: Any) -> None:
    """Within a rounding of the dtype of the float64 result."""
    cos, sin, positions, interleaved = rest
    for new, old in zip(made, given_, strict=True):
        expected = plain(old.double(), cos.double(), sin.double(), positions, interleaved)
        assert new.dtype == old.dtype and new.shape == old.shape
        eps = torch.finfo(old.dtype).eps
        torch.testing.assert_close(new.double(), expected, rtol=eps, atol=2 * eps)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.sampled_from([None, 1, 3]),
    seq=st.sampled_from([0, 1, 2, 7, 33]),
    heads=st.tuples(st.sampled_from([0, 1, 3, 8]), st.sampled_from([1, 2, 5])),
    dims=st.sampled_from([(128, 64), (64, 16), (64, 32), (80, 20), (10, 3), (7, 1), (2, 1), (5, 0)]),
    dtype=st.sampled_from(FLOATS),
    wide_angles=st.booleans(),
    kind=st.sampled_from(["none", "each", "each int32", "shared"]),
    interleaved=st.booleans(),
)
def test_values(
    batch: int | None,
    seq: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    dtype: torch.dtype,
    wide_angles: bool,
    kind: str,
    interleaved: bool,
) -> None:
    lead = (seq,) if batch is None else (batch, seq)
    angles = torch.float32 if wide_angles else dtype
    q, k = draw(*lead, heads[0], dims[0], dtype=dtype), draw(*lead, heads[1], dims[0], dtype=dtype, seed=1)
    cos, sin = draw(40, dims[1], dtype=angles, seed=2), draw(40, dims[1], dtype=angles, seed=3)
    positions = {
        "none": None,
        "each": places(*lead, most=40),
        "each int32": places(*lead, most=40, dtype=torch.int32),
        "shared": places(seq, most=40),
    }[kind]
    before = counts("flag_gems::rotary_embedding")["kernel"]
    made = rotate(q, k, cos, sin, positions, interleaved)
    assert counts("flag_gems::rotary_embedding")["kernel"] == before + 1
    assert_turned(made, (q, k), cos, sin, positions, interleaved)
    for new, old in zip(made, (q, k), strict=True):
        assert new.stride() == torch.empty_like(old).stride()
    mine = q.clone(), k.clone()
    given_back = rotate(*mine, cos, sin, positions, interleaved, inplace=True)
    assert given_back[0] is mine[0] and given_back[1] is mine[1]
    assert torch.equal(mine[0], made[0]) and torch.equal(mine[1], made[1])


LAYOUTS = {
    "of a fused projection": lambda x: torch.cat((x, x, x), -2)[..., x.shape[-2] : 2 * x.shape[-2], :],
    "heads before the sequence": lambda x: x.transpose(-2, -3).contiguous().transpose(-2, -3),
    "dims outermost": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "stepped": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "offset": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
    "expanded": lambda x: x[..., :1, :].expand(x.shape),
    "wide rows": lambda x: torch.cat((x, x[..., :1]), -1)[..., :-1],
}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layouts(layout: str, interleaved: bool, dtype: torch.dtype) -> None:
    q, k = draw(2, 9, 4, 32, dtype=dtype), draw(2, 9, 2, 32, dtype=dtype, seed=1)
    cos, sin = draw(9, 12, dtype=dtype, seed=2), draw(9, 12, dtype=dtype, seed=3)
    positions = places(9, 2, most=9).t()
    q, k = LAYOUTS[layout](q), LAYOUTS[layout](k)
    made = rotate(q, k, cos[:, :8], sin[:, :8], positions, interleaved)
    assert_turned(made, (q, k), cos[:, :8], sin[:, :8], positions, interleaved)
    for new, old in zip(made, (q, k), strict=True):
        assert new.stride() == torch.empty_like(old).stride()
    if layout == "expanded":
        with pytest.raises(RuntimeError, match="overlaps itself"):
            rotate(q, k, cos, sin, inplace=True)
        return
    expected = [x.clone() for x in rotate(q, k, cos, sin, None, interleaved)]
    rotate(q, k, cos, sin, None, interleaved, inplace=True)
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])


@pytest.mark.parametrize("interleaved", [False, True])
def test_in_place_in_a_fused_projection(interleaved: bool) -> None:
    """q and k take turns in one memory; what lies beside them stays."""
    qkv = draw(2, 5, 8 * 16, dtype=torch.float32)
    kept = qkv.clone()
    q, k, v = (t.view(2, 5, -1, 16) for t in qkv.split((4 * 16, 2 * 16, 2 * 16), -1))
    cos, sin = draw(7, 8, dtype=torch.float32, seed=2), draw(7, 8, dtype=torch.float32, seed=3)
    expected = rotate(q, k, cos, sin, None, interleaved)
    rotate(q, k, cos, sin, None, interleaved, inplace=True)
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])
    assert torch.equal(v, kept.split((64, 32, 32), -1)[2].view(v.shape))
    heads = draw(2, 6, 5, 16, dtype=torch.float32)  # heads before the sequence
    q, k = heads[:, :4].transpose(1, 2), heads[:, 4:].transpose(1, 2)
    expected = rotate(q, k, cos, sin, None, interleaved)
    rotate(q, k, cos, sin, None, interleaved, inplace=True)
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("placed", [False, True])
def test_gradients(interleaved: bool, placed: bool) -> None:
    q, k = draw(2, 3, 2, 6).requires_grad_(), draw(2, 3, 1, 6, seed=1).requires_grad_()
    cos, sin = draw(5, 2, seed=2), draw(5, 2, seed=3)
    positions = places(2, 3, most=5) if placed else None

    def function(q: Tensor, k: Tensor) -> Any:
        return rotate(q, k, cos, sin, positions, interleaved)

    assert torch.autograd.gradcheck(function, (q, k))
    assert torch.autograd.gradgradcheck(function, (q, k))
    angles = cos.clone().requires_grad_(), sin.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: rotate(*a, positions, interleaved), (q, k, *angles))
    made, wanted = function(q, k), [plain(x, cos, sin, positions, interleaved) for x in (q, k)]
    found = torch.autograd.grad(made[0].sum() + made[1].sum(), (q, k))  # gradients that are expanded
    for grad, want in zip(found, torch.autograd.grad(wanted[0].sum() + wanted[1].sum(), (q, k)), strict=True):
        torch.testing.assert_close(grad, want)


def test_one_kernel_each_way() -> None:
    q, k = draw(2, 3, 2, 8).requires_grad_(), draw(2, 3, 1, 8, seed=1).requires_grad_()
    flag_gems.reset_stats()
    made = rotate(q, k, draw(5, 4), draw(5, 4))
    torch.autograd.grad(made, (q, k), (torch.ones_like(q), torch.ones_like(k)))
    assert {name: c["kernel"] for name, c in flag_gems.stats().items()} == {
        "flag_gems::rotary_embedding": 1,
        "flag_gems::rotary_embedding_backward": 1,
    }


def test_in_place_keeps_gradients() -> None:
    q, k = draw(2, 3, 2, 8).requires_grad_(), draw(2, 3, 1, 8, seed=1).requires_grad_()
    cos, sin = draw(5, 4, seed=2), draw(5, 4, seed=3)
    made = rotate(q * 2, k * 2, cos, sin, inplace=True)
    grad = torch.autograd.grad(made[0].square().sum(), q)[0]
    wanted = torch.autograd.grad(plain(q * 2, cos, sin, None, False).square().sum(), q)[0]
    torch.testing.assert_close(grad, wanted)
    with pytest.raises(RuntimeError, match="leaf"):
        rotate(q, k, cos, sin, inplace=True)
    with pytest.raises(RuntimeError, match="gradient"):
        OPS.rotary_embedding_inplace(q * 2, k * 2, cos, sin)


@pytest.mark.parametrize("direct", [True, False])
def test_in_place_bumps_versions(direct: bool) -> None:
    q, k = draw(3, 2, 8), draw(3, 1, 8)
    before = q._version, k._version
    if direct:
        rotate(q, k, draw(5, 4), draw(5, 4), inplace=True)
    else:
        assert OPS.rotary_embedding_inplace(q, k, draw(5, 4), draw(5, 4)) is None
    assert (q._version, k._version) == (before[0] + 1, before[1] + 1)


def test_angles_that_want_gradients_say_so() -> None:
    q, k, cos, sin = draw(3, 2, 8), draw(3, 1, 8), draw(5, 4).requires_grad_(), draw(5, 4)
    made = OPS.rotary_embedding(q, k, cos, sin)
    with pytest.raises(RuntimeError, match="no gradient in cos"):
        made[0].sum().backward()


@pytest.mark.parametrize("interleaved", [False, True])
def test_opcheck(interleaved: bool) -> None:
    q, k = draw(2, 3, 2, 8, dtype=torch.float32), draw(2, 3, 1, 8, dtype=torch.float32)
    cos, sin = draw(5, 4, dtype=torch.float32), draw(5, 4, dtype=torch.float32)
    rest = (cos, sin, places(2, 3, most=5), interleaved)
    torch.library.opcheck(OPS.rotary_embedding, (q.requires_grad_(), k.requires_grad_(), *rest))
    turned = draw(2, 2, 3, 8, dtype=torch.float32).transpose(1, 2)
    torch.library.opcheck(OPS.rotary_embedding, (turned, turned[:, :, :1], cos, sin))
    torch.library.opcheck(OPS.rotary_embedding_backward, (q, k, *rest))
    torch.library.opcheck(OPS.rotary_embedding_inplace, (q.detach(), k.detach(), *rest))


def test_compile() -> None:
    q, k = draw(2, 3, 2, 8, dtype=torch.float32), draw(2, 3, 1, 8, dtype=torch.float32)
    cos, sin = draw(5, 4, dtype=torch.float32), draw(5, 4, dtype=torch.float32)

    def function(q: Tensor, k: Tensor) -> Any:
        q, k = rotate(q * 1, k * 1, cos, sin, inplace=True)
        return rotate(q, k, cos, sin, None, True)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for mine, theirs in zip(compiled(q, k), function(q, k), strict=True):
        assert torch.equal(mine, theirs)
    torch.compiler.reset()


def test_more_dimensions_and_arrays() -> None:
    q, k = draw(2, 3, 4, 2, 8), draw(2, 3, 4, 1, 8, seed=1)
    cos, sin = draw(5, 4, seed=2), draw(5, 4, seed=3)
    positions = places(2, 3, 4, most=5)
    for chosen in (None, positions):
        assert_turned(rotate(q, k, cos, sin, chosen), (q, k), cos, sin, chosen, False)
    if DEVICE == "cpu":
        arrays = [t.numpy().astype(np.float32) for t in (q[0], k[0], cos, sin)]
        made = rotate(*arrays)
        expected = rotate(*map(torch.from_numpy, arrays))
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize("interleaved", [False, True])
def test_offsets_beyond_32_bits(interleaved: bool) -> None:
    """Two far pages of one memory are touched, no more."""
    memory = torch.empty(2**31 + 4096, dtype=torch.float16, device=DEVICE)
    q, k = (memory.as_strided((2, 2, h, 16), (2**31, 64, 16, 1), at) for h, at in ((3, 0), (1, 48)))
    q.copy_(draw(2, 2, 3, 16))
    k.copy_(draw(2, 2, 1, 16, seed=1))
    cos, sin = draw(4, 8, dtype=torch.float32, seed=2), draw(4, 8, dtype=torch.float32, seed=3)
    wanted = rotate(q.contiguous(), k.contiguous(), cos, sin, None, interleaved)
    made = rotate(q, k, cos, sin, None, interleaved)
    assert all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))
    rotate(q, k, cos, sin, None, interleaved, inplace=True)
    assert torch.equal(q, wanted[0]) and torch.equal(k, wanted[1])


def test_wrong_arguments() -> None:
    q, k, cos, sin = draw(3, 2, 8), draw(3, 1, 8), draw(5, 4), draw(5, 4)
    for args, text in (
        ((q, k.float(), cos, sin), "different dtypes"),
        ((q, draw(4, 1, 8), cos, sin), "differ in more"),
        ((q, k, draw(5, 5), draw(5, 5)), "rotary dim beyond"),
        ((q, k, cos, draw(4, 4)), "cos and sin"),
        ((q, k, cos[:2], sin[:2]), "longer than cos"),
        ((q, k, cos, sin, places(4, most=3)), "another shape"),
        ((q.int(), k.int(), cos, sin), "dtype"),
        ((q[0], k[0], cos, sin), "q and k are"),
    ):
        kept = [t.clone() for t in args[:2]]
        for inplace in (False, True):
            with pytest.raises(RuntimeError, match=text):
                rotate(*args, inplace=inplace)
        assert all(torch.equal(a, b) for a, b in zip(args[:2], kept, strict=True))
    with pytest.raises(RuntimeError, match="shares memory"):
        rotate(q, q, cos, sin, inplace=True)
    if DEVICE == "cpu":  # a GPU's context ends by the assertion
        for position in (5, -1):
            with pytest.raises(IndexError, match="out of range"):
                rotate(q, k, cos, sin, torch.tensor([0, position, 1]))


@pytest.mark.parametrize("name", ["rotary_embedding", "rotary_embedding_backward", "rotary_embedding_inplace"])
@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_nvrtc_without_spills(name: str, arch: str) -> None:
    dtypes = ("bfloat16", "float32") if name == "rotary_embedding" else ("bfloat16",)
    for dtype in dtypes:
        reports = warm.compile_item(warm.Item("cuda", arch, name, dtype))
        assert reports
        for report in reports:
            assert report["error"] is None and report["spill_bytes"] == 0 and report["registers"] <= 96, report


def test_machine_code() -> None:
    """Both layouts read and write whole vectors alone; the angles too, as far as they fill one."""
    for i, loads in ((0, 6), (1, 4)):
        text = _C.program_text("rotary_embedding", "bfloat16", i, "sm_90a", "cuda")
        found = sass.kernels(text, ["rope"], "sm_90a")["rope"]
        assert found.count("LDG.E.128") >= loads and found.count("STG.E.128") >= 4, found.opcodes
        assert found.count("LDG.E.U16") == found.count("STG.E.U16") == 0, found.opcodes
        assert not found.has("LDL") and not found.has("STL")


def test_machine_code_of_wide_offsets() -> None:
    """Offsets of 64 bits need no more memory accesses, and no local memory."""
    text = _C.program_text("rotary_embedding", "bfloat16", 2, "sm_90a", "cuda")
    assert "typedef int32_t Index;" in text
    found = sass.kernels(text.replace("typedef int32_t Index;", "typedef int64_t Index;"), ["rope"], "sm_90a")["rope"]
    assert found.spill_bytes == 0 and found.count("LDG.E.128") >= 6 and found.registers <= 128, found


def test_names_and_signatures() -> None:
    """What programs call by keyword; the functions stand at the package's top level too."""
    wanted = {
        "apply_rotary_pos_emb": "q k cos sin position_ids rotary_interleaved inplace",
        "reshape_and_cache": "key value key_cache value_cache slot_mapping kv_cache_dtype k_scale v_scale",
        "reshape_and_cache_flash": "key value key_cache value_cache slot_mapping kv_cache_dtype k_scale v_scale",
        "concat_and_cache_mla": "kv_c k_pe kv_cache slot_mapping kv_cache_dtype scale",
        "per_token_group_quant_fp8": "x group_size eps dtype column_major_scales scale_ue8m0",
    }
    for name, parameters in wanted.items():
        function = getattr(flag_gems, name)
        assert function is getattr(fused, name) and list(inspect.signature(function).parameters) == parameters.split()
        assert function.__doc__


def main() -> int:
    """Small calls of every program; their results are compared with float64."""
    torch.set_num_threads(1)
    for dtype, size, half in ((torch.bfloat16, 32, 8), (torch.float32, 10, 3)):
        for interleaved in (False, True):
            q, k = draw(2, 5, 5, size, dtype=dtype), draw(2, 5, 2, size, dtype=dtype, seed=1)
            cos, sin = draw(9, half, dtype=dtype, seed=2), draw(9, half, dtype=dtype, seed=3)
            positions = places(2, 5, most=9)
            for chosen in (None, positions):
                made = rotate(q, k, cos, sin, chosen, interleaved)
                assert_turned(made, (q, k), cos, sin, chosen, interleaved)
            both = torch.cat((q, k), -2)
            mine = both[:, :, :5], both[:, :, 5:]
            rotate(*mine, cos, sin, positions, interleaved, inplace=True)
            assert torch.equal(mine[0], made[0]) and torch.equal(mine[1], made[1])
            strided, few = q.transpose(2, 3)[..., :5], (cos[:, :2], sin[:, :2])
            assert_turned(rotate(strided, strided, *few), (strided, strided), *few, None, False)
    return 0


@EVERY_THREAD
def test_with_every_thread_of_a_block(mode: str, order: str) -> None:
    run_in_mode(mode, order, __file__, seconds=600)


if __name__ == "__main__":
    sys.exit(main())
