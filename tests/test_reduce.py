"""Reductions: every set of dimensions, every length, places of ties and NaN, dtypes, outputs, errors and gradients.

Sums are held to the float64 sum: an element may be off by a few units in the last place of the sum of absolute values
(long sums are sums of short ones), and by one rounding to its own dtype.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import ops
from torch import Tensor

from compare import both, kernels, same
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ATEN = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
LENGTHS = sorted({*range(1, 131), *(2**k + d for k in range(8, 15) for d in (-1, 0, 1))})


def check_sum(result: Tensor, x: Tensor, dims: Any = None, mean: bool = False) -> None:
    """Holds a sum or mean to that of float64."""
    dims = tuple(range(x.ndim)) if dims is None else dims
    wide = x.double()
    exact, size = wide.sum(dims), wide.abs().sum(dims)
    if mean:
        count = max(1, x.numel() // max(1, exact.numel()))
        exact, size = exact / count, size / count
    compute = torch.finfo(torch.float64 if result.dtype == torch.float64 else torch.float32)
    own = torch.finfo(result.dtype)
    # Each element is added some 150 times at most, and its rounding errors are of both signs.
    bound = 16 * compute.eps * size + own.eps / 2 * exact.abs() + own.tiny
    assert result.shape == exact.shape
    assert not ((result.double() - exact).abs() > bound).any(), ((result.double() - exact).abs() - bound).max()


def subsets(ndim: int) -> list[tuple[int, ...]]:
    return [c for r in range(ndim + 1) for c in itertools.combinations(range(ndim), r)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (7,), (5, 34), (3, 5, 16), (2, 3, 4, 9)], ids=str)
def test_every_set_of_dims(shape: tuple[int, ...], layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(shape, device=DEVICE))
    if x is None:
        return
    for dims, keepdim in itertools.product(subsets(len(shape)), (False, True)):
        listed = [d - len(shape) * (d % 2) for d in dims]
        same(*both(lambda d=listed, k=keepdim: ATEN.sum.dim_IntList(x, d, k)), rtol=1e-5, atol=1e-5)
        same(*both(lambda d=listed, k=keepdim: ATEN.amax(x, d, k)))
        same(*both(lambda d=listed, k=keepdim: ATEN.all.dims(x > -1, d, k)))
    with kernels("sum.dim_IntList", "amax", "any"):
        ATEN.sum.dim_IntList(x, None)
        ATEN.amax(x, list(range(len(shape))))
        ATEN.any(x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_places_along_every_dim(layout: str) -> None:
    x = LAYOUTS[layout](torch.randint(0, 9, (4, 5, 18), device=DEVICE).float())
    if x is None:
        return
    for dim in (0, 1, -1):
        same(*both(lambda d=dim: ATEN.argmax(x, d, True)))
        same(*both(lambda d=dim: ATEN.argmin(x, d)))
        same(*both(lambda d=dim: ATEN.max.dim(x, d)))
        same(*both(lambda d=dim: ATEN.min.dim(x, d, True)))
    same(*both(lambda: ATEN.argmax(x)))
    same(*both(lambda: ATEN.argmin(x, None, True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_length_in_rows_and_columns(dtype: torch.dtype) -> None:
    for n in LENGTHS:
        x = torch.randn(3, n, device=DEVICE).to(dtype)
        x[1, n // 2] = 99
        for view, dim in ((x, 1), (x.t(), 0), (x.t().contiguous(), 0)):
            check_sum(ops.sum_dim(view, [dim]), view, dim)
            values, places = ops.max_dim(view, dim)
            assert torch.equal(values, torch.amax(view, dim)) and places[1] == n // 2
            assert torch.equal(ops.argmax(view, dim), places)
        check_sum(ops.sum(x), x)


@pytest.mark.parametrize("n", [2**15 - 1, 2**17 + 1, 3 * 2**18 + 5])
def test_rows_that_blocks_share(n: int) -> None:
    """A few long rows: the blocks leave partial results, which are joined in order."""
    x = torch.randn(n, device=DEVICE)
    x[n - 3] = x[n - 2] = 50
    check_sum(ops.sum(x), x)
    check_sum(ops.mean(x), x, mean=True)
    assert ops.argmax(x) == n - 3 and ops.max(x) == 50
    assert ops.max_dim(x, 0)[1] == n - 3
    assert ops.any(x == 50) and not ops.any(x == 51)
    check_sum(ops.sum_dim(x[: n // 3 * 3].view(-1, 3), [0]), x[: n // 3 * 3].view(-1, 3), 0)
    check_sum(ops.sum_dim(x[: n // 3 * 3].view(3, -1), [1]), x[: n // 3 * 3].view(3, -1), 1)
    again = torch.stack([ops.sum(x) for _ in range(3)])
    assert (again == again[0]).all()


def test_same_bits_with_any_number_of_threads() -> None:
    x = torch.randn(3, 400_001, device=DEVICE)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        results.append((ops.sum(x), ops.sum_dim(x, [1]), ops.sum_dim(x, [0])))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_long_sums_are_as_exact_as_atens() -> None:
    for make in (torch.randn, torch.rand):
        x = make(1 << 22, device=DEVICE)
        exact = x.double().sum()
        error = abs(ops.sum(x).double() - exact)
        assert error <= 4 * abs(x.sum().double() - exact) + 8 * torch.finfo(torch.float32).eps * exact.abs(), error


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, torch.bool], ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    x = torch.randint(0, 3, (6, 50), device=DEVICE).to(dtype)
    calls = [
        lambda: ATEN.sum(x),
        lambda: ATEN.sum.dim_IntList(x, [0]),
        lambda: ATEN.prod.dim_int(x[:, :4], 0),
        lambda: ATEN.amin(x, [1]),
        lambda: ATEN.max.dim(x, 1),
        lambda: ATEN.any.dim(x, 0),
        lambda: ATEN.all(x),
        lambda: ATEN.argmin(x, 1),
        lambda: ATEN.mean(x),
        lambda: ATEN.mean.dim(x, [1]),
    ]
    for call in calls:
        same(*both(call))


@pytest.mark.parametrize("wanted", [torch.float64, torch.float16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.int8, torch.bool], ids=str)
def test_dtype_argument(given: torch.dtype, wanted: torch.dtype) -> None:
    x = (torch.rand(5, 40, device=DEVICE) * 5).to(given)
    same(*both(lambda: ATEN.sum(x, dtype=wanted)))
    same(*both(lambda: ATEN.sum.dim_IntList(x, [1], dtype=wanted)))
    same(*both(lambda: ATEN.prod.dim_int(x[:, :3], 1, dtype=wanted)))
    same(*both(lambda: ATEN.mean.dim(x, [1], dtype=wanted)))


def test_short_rows_of_bytes_at_any_offset() -> None:
    """Rows shorter than an access of 16 bytes, which few threads share and which start anywhere."""
    for n in range(1, 40):
        x = torch.randint(0, 2, (50, n), device=DEVICE, dtype=torch.uint8)
        flat = torch.zeros(50 * n + 3, device=DEVICE, dtype=torch.uint8)
        moved = flat[3:].view(50, n).copy_(x)
        for view in (x, moved):
            wide = view.cpu().long()
            assert torch.equal(ops.sum_dim(view, [1]).cpu(), wide.sum(1))
            assert torch.equal(ops.all_dim(view.bool(), 1).cpu(), (wide != 0).all(1))
            assert torch.equal(ops.argmax(view, 1).cpu(), wide.argmax(1))


def test_integers_wrap() -> None:
    x = torch.tensor([2**62, 2**62, 2**62], device=DEVICE)
    same(*both(lambda: ATEN.sum(x)))
    same(*both(lambda: ATEN.prod(x)))
    same(*both(lambda: ATEN.sum(x, dtype=torch.int32)))


def test_nan_infinity_and_ties() -> None:
    nan, inf = math.nan, math.inf
    rows = [[1, nan, 5, nan], [nan, inf, -inf, 0], [-inf] * 4, [inf, 1, inf, 2], [3, 3, 3, 3], [0.0, -0.0, 0.0, -0.0]]
    x = torch.tensor(rows, device=DEVICE)
    for view, dim in ((x, 1), (x.t().contiguous(), 0), (x.repeat(1, 40), 1), (x.repeat(1, 40).t().contiguous(), 0)):
        for name in ("amax", "amin", "argmax", "argmin"):
            call = getattr(ATEN, name)
            same(*both(lambda c=call, v=view, d=dim: c(v, [d] if c in (ATEN.amax, ATEN.amin) else d)))
        same(*both(lambda v=view, d=dim: ATEN.max.dim(v, d)))
        same(*both(lambda v=view, d=dim: ATEN.min.dim(v, d)))
        same(*both(lambda v=view, d=dim: ATEN.sum.dim_IntList(v, [d])))
        same(*both(lambda v=view, d=dim: ATEN.any.dim(v, d)))
    same(*both(lambda: ATEN.max(x)))
    same(*both(lambda: ATEN.argmax(x)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE)
    for name in ("sum", "mean", "prod", "any", "all", "max", "min", "argmax", "argmin", "amax"):
        same(*both(lambda n=name: getattr(ATEN, n)(x)))
    for dim in range(x.ndim):
        same(*both(lambda d=dim: ATEN.sum.dim_IntList(x, [d])))
        same(*both(lambda d=dim: ATEN.mean.dim(x, [d], True)))
        same(*both(lambda d=dim: ATEN.prod.dim_int(x, d)))
        same(*both(lambda d=dim: ATEN.amax(x, [d])))
        same(*both(lambda d=dim: ATEN.argmin(x, d)))
        same(*both(lambda d=dim: ATEN.max.dim(x, d)))
        same(*both(lambda d=dim: ATEN.all.dim(x, d)))


def test_errors_are_atens() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    calls = [
        lambda: ATEN.sum.dim_IntList(x, [0, 0]),
        lambda: ATEN.sum.dim_IntList(x, [2]),
        lambda: ATEN.amax(x, [0, -2]),
        lambda: ATEN.argmax(x, -3),
        lambda: ATEN.argmax(x > 0),
        lambda: ATEN.mean(x.int()),
        lambda: ATEN.mean(x, dtype=torch.int32),
        lambda: ATEN.amax.out(x, [0], False, out=torch.empty(4, dtype=torch.float64, device=DEVICE)),
        lambda: ATEN.any.out(x, 0, False, out=torch.empty(4, device=DEVICE)),
    ]
    for call in calls:
        ours, theirs = both(call)
        assert isinstance(theirs, type)
        assert ours is theirs


def test_out() -> None:
    x = torch.randn(6, 10, device=DEVICE)
    out = torch.empty(0, device=DEVICE)
    with kernels("sum.IntList_out", "amax.out", "max.dim_max"):
        assert torch.sum(x, 1, out=out) is out
        wide = torch.full((6, 2), 7.0, device=DEVICE)
        torch.amax(x, 1, out=wide[:, 0])
        values, places = torch.empty(10, device=DEVICE), torch.empty(10, dtype=torch.int64, device=DEVICE)
        torch.max(x, 0, out=(values, places))
    torch.testing.assert_close(out, x.sum(1))
    assert torch.equal(wide[:, 0], x.amax(1)) and (wide[:, 1] == 7).all()
    assert torch.equal(values, x.max(0).values) and torch.equal(places, x.max(0).indices)
    same(*both(lambda: torch.sum(x, 1, out=torch.empty(6, dtype=torch.float64, device=DEVICE))))
    same(*both(lambda: torch.any(x, 1, out=torch.empty(6, dtype=torch.bool, device=DEVICE))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(),
        lambda x: x.sum((0, 2), keepdim=True),
        lambda x: x.mean(1),
        lambda x: x.amax((1, 2)),
        lambda x: x.max(1).values,
        lambda x: x.min(),
        lambda x: x.prod(2),
    ],
    ids=["sum", "sum dims", "mean", "amax", "max.dim", "min", "prod"],
)
def test_gradients(function: Callable[[Tensor], Tensor]) -> None:
    for layout in ("contiguous", "permuted", "stepped"):
        x = LAYOUTS[layout](torch.rand(3, 4, 5, dtype=torch.float64, device=DEVICE)).requires_grad_()
        with flag_gems.use_gems():
            assert torch.autograd.gradcheck(function, (x,))
