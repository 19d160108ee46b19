"""Numbers counted and repeated, bincount, histc and repeat_interleave: tiles, dtypes, layouts, outputs, errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import both, kernels, same

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WEIGHTS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool)
repeated = torch.ops.aten.repeat_interleave
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def check(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    same(*both(lambda: function(*args, **kwargs)))
    with kernels(name):
        function(*args, **kwargs)


# ---- repeat_interleave


@SOME
@given(
    n=st.sampled_from([0, 1, 2, 40, 1023, 1024, 1025, 3000]),
    most=st.sampled_from([0, 1, 4, 60]),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    stepped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_repeats(n: int, most: int, dtype: torch.dtype, stepped: bool, seed: int) -> None:
    repeats = torch.randint(0, most + 1, (n,), generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    repeats = torch.stack([repeats, repeats + 1], 1)[:, 0] if stepped else repeats
    check("repeat_interleave.Tensor", repeated.Tensor, repeats)
    check("repeat_interleave.Tensor", repeated.Tensor, repeats, output_size=int(repeats.sum()))


@pytest.mark.parametrize("repeats", [[100000], [0] * 5000 + [3], [7000, 0, 0, 4999, 1], [3] + [0] * 9000 + [2], [0, 0]])
def test_uneven_repeats(repeats: list[int]) -> None:
    check("repeat_interleave.Tensor", repeated.Tensor, torch.tensor(repeats, device=DEVICE))


@pytest.mark.skipif(DEVICE != "cpu", reason="a wrong size stops a GPU's context")
def test_repeats_that_do_not_fit() -> None:
    for repeats, size in (([3, -1], None), ([2, 1], 4), ([2, 1], 2), ([-(2**40), 2**41], None)):
        call = functools.partial(repeated.Tensor, torch.tensor(repeats), output_size=size)
        ours, theirs = both(call)
        assert ours is theirs is RuntimeError
    for other in (torch.tensor(2), torch.tensor([[2]]), torch.tensor([2], dtype=torch.int16), torch.tensor([2.0])):
        ours, theirs = both(lambda r=other: repeated.Tensor(r))  # type: ignore
        assert ours is theirs and isinstance(ours, type)


def test_slices_repeated() -> None:
    """torch.repeat_interleave in all its forms goes by way of our kernels, and so do the explicit functions."""
    x = torch.arange(30.0, device=DEVICE).view(5, 6)
    repeats = torch.tensor([2, 0, 3, 1, 1], device=DEVICE)
    for call in (
        lambda m: m(x, repeats, 0),
        lambda m: m(x, repeats, 0, output_size=7),
        lambda m: m(x, repeats[:1], 1),
        lambda m: m(x, 3, 1),
        lambda m: m(x, 2),
        lambda m: m(repeats),
    ):
        same(*both(lambda c=call: c(torch.repeat_interleave)))  # type: ignore
        same(call(flag_gems.repeat_interleave), call(torch.repeat_interleave))
    same(flag_gems.repeat_interleave_self_int(x, 3, 1), x.repeat_interleave(3, 1))
    same(flag_gems.repeat_interleave_self_tensor(x, repeats, 0), x.repeat_interleave(repeats, 0))
    same(flag_gems.repeat_interleave_tensor(repeats), torch.repeat_interleave(repeats))
    with kernels("repeat_interleave.Tensor", "index_select"):
        torch.repeat_interleave(x, repeats, 0)
    y = x.clone().requires_grad_()
    with flag_gems.use_gems():
        torch.repeat_interleave(y, repeats, 0).sum().backward()
    assert y.grad is not None and y.grad[:, 0].tolist() == repeats.tolist()


def test_output_given() -> None:
    repeats = torch.tensor([2, 0, 3], device=DEVICE)
    for size in (0, 5):
        out = torch.full((size,), -1, device=DEVICE)
        with kernels("repeat_interleave.Tensor_out"):
            assert repeated.Tensor_out(repeats, out=out) is out
        assert out.tolist() == [0, 0, 2, 2, 2]


# ---- bincount


@SOME
@given(
    n=st.sampled_from([0, 1, 2, 100, 1023, 5000]),
    most=st.sampled_from([1, 2, 100, 1200, 9000]),
    dtype=st.sampled_from(INTS),
    weights=st.sampled_from([None, *WEIGHTS]),
    least=st.sampled_from([0, 50, 2000]),
    seed=st.integers(0, 99),
)
def test_bincount(n: int, most: int, dtype: torch.dtype, weights: torch.dtype | None, least: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, min(most, torch.iinfo(dtype).max), (n,), generator=generator).to(DEVICE, dtype)
    beside = None if weights is None else torch.randint(-8, 9, (n,), generator=generator).to(DEVICE, weights)
    check("bincount", torch.bincount, x, beside, least)


def test_bincount_strides_and_order() -> None:
    """Sums of numbers that round: float32 adds in float32, all others in float64; twice gives the same bits."""
    x = torch.randint(0, 70, (2, 4000), device=DEVICE).t()[:, 1]
    for dtype in WEIGHTS[:2]:
        weights = torch.randn(4000, 2, device=DEVICE, dtype=dtype)[:, 0]
        ours, theirs = both(lambda w=weights: torch.bincount(x, w))  # type: ignore
        same(ours, theirs, rtol=1e-4, atol=1e-4)
        with kernels("bincount"):
            assert torch.equal(torch.bincount(x, weights), ours)


def test_bincount_out() -> None:
    x = torch.tensor([1, 4, 1], device=DEVICE)
    for size in (0, 5):
        out = torch.full((size,), 7, device=DEVICE)
        with kernels("bincount.out"):
            torch.ops.aten.bincount.out(x, out=out)
        assert out.tolist() == [0, 2, 0, 0, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: (torch.tensor([1, -1], device=DEVICE),),
        lambda: (torch.tensor([1], device=DEVICE), None, -1),
        lambda: (torch.tensor([[1]], device=DEVICE),),
        lambda: (torch.tensor(1, device=DEVICE),),
        lambda: (torch.tensor([1.0], device=DEVICE),),
        lambda: (torch.tensor([True], device=DEVICE),),
        lambda: (torch.tensor([1, 2], device=DEVICE), torch.ones(3, device=DEVICE)),
        lambda: (torch.tensor([1, 2], device=DEVICE), torch.ones(2, 1, device=DEVICE)),
        lambda: (torch.tensor([1, 2], device=DEVICE), torch.ones(2, device=DEVICE).cfloat()),
    ],
)
def test_bincount_raises_what_aten_raises(arguments: Callable[[], tuple[Any, ...]]) -> None:
    args = arguments()
    same(*both(lambda: torch.bincount(*args)))


def test_what_a_view_of_elements_counts() -> None:
    """Elements that lie several times in memory are counted as often."""
    x: Tensor = torch.tensor([3], device=DEVICE).expand(1000)
    check("bincount", torch.bincount, x)


# ---- histc


@SOME
@given(
    n=st.sampled_from([0, 1, 2, 100, 1023, 70000]),
    bins=st.sampled_from([1, 2, 100, 1023, 1024, 5000]),
    ends=st.sampled_from([(0, 0), (-1, 1), (0.25, 0.5), (-3, 0), (2, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_histc(n: int, bins: int, ends: tuple[float, float], dtype: torch.dtype, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)
    if DEVICE != "cpu" and bins > 1024:
        bins = 1024  # more are left to ATen there
    check("histc", torch.histc, x, bins, *ends)


def test_histc_of_edges_and_what_is_no_number() -> None:
    """Elements on the edges of bins; those outside and NaN are in none; all alike; a 0-dim tensor; strides; out=."""
    nan, inf = float("nan"), float("inf")
    steps = torch.arange(-10, 21, device=DEVICE) / 10
    check("histc", torch.histc, steps, 10, 0, 1)
    check("histc", torch.histc, torch.tensor([nan, 0.5, inf, -inf, 1.0, 0.0], device=DEVICE), 4, 0, 1)
    check("histc", torch.histc, torch.full((3, 4), 2.5, device=DEVICE), 5)
    check("histc", torch.histc, torch.tensor(3.0, device=DEVICE))
    check("histc", torch.histc, torch.randn(6, 40, device=DEVICE).t()[::2], 7, -2, 2)
    for size in (0, 10):
        out = torch.full((size,), 7.0, device=DEVICE)
        with kernels("histc.out"):
            torch.histc(steps, 10, 0, 1, out=out)
        assert torch.equal(out, torch.histc(steps, 10, 0, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x: (x, 0),
        lambda x: (x, 4, 2, 1),
        lambda x: (x, 4, 0, float("inf")),
        lambda x: (x, 4, float("nan"), 1),
        lambda x: (x / 0, 4),
        lambda x: (x * float("nan"), 4),
        lambda x: (x > 0, 4),
    ],
)
def test_histc_raises_what_aten_raises(arguments: Callable[[Tensor], tuple[Any, ...]]) -> None:
    args = arguments(torch.ones(5, device=DEVICE))
    same(*both(lambda: torch.histc(*args)))
