"""topk, kthvalue, median and nanmedian: any k, dim, dtype and layout; ties, NaN, out= and gradients."""

from __future__ import annotations

import math

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import both, kernels
from layouts import LAYOUTS
from sorting import FLOATS, INTS, KINDS, dtypes, picked, same_bits, stable_order, values
from test_sort import run_in, spaced

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
LENGTHS = st.one_of(st.integers(1, 130), st.sampled_from([1023, 1024, 1025, 4095, 4097, 9001]))


def check_topk(x: Tensor, k: int, dim: int, largest: bool) -> None:
    """The first k of a stable sort."""
    order = stable_order(x, dim, largest)
    order = order.narrow(dim, 0, k) if x.ndim else order
    with kernels("topk"):
        result = torch.topk(x, k, dim, largest)
    assert torch.equal(result.indices, order), (x.shape, x.dtype, k, dim, largest)
    assert same_bits(result.values, picked(x, dim, order))
    assert result.values.is_contiguous() and result.indices.is_contiguous()


def check_kth(x: Tensor, k: int, dim: int, keepdim: bool = False) -> None:
    order = stable_order(x, dim, False).narrow(dim, k - 1, 1)
    found = picked(x, dim, order)
    with kernels("kthvalue"):
        result = torch.kthvalue(x, k, dim, keepdim)
    assert torch.equal(result.indices, order if keepdim else order.squeeze(dim)), (x.shape, x.dtype, k, dim)
    assert same_bits(result.values, found if keepdim else found.squeeze(dim))


