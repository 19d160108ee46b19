"""torch.library.opcheck on every operator of torch.ops.flag_gems: schema, fake kernel, autograd, aot_dispatch."""

from __future__ import annotations

import functools
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import composites, own
from torch import Tensor

DEVICE = flag_gems.device


def x(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def grown(*shape: int, seed: int = 0) -> Tensor:
    """A tensor that wants a gradient."""
    return x(*shape, seed=seed).requires_grad_()


def whole(*numbers: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=DEVICE)


def tables() -> tuple[Tensor, Tensor]:
    angles = x(9, 4)
    return angles.cos(), angles.sin()


def attention() -> tuple[Tensor, ...]:
    return x(2, 4, 5, 8), x(2, 2, 9, 8, seed=1), x(2, 2, 9, 8, seed=2)


def packed() -> tuple[Any, ...]:
    starts = whole(0, 3, 7)
    return x(7, 4, 8), x(7, 2, 8), x(7, 2, 8, seed=1), starts, starts, None, None, None, 4, 4, 0.3, True, -1, -1


def paged() -> tuple[Any, ...]:
    pages = x(5, 4, 2, 8), x(5, 4, 2, 8, seed=1)
    lengths, table = whole(3, 9), whole(1, 0, 0, 4, 2, 3).view(2, 3)
    return x(2, 4, 8), *pages, whole(0, 1, 2), None, lengths, table, None, 1, 12, 0.3, True, -1, -1


def entropy() -> tuple[Any, ...]:
    return x(3, 5), whole(1, 4, 0, dtype=torch.int64), None


@functools.cache
def samples() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of calls, by operator or overload; keyword arguments are a dict behind them."""
    two, slots = (x(5, 7), x(5, 7, seed=1)), whole(3, -1, 12, 0, dtype=torch.int64)
    loss, saved = torch.ops.flag_gems.cross_entropy(*entropy())
    q, k, v = attention()
    out, lse = torch.ops.flag_gems.attention_forward(q, k, v, None, 0.0, False, None, True)
    heads = 2, 3, 4, 8
    ids = whole(0, 1, 3, 3, 7, 2).view(3, 2)
    return {
        "silu_and_mul": [(grown(5, 7), grown(5, 7, seed=1)), (grown(5, 1), grown(7))],
        "silu_and_mul.out": [(*two, {"out": x(5, 7)})],
        "silu_and_mul_backward": [(x(5, 7, seed=2), *two)],
        "gelu_and_mul": [(grown(5, 7), grown(5, 7, seed=1)), (*two, "tanh")],
        "gelu_and_mul.out": [(*two, {"out": x(5, 7)})],
        "gelu_and_mul_backward": [(x(5, 7, seed=2), *two)],
        "skip_layer_norm": [(grown(5, 7), grown(5, 7, seed=1), [7], grown(7), grown(7)), (*two, [5, 7], None, None)],
        "fused_add_rms_norm": [(*two, x(7), 1e-5)],
        "rms_norm": [(grown(5, 7), grown(7), 1e-5)],
        "cross_entropy": [(grown(3, 5), *entropy()[1:]), (grown(3, 5), x(3, 5).softmax(1), x(5).abs(), 0, -100, 0.1)],
        "cross_entropy_backward": [(loss, *entropy(), saved, 1, -100, 0.0)],
        "rwkv_ka_fusion": [(grown(5, 12), grown(12), grown(5, 12, seed=1), grown(12, seed=1), 3, 4)],
        # Gradients that a row of its own gives.
        "skip_layer_norm_backward": [(x(5, 7, seed=2), *two, x(7), x(7), [7])],
        "rms_norm_backward": [(x(5, 7, seed=2), x(5, 7), x(7), 1e-5)],
        "rwkv_ka_fusion_backward": [
            (*(x(5, 12, seed=i) for i in (2, 3, 4)), x(5, 12), x(12), x(5, 12, seed=1), x(12, seed=1), 3, 4)
        ],
        "rotary_embedding": [
            (grown(2, 3, 4, 8), grown(2, 3, 1, 8), *tables()),
            (x(3, 4, 10), x(3, 2, 10), *tables(), whole(8, 0, 3), True),
        ],
        "rotary_embedding_backward": [(x(*heads), x(*heads), *tables())],
        "rotary_embedding_inplace": [(x(*heads), x(*heads), *tables())],
        "reshape_and_cache": [(x(4, 2, 8), x(4, 2, 8), x(5, 2, 2, 4, 4), x(5, 2, 8, 4), slots, "auto")],
        "reshape_and_cache_flash": [(x(4, 2, 8), x(4, 2, 8), x(5, 4, 2, 8), x(5, 4, 2, 8), slots, "auto")],
        "concat_and_cache_mla": [(x(4, 16), x(4, 8), x(5, 4, 24), slots, "auto", x(1).view(()))],
        "per_token_group_quant_fp8": [(x(3, 16), 8), (x(2, 3, 16), 8, 1e-10, torch.float8_e5m2, True, True)],
        "attention_forward": [(q, k, v, None, 0.0, False, None, True), (q, q, q, x(5, 5), 0.0)],
        "attention_backward": [(x(2, 4, 5, 8), q, k, v, out, lse, None, 0.0, False, None, True)],
        "attention_varlen": [packed(), paged()],
        "attention_varlen.out": [(*packed(), {"out": x(7, 4, 8), "lse": x(4, 7)})],
        "topk_softmax": [(x(6, 8), 2)],
        "topk_softmax.out": [(x(6, 8), 2, outs(torch.ops.flag_gems.topk_softmax(x(6, 8), 2)))],
        "moe_align_block_size": [(ids, 8, 4), (ids, 8, 4, None, True)],
        "moe_align_block_size.out": [(ids, 8, 4, outs(torch.ops.flag_gems.moe_align_block_size(ids, 8, 4)))],
        # Operators that stand for aten's.
        **{name: [two] for name in composites.OPERATORS if name.endswith((".Tensor", "_tensor", "_tensor_inplace"))},
        **{name: [(x(5, 7), 2.5)] for name in composites.OPERATORS if "scalar" in name.lower()},
        **{name: [(*two, {"rounding_mode": "floor"})] for name in ("div.Tensor_mode", "div_.Tensor_mode")},
        **{name: [(*two, {"rounding_mode": "trunc"})] for name in ("divide.Tensor_mode", "divide_.Tensor_mode")},
        "floor_divide": [two],
        "fill.Tensor": [(x(5, 7), x(1).view(()))],
        "fill_.Tensor": [(x(5, 7), x(1).view(()))],
        "mm": [(grown(5, 7), grown(7, 3))],
        "bmm": [(grown(2, 5, 7), grown(2, 7, 3))],
        "addmm": [(grown(3), grown(5, 7), grown(7, 3), {"beta": 0.5, "alpha": 2.0})],
        "rwkv_mm_sparsity": [(x(7), x(7, 5))],
        "zeros": [([3, 4], {"dtype": torch.float32, "device": torch.device(DEVICE)})],
        "sum": [(grown(5, 7),)],
        "sum.dim_IntList": [(grown(5, 7), [1], True)],
        "max": [(grown(5, 7),)],
        "max.dim": [(grown(5, 7), 1)],
        "max.dim_max": [(x(5, 7), 1, {"max": x(5), "max_values": whole(*range(5), dtype=torch.int64)})],
        "argmax": [(x(5, 7), 1)],
        "copy_": [two],
        "to_copy": [(grown(5, 7), {"dtype": torch.float64})],
        "cat": [([grown(5, 7), grown(2, 7)],)],
        "contiguous": [(x(7, 5).t(),)],
        "softmax": [(grown(5, 7), 1)],
        "softmax_backward": [(*two, 1, torch.float32)],
        "embedding": [(grown(9, 7), whole(1, 8, 1, dtype=torch.int64))],
        "embedding_backward": [(x(3, 7), whole(1, 8, 1, dtype=torch.int64), 9, -1, False, False)],
        "flash_attn_varlen_func": [
            (x(7, 4, 8), x(7, 2, 8), x(7, 2, 8), 4, whole(0, 3, 7), 4, whole(0, 3, 7), {"causal": True})
        ],
        "nonzero": [(x(5, 7) > 0,)],
        "topk": [(grown(5, 7), 3, 1, True, True)],
        "sort": [(grown(5, 7), 1)],
        "sort.stable": [(grown(5, 7), {"stable": True, "dim": 1})],
        "exponential": [(x(5, 7),), (x(5, 7), 2.0)],
        "exponential_": [(x(5, 7),), (x(5, 7), 2.0)],
    }


def outs(results: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"out{i}": torch.empty_like(t) for i, t in enumerate(results)}


def overloads() -> list[str]:
    """All of the table and of composites.py, by the names under which torch has them."""
    entries = [entry["name"].removeprefix(own.PREFIX) for row in own.rows().values() for entry in row["entries"]]
    return sorted({*entries, *composites.OPERATORS, *composites.OPAQUE})


@pytest.mark.parametrize("name", overloads())
def test_opcheck(name: str) -> None:
    base, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.flag_gems, base), overload or "default")
    assert samples().get(name), f"no sample of {operator._schema}: add one here"
    for sample in samples()[name]:
        args, kwargs = (sample[:-1], sample[-1]) if isinstance(sample[-1], dict) else (sample, {})
        torch.library.opcheck(operator, args, kwargs)
