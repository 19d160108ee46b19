"""Functions that serve a mixture of experts, beside plain torch."""

from __future__ import annotations

from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from flag_gems import fused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

DEVICE = flag_gems.device
SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


# ---- topk_softmax


def outputs(tokens: int, k: int, of: torch.dtype = torch.int32) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.full((tokens, k), -7.0, device=DEVICE)
    return (
        weights,
        torch.zeros(tokens, k, dtype=of, device=DEVICE),
        torch.zeros(tokens, k, dtype=torch.int32, device=DEVICE),
    )


def check_topk(logits: Tensor, k: int, of: torch.dtype = torch.int32) -> None:
    """The logits are far enough from each other, or equal, so that their order is that of the probabilities."""
    tokens = len(logits)
    weights, experts, places = outputs(tokens, k, of)
    assert fused.topk_softmax(weights, experts, places, logits) is None
    order = torch.sort(logits.double(), dim=-1, descending=True, stable=True)[1][:, :k]
    exact = torch.softmax(logits.double(), -1).gather(1, order)
    torch.testing.assert_close(weights.double(), exact, rtol=2e-6, atol=1e-12)
    assert torch.equal(experts.long(), order)
    ranks = torch.arange(k, device=DEVICE)[None] * tokens + torch.arange(tokens, device=DEVICE)[:, None]
    assert torch.equal(places.long(), ranks)


@SOME
@given(
    tokens=st.sampled_from([0, 1, 7, 40]),
    experts=st.sampled_from([1, 2, 8, 33, 60, 64, 128, 200, 256, 512]),
    k=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    of=st.sampled_from([torch.int32, torch.int64, torch.uint32]),
    seed=st.integers(0, 99),
    turned=st.booleans(),
)
def test_topk_softmax(
    tokens: int, experts: int, k: int, dtype: torch.dtype, of: torch.dtype, seed: int, turned: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-64, 64, (tokens, experts), generator=generator).to(DEVICE, dtype) / 8
    check_topk(logits.t().contiguous().t() if turned else logits, min(k, experts), of)


@pytest.mark.parametrize("experts", [513, 700, 1024, 4096])
def test_many_experts(experts: int) -> None:
    check_topk(torch.randint(-64, 64, (5, experts), device=DEVICE) / 8.0, 300)


def test_equal_and_vanishing_probabilities() -> None:
    """Of equal probabilities the first expert comes first, of those that vanish too; -0.0 is 0.0."""
    check_topk(torch.zeros(3, 100, device=DEVICE), 100)
    weights, experts, places = outputs(1, 5)
    fused.topk_softmax(weights, experts, places, torch.tensor([[-500.0, -300, 9, -0.0, 0.0]], device=DEVICE))
    assert experts.tolist() == [[2, 3, 4, 0, 1]]
    fused.topk_softmax(weights, experts, places, torch.tensor([[-float("inf"), 1, 2, 3, -float("inf")]], device=DEVICE))
    assert experts.tolist() == [[3, 2, 1, 0, 4]]
    assert weights[0, 3:].tolist() == [0, 0]


def test_nan_gives_experts_that_differ() -> None:
    for experts in (8, 600):
        logits = torch.zeros(2, experts, device=DEVICE)
        logits[0, 3] = float("nan")
        weights, chosen, places = outputs(2, 4)
        fused.topk_softmax(weights, chosen, places, logits)
        assert weights[0].isnan().all() and len(set(chosen[0].tolist())) == 4
        assert chosen[1].tolist() == [0, 1, 2, 3]


def test_what_topk_softmax_refuses() -> None:
    x = torch.zeros(2, 4, device=DEVICE)
    for call in (
        lambda: fused.topk_softmax(*outputs(2, 5), x),
        lambda: fused.topk_softmax(*outputs(3, 2), x),
        lambda: fused.topk_softmax(*outputs(2, 2, torch.int16), x),
        lambda: fused.topk_softmax(*outputs(2, 2), x.long()),
        lambda: fused.topk_softmax(*outputs(2, 2), torch.zeros(2, 5000, device=DEVICE)),
    ):
        with pytest.raises(flag_gems.DeclinedError):
            call()


# ---- moe_align_block_size