def check_median(x: Tensor, dim: int) -> None:
    """Of a row with NaN the first of them, or what is left without them."""
    order = stable_order(x, dim, False)
    n, nans = x.shape[dim], x.isnan().sum(dim, keepdim=True)
    for name, rank in (
        ("median", torch.where(nans > 0, n - nans, (n - 1) // 2)),
        ("nanmedian", ((n - nans - 1).clamp(min=0) // 2)),
    ):
        places = order.gather(dim, rank)
        with kernels(f"{name}.dim"):
            result = getattr(torch, name)(x, dim)
        assert torch.equal(result.indices, places.squeeze(dim)), (name, x.shape, x.dtype, dim)
        assert same_bits(result.values, picked(x, dim, places).squeeze(dim))


@pytest.mark.parametrize("dtype", dtypes(*FLOATS, *INTS))
def test_every_dtype(dtype: torch.dtype) -> None:
    for shape in ((7,), (3, 130), (2, 700), (1, 9000)):
        for kind in ("plain", "ties", "special"):
            x = values(shape, dtype, kind, DEVICE)
            for k in (1, 5, shape[-1] // 3, shape[-1]):
                check_topk(x, k, -1, True)
                check_topk(x, k, -1, False)
                check_kth(x, k, -1)
            check_median(x, -1)


@settings(max_examples=30, deadline=None)
@given(
    others=st.lists(st.integers(1, 9), max_size=2),
    length=LENGTHS,
    where=st.integers(0, 2),
    part=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.9, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(list(LAYOUTS)),
    largest=st.booleans(),
)
def test_any_shape(
    others: list[int],
    length: int,
    where: int,
    part: float,
    dtype: torch.dtype,
    kind: str,
    layout: str,
    largest: bool,
) -> None:
    sizes, dim = list(others), min(where, len(others))
    sizes.insert(dim, length)
    x = LAYOUTS[layout](values(tuple(sizes), dtype, kind, DEVICE))
    if x is None:
        return
    k = math.ceil(part * length)
    check_topk(x, k, dim, largest)
    check_kth(x, max(1, k), dim, largest)
    check_median(x, dim)


@pytest.mark.parametrize("n", [2**12 + 1, 2**16, 2**17 - 1])
@pytest.mark.parametrize(
    "kind", [kind if kind in ("ties", "special") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_long_rows(n: int, kind: str) -> None:
    x = values((n,), torch.float32, kind, DEVICE)
    for k in (1, 32, 33, 1000, n // 3):
        check_topk(x, k, 0, True)
    check_kth(x, n // 3, 0)
    check_median(x, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.uint8], ids=str)
def test_median_of_all(dtype: torch.dtype) -> None:
    for kind in ("plain", "ties", "special"):
        for layout in LAYOUTS:
            x = LAYOUTS[layout](values((4, 3, 6, 5), dtype, kind, DEVICE))
            for name in ("median", "nanmedian"):
                expected = getattr(torch, name)(x)
                with kernels(name):
                    result = getattr(torch, name)(x)
                    assert result.ndim == 0 and torch.allclose(result, expected, 0, 0, equal_nan=True), (name, layout)
    x = torch.full((5,), math.nan, device=DEVICE)
    with kernels("nanmedian", "nanmedian.dim"):
        assert torch.nanmedian(x).isnan() and torch.nanmedian(x, 0).values.isnan()


def test_0_dim_and_empty() -> None:
    x, empty = torch.tensor(3.0, device=DEVICE), torch.empty(3, 0, device=DEVICE)
    for call in (
        lambda: torch.topk(x, 1),
        lambda: torch.kthvalue(x, 1),
        lambda: torch.median(x, 0),
        lambda: torch.median(x),
        lambda: torch.topk(empty, 0),
        lambda: torch.topk(empty, 2, 0),
        lambda: torch.topk(torch.ones(3, 4, device=DEVICE), 0, 0),
        lambda: torch.median(empty),
        lambda: torch.median(empty, 0),
        lambda: torch.median(empty, 1),
        lambda: torch.kthvalue(empty, 1, 1),
        lambda: torch.kthvalue(empty, 2, 0),
    ):
        ours, theirs = both(call)
        if isinstance(theirs, type):
            assert ours is theirs
            continue
        for a, b in zip(*((r,) if isinstance(r, Tensor) else r for r in (ours, theirs)), strict=True):
            assert torch.allclose(a, b, 0, 0, equal_nan=True) and a.shape == b.shape and a.dtype == b.dtype


def test_errors_are_atens() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    for call in (
        lambda: torch.topk(x, 5),
        lambda: torch.topk(x, -1),
        lambda: torch.topk(x, 1, 2),
        lambda: torch.topk(x > 0, 1),
        lambda: torch.kthvalue(x, 0),
        lambda: torch.kthvalue(x, 5),
        lambda: torch.kthvalue(x, 1, -3),
        lambda: torch.median(x, 2),
        *([lambda: torch.median(x > 0)] if DEVICE == "cpu" else []),  # ATen's has one of booleans on a GPU
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


def test_out() -> None:
    x = values((6, 40), torch.float32, "ties", DEVICE)
    order = stable_order(x, 1, False)
    for make in (torch.empty_like, lambda t: torch.empty(0, dtype=t.dtype, device=DEVICE), spaced):
        first, one = order[:, :5], order[:, 6]
        found, places = make(picked(x, 1, first)), make(first)
        with kernels("topk.values", "kthvalue.values", "median.dim_values", "nanmedian.dim_values"):
            torch.topk(x, 5, largest=False, out=(found, places))
            assert torch.equal(places, first) and torch.equal(found, picked(x, 1, first))
            found, places = make(x[:, 0]), make(one)
            torch.kthvalue(x, 7, out=(found, places))
            assert torch.equal(places, one) and torch.equal(found, picked(x, 1, one[:, None])[:, 0])
            for function in (torch.median, torch.nanmedian):
                found, places = make(x[:, 0]), make(one)
                function(x, 1, out=(found, places))
                assert torch.equal(places, order[:, 19])
    with kernels("median.out", "nanmedian.out"):
        for name in ("median", "nanmedian"):
            out = torch.empty((), device=DEVICE)
            getattr(torch.ops.aten, name).out(x, out=out)
            assert out == x.flatten().sort().values[119]


@pytest.mark.parametrize("layout", ["contiguous", "permuted", "stepped"])
def test_gradients(layout: str) -> None:
    x = LAYOUTS[layout](torch.randperm(60, device=DEVICE).double().view(3, 4, 5)).requires_grad_()
    with flag_gems.use_gems():
        for function in (
            lambda t: torch.topk(t, 2).values,
            lambda t: torch.topk(t, 2, 0, largest=False).values,
            lambda t: torch.kthvalue(t, 2, 1).values,
            lambda t: torch.median(t, 2).values,
            lambda t: torch.nanmedian(t, 0).values,
            torch.median,
        ):
            assert torch.autograd.gradcheck(function, (x,))


MODES = """
import torch
from test_topk import check_kth, check_median, check_topk
from sorting import values

shapes = (((1,), 1), ((5, 3), 2), ((40, 8), 8), ((2, 1500), 7), ((1, 4096), 5), ((2, 4500), 9), ((2, 4500), 50))
for dtype in (torch.float32, torch.int8, torch.float64):
    for shape, k in shapes if dtype == torch.float32 else shapes[:OTHERS]:
        x = values(shape, dtype, "special", "cpu")
        check_topk(x, k, -1, True)
        check_kth(x, k, -1)
        check_median(x, -1)
x = values((4200, 2), torch.bfloat16, "ties", "cpu")
check_topk(x, 3, 0, False)
check_topk(values((1, 4500), torch.float32, "ties", "cpu"), 4200, 1, True)
print("all right")
"""


@pytest.mark.parametrize(
    ("mode", "order"),
    [("checked", "forward"), *(pytest.param("faithful", o, marks=pytest.mark.slow) for o in ("reverse", "random:5"))],
)
def test_gpu_kernels_thread_by_thread(mode: str, order: str) -> None:
    run_in(mode, order, MODES.replace("OTHERS", "4" if mode == "checked" else "6"))


FAR = """
import torch
from test_topk import check_kth, check_median, check_topk, kernels
from sorting import values

check_topk(values((1, 17000), torch.float32, "special", "cpu"), 40, -1, True)
check_topk(values((17000,), torch.bfloat16, "ties", "cpu"), 100, -1, False)
for dtype, shape, kind in ((torch.float32, (2, 2**16), "special"), (torch.int16, (2**16 + 3,), "ties")):
    x = values(shape, dtype, kind, "cpu")
    check_kth(x, 3 * shape[-1] // 4, -1)
    check_median(x, -1)
    with kernels("median", "nanmedian"):
        for name in ("median", "nanmedian"):
            ours = getattr(torch, name)(x)
            expected = torch.sort(x.flatten()[~x.isnan().flatten()]).values
            expected = x.sum() if name == "median" and x.isnan().any() else expected[(len(expected) - 1) // 2]
            assert torch.equal(ours.nan_to_num(7), expected.nan_to_num(7)), (name, ours, expected)
x = torch.zeros(2**16 + 5)
x[2**16] = -1
check_kth(x, 2**16 + 5, 0)
print("all right")
"""


@pytest.mark.parametrize("order", ["random:2", pytest.param("reverse", marks=pytest.mark.slow)])
def test_blocks_that_share_a_row(order: str) -> None:
    run_in("checked", order, FAR)
