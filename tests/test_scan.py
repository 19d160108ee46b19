"""Running sums, products, extremes and logs of sums: every dimension, layout, length and dtype, places of ties and NaN.

Sums are held to those of float64, and to be no further from them than ATen's.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import HALVES, both, kernels, same
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ATEN = torch.ops.aten
INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LENGTHS = sorted({*range(1, 131), *(2**k + d for k in range(8, 14) for d in (-1, 0, 1))})
WIDELY = ("cumsum", "cummax")  # a scan of numbers and one of places, in every layout
SOME = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 255, 257, 1025, 2048, 4097, 8191)
QUICK = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
DTYPES = [
    pytest.param(d, id=str(d), marks=[] if d in QUICK else [pytest.mark.slow]) for d in (*FLOATS, *INTS, torch.bool)
]
CALLS: dict[str, Callable[[Tensor, int], Any]] = {
    "cumsum": ATEN.cumsum,
    "cumprod": ATEN.cumprod,
    "cummax": ATEN.cummax,
    "cummin": ATEN.cummin,
    "logcumsumexp": ATEN.logcumsumexp,
}


def loose(dtype: torch.dtype, n: int = 1) -> dict[str, float]:
    """What two orders of adding or multiplying n numbers of size 1 (a few hundred of them at most) may differ by."""
    if not dtype.is_floating_point:
        return {"rtol": 0, "atol": 0}
    step = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    return {"rtol": 4 * torch.finfo(dtype).eps + n * step, "atol": 1e-4}


def beside(call: Callable[[Tensor, int], Any], x: Tensor, dim: int) -> tuple[Any, Any]:
    """Ours and ATen's. A half is ATen's float32 result rounded once: on a GPU its own halves round at every step."""
    ours, theirs = both(lambda: call(x, dim))
    if x.dtype in HALVES and not isinstance(theirs, type):
        wide = call(x.float(), dim)
        for t, w in [(theirs, wide)] if isinstance(theirs, Tensor) else zip(theirs, wide, strict=True):
            t.copy_(w)
    return ours, theirs


def values(shape: tuple[int, ...], dtype: torch.dtype, name: str = "") -> Tensor:
    if not dtype.is_floating_point:
        return torch.randint(0, 4, shape, device=DEVICE).to(dtype)
    x = torch.randn(shape, device=DEVICE)
    return (x * 0.1 + 1 if name == "cumprod" else x).to(dtype)


def check_sum(result: Tensor, x: Tensor, dim: int) -> None:
    """Every partial sum within a few units in the last place of the sum of absolute values, and one rounding."""
    exact, size = x.double().cumsum(dim), x.double().abs().cumsum(dim)
    own, compute = torch.finfo(result.dtype), torch.finfo(torch.float32)
    bound = 16 * compute.eps * size + own.eps / 2 * exact.abs() + own.tiny
    assert not ((result.double() - exact).abs() > bound).any()


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(name, layout, marks=[] if name in WIDELY or layout == "permuted" else [pytest.mark.slow])
        for name in CALLS
        for layout in LAYOUTS
    ],
)
def test_every_dim_of_every_layout(name: str, layout: str) -> None:
    for shape in ((), (7,), (5, 34), (3, 5, 16), (2, 3, 4, 9), (70, 3, 20)):
        x = LAYOUTS[layout](values(shape, torch.float32, name))
        if x is None:
            continue
        for dim in range(-len(shape), max(1, len(shape))):
            n = shape[dim] if shape else 1
            same(*both(lambda x=x, d=dim: CALLS[name](x, d)), **loose(torch.float32, n))
    with kernels(name):
        CALLS[name](torch.ones(3, 4, device=DEVICE), 0)


@pytest.mark.parametrize("lengths", [SOME, pytest.param(LENGTHS, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", CALLS)
def test_every_length_in_rows_and_columns(name: str, lengths: Sequence[int]) -> None:
    for n in lengths:
        x = values((3, n), torch.float32, name)
        for view, dim in ((x, 1), (x.t().contiguous(), 0), (x.repeat(7, 1).t().contiguous(), 0)):
            ours, theirs = both(lambda v=view, d=dim: CALLS[name](v, d))
            if name == "cumsum":  # ATen's own error grows with the length
                check_sum(ours, view, dim)
                assert ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
            else:
                same(ours, theirs, **loose(torch.float32, n))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from([torch.float32, torch.int64]),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(sorted(CALLS)),
)
def test_any_shape(shape: list[int], dim: int, dtype: torch.dtype, layout: str, name: str) -> None:
    if name == "logcumsumexp" and not dtype.is_floating_point:
        return
    x = LAYOUTS[layout](values(tuple(shape), dtype, name))
    if x is not None:
        dim %= len(shape)
        same(*both(lambda: CALLS[name](x, dim)), **loose(dtype, shape[dim]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: torch.dtype) -> None:
    for name, call in CALLS.items():
        x = values((6, 50), dtype, name)
        for dim in (0, 1):
            same(*beside(call, x, dim), **loose(dtype, x.shape[dim]))
    x = values((6, 50), dtype)
    same(*beside(lambda t, d: t.clone().cumsum_(d), x, 1), **loose(dtype, 50))
    same(*beside(lambda t, d: t.clone().cumprod_(d), x[:, :8], 0), **loose(dtype, 6))


@pytest.mark.parametrize("wanted", [torch.float64, torch.float16, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize("given_", [torch.float32, torch.bfloat16, torch.int8, torch.bool], ids=str)
def test_dtype_argument(given_: torch.dtype, wanted: torch.dtype) -> None:
    x = (torch.rand(5, 40, device=DEVICE) * 5).to(given_)
    same(*both(lambda: torch.cumsum(x, 1, dtype=wanted)), **loose(wanted))
    same(*both(lambda: torch.cumprod(x[:, :3], 1, dtype=wanted)))
    same(*both(lambda: x.clone().cumsum_(1, dtype=wanted)))


@pytest.mark.parametrize("n", [2**15 - 1, 2**17 + 1])
def test_long_lines(n: int) -> None:
    """Few long lines, which blocks share: the parts go together in order."""
    x = torch.randn(2, n, device=DEVICE)
    x[1, n - 3] = x[1, n - 2] = 50
    for view, dim in ((x, 1), (x.t().contiguous(), 0)):
        check_sum(ops.cumsum(view, dim), view, dim)
        same(ops.cummax(view, dim), ATEN.cummax(view, dim))
        same(ops.cummin(view, dim), ATEN.cummin(view, dim))
        rounding = 1e-5 if DEVICE == "cpu" else torch.finfo(torch.float32).eps * n**0.5  # a CPU sums in double
        same(ops.logcumsumexp(view, dim), ATEN.logcumsumexp(view, dim), rtol=rounding, atol=rounding)
    whole = torch.arange(n, device=DEVICE)
    assert torch.equal(ops.cumsum(whole, 0), whole * (whole + 1) // 2)
    assert torch.equal(ops.cumprod(1 - 2 * (whole % 3 == 1).long(), 0), 1 - 2 * ((whole + 2) // 3 % 2))


@pytest.mark.parametrize("shape", [(2**17 - 1,), (2**17 + 1,), (3, 2**16 + 5), (2**22 - 3,), (2, 2**21 + 1)], ids=str)
def test_lines_of_more_tiles_than_blocks(shape: tuple[int, ...]) -> None:
    """Where blocks wait for those before them: whole numbers exact, sums of floats with the same bits."""
    x = torch.randn(shape, device=DEVICE)
    sums = ops.cumsum(x, -1)
    check_sum(sums, x, -1)
    assert all(torch.equal(ops.cumsum(x, -1), sums) for _ in range(3))
    assert torch.equal(ops.cumsum_(x.clone(), -1), sums)
    for whole in (torch.randint(0, 50, shape, device=DEVICE), (x * 3).to(torch.int32)):
        assert torch.equal(ops.cumsum(whole, -1), whole.cpu().cumsum(-1).to(DEVICE))
        for name in ("cummax", "cummin"):
            for ours, theirs in zip(getattr(ops, name)(whole, -1), getattr(whole.cpu(), name)(-1), strict=True):
                assert torch.equal(ours, theirs.to(DEVICE)), name
    x[..., shape[-1] // 3] = math.nan
    for ours, theirs in zip(ops.cummax(x, -1), x.cpu().cummax(-1), strict=True):
        assert torch.equal(ours.nan_to_num(9), theirs.to(DEVICE).nan_to_num(9))
    assert ops.cumsum(x, -1).isnan().sum() == (x.shape[-1] - shape[-1] // 3) * x.numel() // x.shape[-1]


WAITING = """
import torch
from flag_gems import ops
for shape in ((2**16 + 1,), (2, 70_001), (2048 * 33,)):
    x, whole = torch.randn(shape), torch.randint(0, 50, shape)
    exact = x.double().cumsum(-1)
    assert ((ops.cumsum(x, -1).double() - exact).abs() <= 1e-6 * exact.abs() + 1e-4).all()
    assert torch.equal(ops.cumsum(x, -1), ops.cumsum_(x.clone(), -1))
    assert torch.equal(ops.cumsum(whole, -1), whole.cumsum(-1))
    for ours, theirs in zip(ops.cummin(x, -1), x.cummin(-1), strict=True):
        assert torch.equal(ours, theirs)
