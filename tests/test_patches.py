"""Patches for vLLM, beside stand-ins for it with the schemas of old and new versions; vLLM itself has not been run."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import patches
from flag_gems.patches import vllm_methods, vllm_operators
from flag_gems.patches.vllm_versions import UnfitError, adapted
from torch import Tensor, nn

from test_rope import draw, plain

HERE = Path(__file__).resolve().parent
DEVICE = flag_gems.device


class Original(Exception):
    """vLLM's own code was run."""


def original(*args: Any, **kwargs: Any) -> Any:
    raise Original


def stand_in(name: str, methods: dict[str, Any]) -> type:
    return type(name, (), methods)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A vLLM with the classes that are patched, by name."""
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    found: dict[str, Any] = {}
    for method in vllm_methods.METHODS:
        module = sys.modules.get(method.modules[0]) or ModuleType(method.modules[0])
        monkeypatch.setitem(sys.modules, method.modules[0], module)
        own = staticmethod(original) if method.owner == "PagedAttention" else original
        if method.owner in found:
            setattr(found[method.owner], method.name, own)
        elif method.owner:
            found[method.owner] = stand_in(method.owner, {method.name: own})
            setattr(module, method.owner, found[method.owner])
        else:
            module.vit_xformers_attn_wrapper = original  # type: ignore[attr-defined]
            found["vit"] = module
    yield found


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """[tokens, heads, size] over [keys, heads of keys, size]; the last token is at the last key."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        seen = torch.ones(q.shape[0], k.shape[0], device=q.device).tril(k.shape[0] - q.shape[0]).bool()
        scores = scores.masked_fill(~seen, -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def varlen(q: Tensor, k: Tensor, v: Tensor, max_q: int, starts: Tensor, max_k: int, **named: Any) -> Tensor:
    """What flash_attn_varlen_func does, as far as patches use it."""
    made = torch.empty_like(q)
    scale = named.get("softmax_scale") or q.shape[-1] ** -0.5
    for i in range(starts.numel() - 1):
        rows = slice(int(starts[i]), int(starts[i + 1]))
        if named.get("block_table") is not None:
            length = int(named["seqused_k"][i])
            keys, values = (t[named["block_table"][i].long()].flatten(0, 1)[:length] for t in (k, v))
        else:
            keys, values = k[rows], v[rows]
        made[rows] = attention(q[rows], keys, values, scale, named.get("causal", False))
    return made


def latent_attention(q: Tensor, table: Tensor, cache: Tensor, *rest: Any) -> Tensor:
    """What flash_mla does."""
    lengths, wide = rest[4], rest[8]
    made = []
    for i in range(q.shape[0]):
        rows = cache[table[i].long()].flatten(0, 1)[: int(lengths[i])]
        made.append(attention(q[i], rows, rows[..., :wide], q.shape[-1] ** -0.5, True))
    return torch.stack(made)


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of other parts of the package, in plain torch."""

    def rms(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float = 1e-6) -> Any:
        if residual is None:
            return torch.rms_norm(x, list(weight.shape), weight, eps)
        residual.add_(x)
        x.copy_(torch.rms_norm(residual, list(weight.shape), weight, eps))
        return x, residual

    for name, function in (("flash_attn_varlen_func", varlen), ("flash_mla", latent_attention)):
        monkeypatch.setattr(flag_gems, name, function, raising=False)
    if not hasattr(flag_gems.modules, "gems_rms_forward"):
        monkeypatch.setattr(flag_gems.modules, "gems_rms_forward", rms, raising=False)


def test_without_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("vllm"):
        return
    assert flag_gems.apply_gems_patches_to_vllm() == {}
    assert "not importable" in capsys.readouterr().out
    assert flag_gems.apply_gems_patches_to_vllm(verbose=False) == {}
    assert capsys.readouterr().out == ""


def test_report(vllm: dict[str, Any], functions: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row is said to be replaced, or why not; a second time nothing changes."""
    found = patches.apply_gems_patches_to_vllm()
    titles = {m.title for m in vllm_methods.METHODS} | {o.title for o in vllm_operators.OPERATORS}
    assert set(found) == titles and len(titles) == 24
    assert all(found[m.title] == "replaced" for m in vllm_methods.METHODS)
    text = capsys.readouterr().out
    assert "torch.ops._C.silu_and_mul was not replaced: this vLLM has none" in text
    assert all(title in text for title in titles)
    held = vllm["RMSNorm"].forward_cuda
    assert patches.apply_gems_patches_to_vllm(verbose=False) == found
    assert vllm["RMSNorm"].forward_cuda is held and capsys.readouterr().out == ""


def test_what_is_missing_is_reported(vllm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flag_gems, "silu_and_mul")
    del sys.modules["vllm.model_executor.layers.layernorm"].RMSNorm  # type: ignore[attr-defined]
    found = patches.apply_gems_patches_to_vllm(verbose=False)
    assert found["SiluAndMul.forward_cuda"] == "flag_gems has no silu_and_mul"
    assert found["RotaryEmbedding.forward_cuda"] == "replaced"
    assert found["RMSNorm.forward_cuda"] != "replaced"
    with pytest.raises(Original):
        vllm["SiluAndMul"]().forward_cuda(draw(2, 4))


def test_layers(vllm: dict[str, Any], functions: None) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    x, weight = draw(3, 8, dtype=torch.float32), draw(8, dtype=torch.float32, seed=1)
    gate = vllm["SiluAndMul"]()
    torch.testing.assert_close(gate.forward_cuda(x), nn.functional.silu(x[:, :4]) * x[:, 4:])
    norm = vllm["RMSNorm"]()
    norm.weight, norm.variance_epsilon = nn.Parameter(weight), 1e-5
    torch.testing.assert_close(norm.forward_cuda(x), torch.rms_norm(x, [8], weight, 1e-5))
    residual, mine = draw(3, 8, dtype=torch.float32, seed=2), x.clone()
    total = x + residual
    with torch.no_grad():
        made = norm.forward_cuda(mine, residual)
    torch.testing.assert_close(made[0], torch.rms_norm(total, [8], weight, 1e-5))
    torch.testing.assert_close(made[1], total)
    norm.variance_size_override = 4
    with pytest.raises(Original):
        norm.forward_cuda(x)


@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_rotary_embedding(vllm: dict[str, Any], neox: bool, batched: bool) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    rope = vllm["RotaryEmbedding"]()
    rope.head_size, rope.rotary_dim, rope.is_neox_style = 16, 8, neox
    cos, sin = draw(20, 4, dtype=torch.float32, seed=2), draw(20, 4, dtype=torch.float32, seed=3)
    rope.cos_sin_cache = torch.cat((cos, sin), -1)
    lead = (2, 3) if batched else (6,)
    positions = torch.tensor([4, 0, 19, 7, 7, 1], device=DEVICE).view(lead)
    qkv = draw(*lead, 6 * 16, dtype=torch.float32)
    kept = qkv.clone()
    query, key, value = qkv.split((48, 32, 16), -1)
    made = rope.forward_cuda(positions, query, key)
    assert made[0] is query and made[1] is key and torch.equal(value, kept[..., 80:])
    for new, old in zip(made, kept.split((48, 32, 16), -1), strict=False):
        expected = plain(old.unflatten(-1, (-1, 16)), cos, sin, positions, not neox)
        torch.testing.assert_close(new.unflatten(-1, (-1, 16)), expected)
    query, expected = kept[..., :48].clone(), made[0].clone()
    assert rope.forward_cuda(positions - 1, query, None, torch.ones_like(positions)) == (query, None)
    torch.testing.assert_close(query, expected)


def test_paged_cache(vllm: dict[str, Any]) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    key, value = draw(3, 2, 8, dtype=torch.float32), draw(3, 2, 8, dtype=torch.float32, seed=1)
    caches = torch.zeros(2, 2, 2, 4, 4, device=DEVICE), torch.zeros(2, 2, 8, 4, device=DEVICE)
    slots = torch.tensor([[5], [-1], [2]], device=DEVICE)
    vllm["PagedAttention"].write_to_paged_cache(key, value, *caches, slots, "auto", 1.0, 1.0)
    for token, slot in ((0, 5), (2, 2)):
        assert torch.equal(caches[0][slot // 4, :, :, slot % 4].flatten(1), key[token])
        assert torch.equal(caches[1][slot // 4, :, :, slot % 4], value[token])
    assert caches[0].count_nonzero() == 32
    write = vllm["PagedAttention"].write_to_paged_cache
    write(key, value, *caches, slots, "auto", 1.0, 1.0, False)  # as a later vLLM calls it
    with pytest.raises(Original):
        write(key, value, *caches, slots, "auto", 1.0, 1.0, True)
    with pytest.raises(Original):
        write(key, value, *caches, slots, "auto", 1.0, 1.0, False, "what no version has yet")


def decoder(**changed: Any) -> dict[str, Any]:
    plain_ones = {
        "kv_cache_dtype": "auto",
        "scale": 0.3,
        "sliding_window": (-1, -1),
        "alibi_slopes": None,
        "logits_soft_cap": 0,
        "attn_type": "decoder",
    }
    return plain_ones | changed


def test_flash_attention(vllm: dict[str, Any], functions: None) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    layer = vllm["FlashAttentionImpl"]()
    vars(layer).update(decoder())
    query = draw(6, 4, 8, dtype=torch.float32)
    key, value = draw(6, 2, 8, dtype=torch.float32, seed=1), draw(6, 2, 8, dtype=torch.float32, seed=2)
    cache = draw(2, 5, 4, 2, 8, dtype=torch.float32, seed=3)
    table = torch.tensor([[1, 3], [4, 0]], dtype=torch.int32, device=DEVICE)
    lengths = [6, 3]  # of which the last 3 and 2 are new
    places = [int(table[i, p // 4]) * 4 + p % 4 for i, new in ((0, (3, 4, 5)), (1, (1, 2))) for p in new]
    metadata = SimpleNamespace(
        num_actual_tokens=5,
        slot_mapping=torch.tensor([*places, -1], device=DEVICE),
        query_start_loc=torch.tensor([0, 3, 5], dtype=torch.int32, device=DEVICE),
        max_query_len=3,
        max_seq_len=6,
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        block_table=table,
        use_cascade=False,
    )
    output = torch.full((6, 32), 7.0, device=DEVICE)
    before = cache.clone()
    scales = SimpleNamespace(_k_scale=torch.ones((), device=DEVICE), _v_scale=torch.ones((), device=DEVICE))
    assert layer.forward(scales, query, key, value, cache, metadata, output) is output
    for i, rows in ((0, slice(0, 3)), (1, slice(3, 5))):
        keys, values = (c[table[i].long()].flatten(0, 1)[: lengths[i]] for c in cache)
        assert torch.equal(keys[-2:], key[rows][-2:]) and torch.equal(values[-2:], value[rows][-2:])
        expected = attention(query[rows], keys, values, 0.3, True)
        torch.testing.assert_close(output[rows].view(-1, 4, 8), expected)
    assert (output[5] == 7).all()
    # A later vLLM: keys and values of a head side by side, written by another method.
    joined = torch.cat((*cache,), -1).transpose(1, 2).contiguous()
    again, kept = torch.full_like(output, 7.0), joined.clone()
    layer.sliding_window = None
    assert layer.forward(scales, query, key, value, joined, metadata, again) is again
    assert torch.equal(again, output) and torch.equal(joined, kept) and not torch.equal(before, cache)
    layer.sliding_window = (-1, -1)
    for changed in ({"kv_cache_dtype": "fp8"}, {"attn_type": "encoder_only"}, {"sinks": draw(4)}):
        other = vllm["FlashAttentionImpl"]()
        vars(other).update(decoder(**changed))
        with pytest.raises(Original):
            other.forward(scales, query, key, value, cache, metadata, output)
    masks = ({"use_cascade": True}, {"causal": torch.ones(2)}, {"rswa_prefix_lens": torch.ones(2)})
    special = [(SimpleNamespace(**vars(metadata) | mask), output) for mask in masks]
    for args in ((None, output), (metadata, None), *special):
        with pytest.raises(Original):
            layer.forward(scales, query, key, value, cache, *args)


def test_batch_invariance(vllm: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM has kernels of its own for results that do not depend on what else is in a batch."""
    monkeypatch.setitem(sys.modules, "vllm.envs", SimpleNamespace(VLLM_BATCH_INVARIANT=True))
    assert patches.apply_gems_patches_to_vllm(verbose=False) == {}
    with pytest.raises(Original):
        vllm["SiluAndMul"]().forward_cuda(draw(2, 4))


@pytest.mark.parametrize("name", ["TritonMLAImpl", "FlashAttnMLAImpl"])
def test_latent_attention(vllm: dict[str, Any], functions: None, name: str) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    layer = vllm[name]()
    layer.kv_lora_rank, layer.scale, layer._v_up_proj = 8, 0.7, lambda o: o * 2
    q, cache = draw(2, 3, 12, dtype=torch.float32), draw(4, 4, 12, dtype=torch.float32, seed=1)
    decode = SimpleNamespace(
        block_table=torch.tensor([[2, 0], [1, 3]], dtype=torch.int32, device=DEVICE),
        seq_lens=torch.tensor([7, 2], dtype=torch.int32, device=DEVICE),
        max_query_len=1,
    )
    metadata = SimpleNamespace(decode=decode)
    if name == "TritonMLAImpl":
        made = layer._forward_decode(q[..., :8], q[..., 8:], cache, metadata) / 2
        with pytest.raises(Original):
            layer._forward_decode(q, cache, metadata, object())
    else:
        made = layer._forward_decode((q[..., :8], q[..., 8:]), cache, metadata, object())[0]
    later = layer.forward_mqa((q[..., :8], q[..., 8:]), cache, metadata, object())  # the name in a later vLLM
    torch.testing.assert_close(later[0], made)
    assert later[1] is None
    for i, length in enumerate((7, 2)):
        rows = cache[decode.block_table[i].long()].flatten(0, 1)[:length].unsqueeze(1)
        torch.testing.assert_close(made[i], attention(q[i : i + 1], rows, rows[..., :8], 0.7, True)[0])


def test_pictures(vllm: dict[str, Any], functions: None) -> None:
    patches.apply_gems_patches_to_vllm(verbose=False)
    q, k, v = (draw(1, 7, 2, 8, dtype=torch.float32, seed=s) for s in range(3))
    call = vllm["vit"].vit_xformers_attn_wrapper
    for lengths in ([4, 3], torch.tensor([4, 3])):
        made = call(q, k, v, lengths)
        assert made.shape == (7, 1, 16)
        for rows in (slice(0, 4), slice(4, 7)):
            expected = attention(q[0, rows], k[0, rows], v[0, rows], 8**-0.5, False)
            torch.testing.assert_close(made[rows].view(-1, 2, 8), expected)
    with pytest.raises(Original):
        call(q.expand(2, -1, -1, -1), k, v, [7])


# ---- operators: what is defined stays until the process ends, so each has one of its own ----


def empty() -> None:
    """No vLLM: its operators are defined."""
    found = patches.patch_empty_vllm()
    assert set(found.values()) == {"defined"} and len(found) == 14
    assert patches.patch_empty_vllm() == found
    x, out = draw(3, 8, dtype=torch.float32), torch.empty(3, 4, device=DEVICE)
    assert torch.ops._C.silu_and_mul(out, x) is None
    torch.testing.assert_close(out, nn.functional.silu(x[:, :4]) * x[:, 4:])
    weight, normed = draw(8, dtype=torch.float32, seed=1), torch.empty_like(x)
    torch.ops._C.rms_norm(normed, x, weight, 1e-5)
    torch.testing.assert_close(normed, torch.rms_norm(x, [8], weight, 1e-5))
    cache = torch.zeros(2, 4, 8, device=DEVICE)
    slots = torch.tensor([5, -1, 0], device=DEVICE)
    torch.ops._C_cache_ops.concat_and_cache_mla(x[:, :6], x[:, 6:], cache, slots, "auto", torch.ones((), device=DEVICE))
    assert torch.equal(cache[1, 1], x[0]) and torch.equal(cache[0, 0], x[2]) and cache.count_nonzero() == 16
    torch.library.opcheck(torch.ops._C.silu_and_mul.default, (out, x))
    args = (x[:, :6], x[:, 6:], cache, slots, "auto", torch.ones((), device=DEVICE))
    torch.library.opcheck(torch.ops._C_cache_ops.concat_and_cache_mla.default, args)
    wide = draw(4, 256, dtype=torch.bfloat16)
    values, scales = torch.empty_like(wide, dtype=torch.float8_e4m3fn), torch.empty(2, 4, device=DEVICE).t()
    torch.ops._C.per_token_group_fp8_quant(wide, values, scales, 128, 1e-10, -448.0, 448.0, True)
    wanted = flag_gems.per_token_group_quant_fp8(wide, 128, scale_ue8m0=True)
    assert torch.equal(values.view(torch.uint8), wanted[0].view(torch.uint8)) and torch.equal(scales, wanted[1])
    flag_gems.moe_sum = lambda input, output: output.copy_(input.sum(1))
    summed = torch.empty(3, 2, device=DEVICE)
    torch.ops._moe_C.moe_sum(x.view(3, 4, 2), summed)
    torch.testing.assert_close(summed, x.view(3, 4, 2).sum(1))
    del flag_gems.moe_sum
    if not hasattr(flag_gems, "moe_sum"):
        try:
            torch.ops._moe_C.moe_sum(x.view(3, 4, 2), summed)
        except NotImplementedError as error:
            assert "flag_gems has no moe_sum" in str(error)
        else:
            raise AssertionError("it has no function")


def replaced() -> None:
    """A vLLM whose operators are there: ours run, and its own where ours do not take a call."""
    sys.modules["vllm"] = ModuleType("vllm")
    torch.library.Library.impl.__kwdefaults__["allow_override"] = False  # as before torch 2.13
    calls = []
    library = torch.library.Library("_C", "FRAGMENT")
    for name in ("silu_and_mul", "rms_norm"):
        operator = next(o for o in vllm_operators.OPERATORS if o.name == name)
        library.define(operator.schema.removeprefix("_C::"))
        library.impl(name, lambda *args, n=name: calls.append(n), "CUDA" if DEVICE == "cuda" else "CPU")
    x, out = draw(3, 8, dtype=torch.float32), torch.empty(3, 4, device=DEVICE)
    torch.ops._C.silu_and_mul(out, x)
    assert calls == ["silu_and_mul"]
    found = flag_gems.apply_gems_patches_to_vllm()
    assert [name for name, what in found.items() if what == "replaced" and "torch.ops" in name] == [
        "torch.ops._C.silu_and_mul",
        "torch.ops._C.rms_norm",
    ]
    torch.ops._C.silu_and_mul(out, x)
    torch.testing.assert_close(out, nn.functional.silu(x[:, :4]) * x[:, 4:])
    assert calls == ["silu_and_mul"]
    torch.ops._C.silu_and_mul(out, draw(3, 8).int())  # no kernel for ints
    assert calls == ["silu_and_mul"] * 2, calls
    assert flag_gems.apply_gems_patches_to_vllm(verbose=False) == found
    here = flag_gems.patches.patch_empty_vllm()
    assert here["torch.ops._C.silu_and_mul"] == "was there" and here["torch.ops._moe_C.moe_sum"] == "defined"


# The schemas of vLLM 0.33.0's operators, from its extensions.
LATER = {
    "_C": (
        "silu_and_mul(Tensor! result, Tensor input) -> ()",
        "silu_and_mul_with_clamp(Tensor! result, Tensor input, float limit, float alpha=1.0, float beta=0.0) -> ()",
        "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()",
        "per_token_group_fp8_quant(Tensor input, Tensor! output_q, Tensor! output_s, int group_size, float eps, "
        "float fp8_min, float fp8_max, bool scale_ue8m0, bool dummy_is_scale_transposed, bool dummy_is_tma_aligned) "
        "-> ()",
        "cutlass_scaled_mm(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias) -> ()",
        "apply_repetition_penalties_(Tensor! logits, Tensor prompt_mask, Tensor output_mask, "
        "Tensor repetition_penalties) -> ()",
        "top_k_per_row_prefill(Tensor logits, Tensor rowStarts, Tensor rowEnds, Tensor! indices, int numRows, "
        "int stride0, int stride1, int topK) -> ()",
    ),
    "_moe_C": (
        "topk_softmax(Tensor! topk_weights, Tensor! topk_indices, Tensor! token_expert_indices, Tensor gating_output, "
        "bool renormalize, Tensor? bias, Tensor? is_padding) -> ()",
        "moe_sum(Tensor input, Tensor! output, Tensor? topk_ids=None, Tensor? expert_map=None) -> ()",
        "moe_align_block_size(Tensor topk_ids, int num_experts, int block_size, Tensor! sorted_token_ids, "
        "Tensor! experts_ids, Tensor! num_tokens_post_pad, Tensor? maybe_expert_map, Tensor(a!)? scatter_idx=None) "
        "-> ()",
        "grouped_topk(Tensor scores, int n_group, int topk_group, int topk, bool renormalize, "
        "float routed_scaling_factor, Tensor bias, int scoring_func) -> (Tensor, Tensor)",
    ),
    "_C_cache_ops": (
        "concat_and_cache_mla(Tensor kv_c, Tensor k_pe, Tensor! kv_cache, Tensor slot_mapping, str kv_cache_dtype, "
        "Tensor scale, bool skip_scale=False) -> ()",
    ),
}


def later() -> None:
    """A vLLM whose operators have more arguments: ours run where those ask for nothing, else its own."""
    sys.modules["vllm"] = ModuleType("vllm")
    key, calls, libraries = "CUDA" if DEVICE == "cuda" else "CPU", [], []
    for namespace, schemas in LATER.items():
        libraries.append(torch.library.Library(namespace, "FRAGMENT"))
        for schema in schemas:
            name = schema.split("(")[0]
            libraries[-1].define(schema)
            libraries[-1].impl(name, lambda *args, n=name: calls.append(n), key)
    found = flag_gems.apply_gems_patches_to_vllm(verbose=False)
    has = {operator.title for operator in vllm_operators.OPERATORS if not vllm_methods.missing(operator.needs)}
    told = {f"torch.ops.{n}.{s.split('(')[0]}" for n, schemas in LATER.items() for s in schemas}
    assert told & has and all(found[title] == "replaced" for title in told & has), found

    x = draw(3, 8, dtype=torch.float32)
    weights, ids, order = (torch.empty(3, 2, dtype=d, device=DEVICE) for d in (torch.float32, torch.int32, torch.int32))
    torch.ops._moe_C.topk_softmax(weights, ids, order, x, False, None, None)
    torch.testing.assert_close(weights, x.softmax(-1).topk(2)[0])
    summed = torch.empty(3, 2, device=DEVICE)
    torch.ops._moe_C.moe_sum(x.view(3, 4, 2), summed)
    torch.testing.assert_close(summed, x.view(3, 4, 2).sum(1))
    normed = torch.empty_like(x)
    torch.ops._C.rms_norm(normed, x, torch.ones(8, device=DEVICE), 1e-5)
    torch.testing.assert_close(normed, torch.rms_norm(x, [8], None, 1e-5))
    cache, slots, one = torch.zeros(2, 4, 8, device=DEVICE), torch.tensor([5, -1, 0], device=DEVICE), x.new_ones(())
    torch.ops._C_cache_ops.concat_and_cache_mla(x[:, :6], x[:, 6:], cache, slots, "auto", one)
    assert torch.equal(cache[1, 1], x[0]) and calls == []

    torch.ops._moe_C.topk_softmax(weights, ids, order, x, True, None, None)
    torch.ops._moe_C.moe_sum(x.view(3, 4, 2), summed, expert_map=ids)
    torch.ops._C.rms_norm(normed, x, None, 1e-5)
    torch.ops._C_cache_ops.concat_and_cache_mla(x[:, :6], x[:, 6:], cache, slots, "auto", one, True)
    assert calls == ["topk_softmax", "moe_sum", "rms_norm", "concat_and_cache_mla"]


def test_other_arguments() -> None:
    """An operator that is another one is left alone."""
    own = "_C::f(Tensor(a!) out, int n, bool c=False) -> Tensor"
    for schema, why in (
        ("_C::f(Tensor! out, float n) -> Tensor", "its n is float"),
        ("_C::f(Tensor! out) -> Tensor", "it has no n"),
        ("_C::f(Tensor! out, int n) -> (Tensor, Tensor)", "it gives 2 results"),
    ):
        with pytest.raises(UnfitError, match=why):
            adapted(own, torch._C.parse_schema(schema), original)
    schema = torch._C.parse_schema("_C::f(Tensor! out, int n, bool c, float d=2.0) -> ()")
    call = adapted(own, schema, lambda *args: args)
    assert call(1, 2, True) == (True, None) and call(1, 2, c=True, d=2.0) == (True, None)
    assert call(1, 2, True, 3.0) == (False, None)


@pytest.mark.parametrize("name", ["empty", "replaced", "later"])
def test_operators(name: str) -> None:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), *(p for p in sys.path if p)]))
    command = [sys.executable, "-c", f"import test_patches; test_patches.{name}()"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
