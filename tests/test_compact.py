"""Elements that a test picks: order, layouts, dtypes, sizes around tiles, outputs, errors and gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import ALL_DTYPES, both, kernels
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
SHAPES = [
    *((), (7,), (5, 34), (2, 3, 4, 9), (0, 3)),
    *(pytest.param(s, marks=pytest.mark.slow) for s in ((1,), (3, 5, 16), (129, 33), (0,), (2, 0, 4))),
]
# Around words of 64 elements, tiles of a block, and tiles of a thread.
SOME = (1, 2, 7, 8, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 4095, 4097, 32769)
LENGTHS = sorted({*range(1, 131), *(n + d for n in (256, 4096, 32768) for d in (-1, 0, 1))})


def same(ours: Any, theirs: Any) -> None:
    """Same type of error, or the same dtype, shape, strides and bits."""
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, (ours, theirs)
        return
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert ours.numel() < 2 or ours.stride() == theirs.stride(), (ours.stride(), theirs.stride())
    assert torch.equal(bits_of(ours), bits_of(theirs))


def bits_of(t: Tensor) -> Tensor:
    flat = t.cpu().reshape(-1)
    return torch.empty(flat.shape, dtype=t.dtype).copy_(flat).view(torch.uint8)


def mask_of(shape: tuple[int, ...], share: float) -> Tensor:
    return torch.rand(shape, device=DEVICE) < share


def check(x: Tensor, mask: Tensor, source: Tensor) -> None:
    same(*both(lambda: torch.nonzero(x)))
    same(*both(lambda: torch.nonzero(mask)))
    same(*both(lambda: torch.nonzero_static(x, size=11, fill_value=-5)))
    same(*both(lambda: torch.masked_select(x, mask)))
    same(*both(lambda: torch.masked_scatter(x, mask, source)))
    ours, theirs = both(lambda: x.clone().masked_scatter_(mask, source))
    same(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(shape: tuple[int, ...], layout: str) -> None:
    for share in (0.0, 0.4, 1.0):
        x = torch.randn(shape, device=DEVICE) * mask_of(shape, share)
        mask, source = mask_of(shape, share), torch.randn(shape, device=DEVICE)
        parts = [LAYOUTS[layout](t) for t in (x, mask, source)]
        if all(part is not None for part in parts):
            check(*parts)
            if layout != "expanded":
                expected = torch.masked_scatter(parts[0], parts[1], parts[2])
                with flag_gems.use_gems():
                    parts[0].masked_scatter_(parts[1], parts[2])
                assert torch.equal(parts[0], expected)


@pytest.mark.parametrize("lengths", [SOME, pytest.param(LENGTHS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_lengths(lengths: Sequence[int]) -> None:
    for n in lengths:
        x = torch.randint(0, 3, (n,), device=DEVICE, dtype=torch.int32)
        check(x, mask_of((n,), 0.5), x + 1)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_shape(shape: list[int], layout: str, share: float) -> None:
    x, mask = torch.randn(shape, device=DEVICE), mask_of(tuple(shape), share)
    changed = LAYOUTS[layout](x)
    if changed is not None:
        check(changed, mask, x)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 1, -0.0, 3], [math.nan, 0, math.inf, 1]], device=DEVICE)
    x = (x.nan_to_num(5, 7) if not (dtype.is_floating_point or dtype.is_complex) else x).to(dtype)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]], device=DEVICE)
    same(*both(lambda: torch.nonzero(x)))
    same(*both(lambda: torch.nonzero_static(x, size=3)))
    same(*both(lambda: torch.masked_select(x, mask)))
    same(*both(lambda: torch.masked_scatter(x, mask, x.flip(0))))
    if dtype.is_complex:
        y = torch.tensor([0, 1j, 1, 0j], dtype=dtype, device=DEVICE)
        same(*both(lambda: torch.nonzero(y)))


def test_broadcasting() -> None:
    x, row, column = torch.randn(5, 7, device=DEVICE), mask_of((7,), 0.5), mask_of((3, 1, 7), 0.5)
    with kernels("masked_select", "masked_scatter", "masked_scatter_"):
        torch.masked_select(x, row)
        torch.masked_scatter(x[:1], column, torch.randn(21, device=DEVICE))
        x.clone().masked_scatter_(row, torch.randn(50, device=DEVICE))
    same(*both(lambda: torch.masked_select(x, column)))
    same(*both(lambda: torch.masked_select(x[0], x > 0)))
    same(*both(lambda: torch.masked_scatter(x[0], x > 0, x)))
    same(*both(lambda: x.clone().masked_scatter_(column, x)))


def test_out() -> None:
    x = torch.tensor([[1.0, 0, 2], [0, 3, 0]], device=DEVICE)
    with kernels("nonzero.out", "masked_select.out", "nonzero_static.out", "masked_scatter.out"):
        places = torch.zeros(3, 2, dtype=torch.int64, device=DEVICE)
        assert torch.nonzero(x, out=places) is places
        wide = torch.full((3, 2), 7.0, device=DEVICE)
        torch.masked_select(x, x > 0, out=wide[:, 1])
        fixed = torch.ops.aten.nonzero_static.out(
            x, size=4, out=torch.zeros(2, 4, dtype=torch.int64, device=DEVICE).t()
        )
        scattered = torch.ops.aten.masked_scatter.out(x, x > 0, -x.flatten().sort().values[3:], out=torch.empty_like(x))
    assert torch.equal(places, torch.nonzero(x)) and places.stride() == (2, 1)
    assert wide.tolist() == [[7, 1], [7, 2], [7, 3]]
    assert fixed.tolist() == [[0, 0], [0, 2], [1, 1], [-1, -1]]
    assert scattered.tolist() == [[-1, 0, -2], [0, -3, 0]]
    same(*both(lambda: torch.nonzero(x, out=torch.empty(0, dtype=torch.int64, device=DEVICE))))


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_strides_of_out_are_atens(rows: int) -> None:
    """ATen gives new strides to an out= of nonzero whose transpose is contiguous: on a GPU alone."""
    x = torch.zeros(2, 4, device=DEVICE)
    x.view(-1)[:rows] = 1
    whole = {"dtype": torch.int64, "device": DEVICE}
    for make in (
        lambda: torch.zeros(rows, 2, **whole),
        lambda: torch.zeros(2, rows, **whole).t(),
        lambda: torch.zeros(rows, 2, 2, **whole)[..., 1],
        lambda: torch.zeros(0, **whole),
    ):

        def find(out: Tensor) -> Tensor:
            return torch.nonzero(x, out=out)

        def find_some(out: Tensor) -> Tensor:
            return torch.ops.aten.nonzero_static.out(x, size=rows, out=out)

        for call in (find, find_some):
            ours, theirs = both(lambda c=call, m=make: c(m()))
            same(ours, theirs)
            assert ours.stride() == theirs.stride()


def test_errors_are_atens() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    calls = [
        lambda: torch.masked_select(x, (x > 0).to(torch.uint8)),
        lambda: torch.masked_select(x, torch.ones(3, dtype=torch.bool, device=DEVICE)),
        lambda: torch.masked_scatter(x, x > -9, x.double()),
        lambda: torch.nonzero_static(x, size=-1),
        lambda: torch.masked_select(x, x > 0, out=torch.empty(0, dtype=torch.float64, device=DEVICE)),
    ]
    if DEVICE == "cpu":  # a GPU's context does not outlive it
        calls.append(lambda: torch.masked_scatter(x, x > -9, x[0]))
    for call in calls:
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs, (ours, theirs)


def test_too_short_a_source_changes_nothing() -> None:
    if DEVICE != "cpu":
        return
    x = torch.randn(300, device=DEVICE)
    with flag_gems.use_gems(), pytest.raises(RuntimeError, match="Number of elements"):
        torch.masked_scatter(x, x > -9, x[:7])


def test_gradients() -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]], device=DEVICE)
    x = torch.randn(2, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    source = torch.randn(6, dtype=torch.float64, device=DEVICE, requires_grad=True)
    with flag_gems.use_gems():
        assert torch.autograd.gradcheck(lambda x: x.masked_select(mask), (x,))
        assert torch.autograd.gradcheck(lambda x: x.t().masked_select(mask.t()), (x,))
        assert torch.autograd.gradcheck(lambda x, s: x.masked_scatter(mask, s), (x, source))