def aligned(ids: Tensor, size: int, experts: int, numbers: Tensor | None = None, pad: bool = False) -> list[Tensor]:
    n = ids.numel()
    places = n + experts * (size - 1)
    blocks = -(-places // size)
    order = torch.full((blocks * size if pad else places,), n, dtype=torch.int32)
    of = torch.zeros(blocks, dtype=torch.int32)
    end = 0
    for expert in range(experts):
        found = (ids.cpu().flatten().long() == expert).nonzero().flatten().int()
        order[end : end + len(found)] = found
        whole = -(-len(found) // size) * size
        of[end // size : (end + whole) // size] = expert
        end += whole
    mapped = of if numbers is None else numbers.cpu()[of.long()]
    return [order, mapped, torch.tensor([end], dtype=torch.int32)]


def same(ours: Any, wanted: Any) -> None:
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.cpu(), b)


def check_align(ids: Tensor, size: int, experts: int) -> None:
    same(fused.moe_align_block_size(ids, size, experts), aligned(ids, size, experts))
    for of in (torch.int32, torch.int64):
        numbers = torch.arange(experts, device=DEVICE, dtype=of).flip(0)
        wanted = aligned(ids, size, experts, numbers, True)
        same(fused.moe_align_block_size(ids, size, experts, numbers, pad_sorted_ids=True), wanted)
    wanted = aligned(ids, size, experts)
    given = [torch.full_like(t, -7, device=DEVICE) for t in wanted]
    assert fused.moe_align_block_size_triton(ids, experts, size, *given) is None
    same(given, wanted)


@SOME
@given(
    tokens=st.sampled_from([0, 1, 5, 40, 130]),
    k=st.sampled_from([1, 2, 6, 8]),
    experts=st.sampled_from([1, 3, 8, 60, 64, 65, 256]),
    size=st.sampled_from([1, 4, 16, 64, 100]),
    dtype=st.sampled_from([torch.int32, torch.int64, torch.uint8]),
    skewed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_align(tokens: int, k: int, experts: int, size: int, dtype: torch.dtype, skewed: bool, seed: int) -> None:
    high = max(1, experts // 4) if skewed else min(experts, 255)
    ids = torch.randint(0, high, (tokens, k), generator=torch.Generator().manual_seed(seed))
    check_align(ids.to(DEVICE, dtype), size, experts)


@pytest.mark.parametrize("tokens", [255, 256, 257, 1030])
def test_many_tokens(tokens: int) -> None:
    """Around the pairs that one block takes, with ids that lie transposed."""
    check_align(torch.randint(0, 128, (8, tokens), device=DEVICE).t(), 16, 128)
    check_align(torch.randint(0, 1024, (tokens, 8), device=DEVICE, dtype=torch.int32), 8, 1024)


def test_ids_of_no_expert_are_left_out() -> None:
    ids = torch.tensor([[0, -1], [7, 2], [2, 1 << 20]], device=DEVICE)
    same(fused.moe_align_block_size(ids, 4, 4), aligned(ids, 4, 4))


def test_places_given_may_be_few_or_many() -> None:
    ids = torch.tensor([[0, 2], [2, 1]], dtype=torch.int32, device=DEVICE)
    wanted = aligned(ids, 2, 3)
    for places, blocks in ((3, 2), (40, 30)):
        order = torch.full((places,), -7, dtype=torch.int32, device=DEVICE)
        of = torch.full((blocks,), -7, dtype=torch.int32, device=DEVICE)
        end = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        fused.moe_align_block_size_triton(ids, 3, 2, order, of, end)
        some, few = min(places, len(wanted[0])), min(blocks, len(wanted[1]))
        same((order[:some], of[:few], end), (wanted[0][:some], wanted[1][:few], wanted[2]))
        assert (order[some:] == 4).all() and (of[few:] == 0).all()


def test_what_align_refuses() -> None:
    ids = torch.zeros(2, 2, dtype=torch.int32, device=DEVICE)
    for call in (
        lambda: fused.moe_align_block_size(ids.float(), 4, 4),
        lambda: fused.moe_align_block_size(ids, 0, 4),
        lambda: fused.moe_align_block_size(ids, 4, 0),
        lambda: fused.moe_align_block_size(ids, 4, 4, torch.zeros(3, dtype=torch.int32, device=DEVICE)),
    ):
        with pytest.raises(flag_gems.DeclinedError):
            call()


# ---- moe_sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sum(dtype: torch.dtype) -> None:
    for shape in ((1, 1, 1), (7, 2, 130), (33, 8, 64), (5, 6, 257)):
        x = torch.randn(shape, device=DEVICE).to(dtype)
        out = torch.empty(shape[0], shape[2], device=DEVICE, dtype=dtype)
        assert fused.moe_sum(x, out) is None
        exact = x.double().sum(1)
        torch.testing.assert_close(out.double(), exact.to(dtype).double(), rtol=torch.finfo(dtype).eps, atol=1e-6)


# ---- as torch and NumPy see them


def test_operators_of_torch() -> None:
    """Shapes from fake tensors, and a compiled function that writes what the function writes."""
    ids = torch.randint(0, 8, (10, 2), device=DEVICE)
    same(torch.ops.flag_gems.moe_align_block_size(ids, 8, 4, None, True), aligned(ids, 4, 8, pad=True))
    logits = torch.randn(6, 8, device=DEVICE)
    torch.library.opcheck(torch.ops.flag_gems.topk_softmax.default, (logits, 2))
    torch.library.opcheck(torch.ops.flag_gems.moe_align_block_size.default, (ids, 8, 4))
    weights, experts, places = outputs(6, 2)
    again = outputs(6, 2)
    fused.topk_softmax(weights, experts, places, logits)
    torch.compile(fused.topk_softmax, backend="eager", fullgraph=True)(*again, logits)
    assert all(torch.equal(a, b) for a, b in zip((weights, experts, places), again, strict=True))


@pytest.mark.skipif(DEVICE != "cpu", reason="arrays are of the CPU")
def test_arrays() -> None:
    ids = np.array([[0, 2], [2, 1]], dtype=np.int32)
    ours = fused.moe_align_block_size(ids, 2, 3)
    for a, b in zip(ours, aligned(torch.from_numpy(ids), 2, 3), strict=True):
        assert isinstance(a, np.ndarray) and np.array_equal(a, b.numpy())
