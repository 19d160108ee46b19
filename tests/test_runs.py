"""Runs of equal elements, unique in all its forms and mode: sizes around tiles, NaN, zeros, layouts, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import Raised, both, kernels, outcome
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
aten = torch.ops.aten
DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
FLAGS = list(itertools.product((False, True), repeat=2))
# Around the tiles of a block, and what a block sorts.
LENGTHS = (1, 2, 31, 33, 255, 257, 4095, 4097, 8193, 32769)


def numbers(n: int, most: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(-most, most, (n,)).to(dtype).to(DEVICE)


def same(ours: Any, theirs: Any) -> None:
    """The same type of error, or the same values, dtypes, shapes and strides; zeros are equal, NaN are."""
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, (ours, theirs)
        return
    for a, b in zip(ours, theirs, strict=True):
        if b is None or (DEVICE != "cpu" and a.dtype == torch.int64 and not a.numel() and ours[0].dtype == torch.bool):
            continue  # of bool a GPU's ATen gives nothing, or something, for what was not asked for; empty elsewhere
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.numel() < 2 or a.stride() == b.stride(), (a.stride(), b.stride())
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def alike(function: Callable[..., Any], *args: Any) -> None:
    ours, theirs = both(lambda: function(*args))
    same(*((r,) if isinstance(r, Tensor) else r for r in (ours, theirs)))


def check(name: str, function: Callable[..., Any], *args: Any) -> None:
    alike(function, *args)
    with kernels(name):
        function(*args)


def check_mode(x: Tensor, dim: int, keepdim: bool = False) -> None:
    """Values as on a CPU, where of several that are as frequent the least is given; the last place of each."""
    expected = outcome(lambda: torch.mode(x.cpu(), dim, keepdim))
    with flag_gems.use_gems():
        result = outcome(lambda: torch.mode(x, dim, keepdim))
    if isinstance(expected, Raised):
        assert expected.same_as(result)
        return
    values, places = result
    assert values.stride() == expected[0].stride() and torch.equal(values.cpu(), expected[0])
    assert places.shape == values.shape and places.dtype == torch.int64
    if x.numel() and x.ndim:
        at, wanted = (t if keepdim else t.unsqueeze(dim) for t in (places, values))
        line = torch.arange(x.shape[dim], device=DEVICE)
        line = line.view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
        assert torch.equal(at, (line * (x == wanted)).amax(dim, keepdim=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_flags(dtype: torch.dtype) -> None:
    for n, most in ((0, 3), (1, 3), (300, 3), (5000, 90), (9000, 3)):
        x = numbers(n, most, dtype)
        for inverse, counts in FLAGS:
            check("_unique2", aten._unique2, x, True, inverse, counts)
            check("unique_consecutive", aten.unique_consecutive, x, inverse, counts)
        alike(aten._unique2, x, False, True, True)
        alike(torch.unique, x)


def test_lengths() -> None:
    for n in LENGTHS:
        for most in (2, 10**6):
            x = numbers(n, most, torch.int32)
            check("_unique2", aten._unique2, x, True, True, True)
            check("unique_consecutive", aten.unique_consecutive, x.sort()[0], True, True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (9,), (5, 34), (2, 3, 4, 9), (0, 3)], ids=str)
def test_layouts(shape: tuple[int, ...], layout: str) -> None:
    for dtype in (torch.float32, torch.int8):
        x = LAYOUTS[layout](torch.randint(-3, 3, shape).to(dtype).to(DEVICE))
        if x is None:
            continue
        check("_unique2", aten._unique2, x, True, True, True)
        check("unique_consecutive", aten.unique_consecutive, x, True, True)
        for dim in range(-len(shape), len(shape)):
            alike(aten.unique_dim, x, dim, True, True, True)
            alike(aten.unique_dim_consecutive, x, dim, True, True)
            alike(aten.unique_consecutive, x, True, True, dim)
            check_mode(x, dim)


def test_nan_and_zeros() -> None:
    """Every NaN is an element of its own, behind all numbers; of equal zeros one is given."""
    for dtype in DTYPES[:4]:
        x = torch.tensor([0.0, float("nan"), -0.0, 3, float("nan"), float("inf"), 3, -0.0], dtype=dtype, device=DEVICE)
        for n in (1, 700):
            many = x.repeat(n)
            with kernels("_unique2"):
                values, inverse, counts = aten._unique2(many, True, True, True)
            same((values, counts), aten._unique2(many, True, False, True)[::2])
            torch.testing.assert_close(values[inverse], many, rtol=0, atol=0, equal_nan=True)
            check("unique_consecutive", aten.unique_consecutive, many, True, True)
            check("_unique2", aten._unique2, many)
        rows = x.view(4, 2)
        with kernels("unique_dim"):
            values, inverse, counts = aten.unique_dim(rows, 0, True, True, True)
        assert counts.tolist() == [1, 1, 1, 1]
        torch.testing.assert_close(values[inverse], rows, rtol=0, atol=0, equal_nan=True)
        assert values[-1, 0].isnan() and values[0, 0] == 0


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 40]), min_size=1, max_size=3),
    most=st.sampled_from([1, 2, 9]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_slices(shape: list[int], most: int, dtype: torch.dtype, seed: int, data: st.DataObject) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = torch.randint(0, most + 1, shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)
    check("unique_dim", aten.unique_dim, x, dim, True, True, True)
    check("unique_dim_consecutive", aten.unique_dim_consecutive, x, dim, True, True)
    alike(torch.unique, x, True, False, False, dim)
    alike(torch.unique_consecutive, x, True, True, dim)


def test_many_slices() -> None:
    for shape in ((255, 2), (257, 3), (5000, 2), (40, 700)):
        x = torch.randint(0, 3, shape).to(DEVICE)
        check("unique_dim", aten.unique_dim, x, 0, True, True, True)
        check("unique_consecutive", aten.unique_consecutive, x, True, True, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mode(dtype: torch.dtype) -> None:
    for shape in ((5,), (1,), (7, 33), (2, 1025), (3, 5000), (4, 3, 6), (0, 3)):
        x = torch.randint(-2, 3, shape).to(dtype).to(DEVICE)
        for dim in (d for d in range(-len(shape), len(shape)) if shape[d]):
            for keepdim in (False, True):
                check_mode(x, dim, keepdim)
    with kernels("mode"):
        torch.mode(torch.ones(4, 5, dtype=dtype, device=DEVICE))


def test_mode_of_nan() -> None:
    """NaN is equal to nothing: it is never the more frequent one."""
    x = torch.tensor([[5.0, float("nan"), float("nan"), 5, 2, float("nan")]], device=DEVICE)
    with kernels("mode"):
        values, places = torch.mode(x)
    assert values.tolist() == [5.0] and places.tolist() == [3]


def test_mode_keeps_gradients() -> None:
    x = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 1.0]], device=DEVICE, requires_grad=True)
    with kernels("mode"):
        torch.mode(x)[0].sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: aten._unique2(torch.zeros(3, dtype=torch.complex64, device=DEVICE)),
        lambda: torch.unique(torch.zeros(2, 0, device=DEVICE), dim=0),
        lambda: torch.unique(torch.zeros(2, 0, device=DEVICE), dim=1),
        lambda: torch.unique(torch.zeros(2, 3, device=DEVICE), dim=2),
        lambda: torch.mode(torch.zeros(2, 0, device=DEVICE)),
        lambda: torch.mode(torch.zeros(2, device=DEVICE), 1),
        lambda: torch.mode(torch.tensor(3.0, device=DEVICE)),
    ],
)
def test_what_aten_raises(call: Callable[[], Any]) -> None:
    ours, theirs = both(call)
    same(
        ours if isinstance(ours, (type, tuple)) else (ours,), theirs if isinstance(theirs, (type, tuple)) else (theirs,)
    )


def test_outputs_given() -> None:
    """The forms with out= give what the functional ones give; what does not fit them is ATen's."""
    x = torch.randint(0, 9, (70,), device=DEVICE)
    expected = aten._unique2(x, True, True, True)
    for size in (0, None):
        outs = [torch.empty(0 if size == 0 else t.shape, dtype=t.dtype, device=DEVICE) for t in expected]
        with flag_gems.use_gems():
            aten._unique2.out(x, True, True, True, out0=outs[0], out1=outs[1], out2=outs[2])
        same(outs, expected)
    values, places = torch.empty(0, dtype=x.dtype, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
    with kernels("mode.values"):
        torch.mode(x.view(7, 10), 1, out=(values, places))
    same((values.cpu(),), torch.mode(x.cpu().view(7, 10), 1)[:1])


def test_explicit_functions() -> None:
    x = torch.tensor([[2, 1, 2], [2, 1, 2]], device=DEVICE)
    same(flag_gems._unique2(x, True, True, True), aten._unique2(x, True, True, True))
    same(flag_gems.ops.unique_consecutive(x, return_counts=True), aten.unique_consecutive(x, return_counts=True))
    same(flag_gems.ops.unique_dim(x, 0), aten.unique_dim(x, 0))
    assert flag_gems.ops.mode(x)[0].tolist() == [2, 2]