print("done")
"""


@pytest.mark.parametrize("order", ["reverse", pytest.param("random:3", marks=pytest.mark.slow)])
def test_blocks_that_wait_in_any_order(order: str) -> None:
    """With all threads of a block, blocks started in an order that is not that of the tiles: no race, no deadlock."""
    env = dict(os.environ, GEMS_CPU_MODE="checked", GEMS_CPU_ORDER=order, GEMS_VENDOR="cpu", GEMS_LOG="warn")
    env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run([sys.executable, "-c", WAITING], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout == "done\n" and not done.stderr, done.stderr[-4000:]


@pytest.mark.parametrize("dtype", FLOATS[:3], ids=str)
def test_no_further_from_float64_than_atens(dtype: torch.dtype) -> None:
    for make in (torch.randn, torch.rand):
        x = make(1 << 18, device=DEVICE).to(dtype)
        exact = x.double().cumsum(0)
        ours, theirs = ((r.double() - exact).abs() for r in (ops.cumsum(x, 0), ATEN.cumsum(x, 0)))
        unit = torch.finfo(dtype).eps / 2 * exact.abs()
        assert not (ours > theirs.max() + unit).any()
        # On a GPU both add in float32, in orders of their own.
        assert ours.square().mean() <= (1.01 if DEVICE == "cpu" else 1.25) * theirs.square().mean()
        if dtype == torch.float32:  # little more than the rounding of the results: nothing adds up along the line
            rounding = (exact.float().double() - exact).square().mean()
            assert ours.square().mean() <= 4 * rounding + 5e-11


def test_same_bits_with_any_number_of_threads() -> None:
    x = torch.randn(3, 200_001, device=DEVICE)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        results.append((ops.cumsum(x, 1), ops.cumsum(x, 0), ops.logcumsumexp(x, 1)))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_infinity_and_ties() -> None:
    nan, inf = math.nan, math.inf
    rows = [[1, nan, 5, nan], [nan, inf, -inf, 0], [-inf] * 4, [inf, 1, inf, 2], [3, 3, 3, 3], [0.0, -0.0, 0.0, -0.0]]
    rows += [[-inf, -inf, 1, inf], [-300.0, 0, 300, -300]]
    x = torch.tensor(rows, device=DEVICE)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for view, dim in ((x, 1), (x.t().contiguous(), 0), (x.repeat(1, 40), 1), (x.repeat(8, 40).t().contiguous(), 0)):
            for call in CALLS.values():
                same(*beside(call, view.to(dtype), dim))
    ours, theirs = both(lambda: torch.cummax(x, 1).values.signbit())
    assert torch.equal(ours, theirs)


def test_extremes_of_every_order() -> None:
    """Rising, falling and equal elements: each of the ways that stretches of a line go."""
    n = torch.arange(300, device=DEVICE)
    for x in (n, -n, n % 7, n // 40, 299 - n // 3, torch.where(n == 250, 400, n % 3)):
        for dtype in (torch.int64, torch.float32, torch.int8, torch.bfloat16):
            for name in ("cummax", "cummin"):
                same(*both(lambda c=CALLS[name], v=x, d=dtype: c(v.to(d), 0)))


def test_a_product_of_doubles_does_not_overflow_early() -> None:
    x = torch.tensor([1e-200, 1e200, 1e200, 1e-200] * 30, dtype=torch.float64)
    if DEVICE == "cpu":
        same(*both(lambda: torch.cumprod(x, 0)))


def test_integers_wrap() -> None:
    x = torch.full((20,), 2**62, device=DEVICE)
    same(*both(lambda: torch.cumsum(x, 0)))
    same(*both(lambda: torch.cumprod(x - 1, 0)))
    same(*both(lambda: x.to(torch.int8).add(100).cumsum_(0)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE)
    for call in CALLS.values():
        for dim in range(x.ndim):
            same(*both(lambda c=call, d=dim: c(x, d)))


def test_errors_are_atens() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    calls = [
        lambda: ATEN.cumsum(x, 2),
        lambda: ATEN.cummax(x, -3),
        lambda: ATEN.cumsum(x, 0, dtype=torch.bool),
        lambda: ATEN.cumsum_((x > 0), 0),
        lambda: ATEN.logcumsumexp(x.int(), 0),
        lambda: ATEN.cumsum.out(x, 0, dtype=torch.float64, out=torch.empty_like(x)),
        lambda: ATEN.cummax.out(x, 0, values=torch.empty_like(x).double(), indices=torch.empty(0, dtype=torch.int64)),
    ]
    for call in calls:
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs, (ours, theirs)


def test_out_and_in_place() -> None:
    x = torch.randn(6, 10, device=DEVICE)
    with kernels("cumsum.out", "cumprod_", "cummax.out", "_logcumsumexp", "logcumsumexp.out", "cumsum_"):
        wide = torch.full((6, 10, 2), 7.0, device=DEVICE)
        torch.cumsum(x, 1, out=wide[..., 0])
        double = torch.cumsum(x, 0, out=torch.empty(0, dtype=torch.float64, device=DEVICE))
        best, place = torch.empty(6, 10, device=DEVICE), torch.empty(10, 6, dtype=torch.int64, device=DEVICE).t()
        torch.cummax(x, 0, out=(best, place))
        own = x.clone()
        assert torch.cumsum(own, 0, out=own) is own
        product = x.clone().t().cumprod_(1)
        added = x.clone().t()[::2].cumsum_(0)
        logs = ATEN._logcumsumexp(x, 1)
        assert torch.equal(torch.logcumsumexp(x, 1, out=torch.empty_like(x)), logs)
    torch.testing.assert_close(wide[..., 0], x.cumsum(1))
    assert (wide[..., 1] == 7).all()
    torch.testing.assert_close(double, x.double().cumsum(0))
    assert torch.equal(best, x.cummax(0).values) and torch.equal(place, x.cummax(0).indices)
    torch.testing.assert_close(own, x.cumsum(0))
    torch.testing.assert_close(product, x.t().cumprod(1))
    torch.testing.assert_close(added, x.t()[::2].cumsum(0))
    torch.testing.assert_close(logs, x.logcumsumexp(1))


@pytest.mark.parametrize("name", CALLS)
def test_gradients(name: str) -> None:
    call = getattr(torch, name)
    for layout in ("contiguous", "permuted"):
        x = LAYOUTS[layout](torch.rand(2, 3, 4, dtype=torch.float64, device=DEVICE)).requires_grad_()
        for dim in (0, 2):
            with flag_gems.use_gems():
                first = (lambda x, d=dim: call(x, d)) if "cumm" not in name else (lambda x, d=dim: call(x, d).values)
                assert torch.autograd.gradcheck(first, (x,))
