"""sort: every length, dim, dtype and layout; NaN, zeros of both signs and ties; out= and gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import both, kernels
from layouts import LAYOUTS
from sorting import FLOATS, INTS, KINDS, dtypes, picked, same_bits, stable_order, values

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ATEN = torch.ops.aten
LONG = [2**k + d for k in (8, 10, 12, 13) for d in (-1, 0, 1)] + [2**17 + 1]


def check(x: Tensor, dim: int, descending: bool, stable: bool | None = True) -> None:
    order = stable_order(x, dim, descending)
    if stable is None:
        with kernels("sort"):
            result = torch.sort(x, dim, descending)
    else:
        with kernels("sort.stable"):
            result = torch.sort(x, stable=stable, dim=dim, descending=descending)
    assert torch.equal(result.indices, order), (x.shape, x.dtype, dim, descending)
    assert same_bits(result.values, picked(x, dim, order))


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", dtypes(*FLOATS, *INTS, torch.bool))
def test_every_dtype(dtype: torch.dtype, descending: bool) -> None:
    for shape in ((7,), (3, 20), (2, 3, 130), (2, 700), (1, 9000)):
        for kind in KINDS:
            check(values(shape, dtype, kind, DEVICE), -1, descending)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3),
    length=st.one_of(st.integers(1, 130), st.sampled_from(LONG[:-1])),
    dim=st.integers(-3, 2),
    dtype=st.sampled_from([torch.float32, torch.int64, torch.bfloat16]),
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(list(LAYOUTS)),
    descending=st.booleans(),
    stable=st.sampled_from([True, False, None]),
)
def test_any_shape(
    shape: list[int],
    length: int,
    dim: int,
    dtype: torch.dtype,
    kind: str,
    layout: str,
    descending: bool,
    stable: bool | None,
) -> None:
    rank = len(shape) + 1
    dim = max(-rank, min(rank - 1, dim))
    while len(shape) and length * torch.Size(shape).numel() > 40_000:
        shape[shape.index(max(shape))] //= 4
    sizes = [max(1, size) for size in shape]
    sizes.insert(dim % rank, length)
    x = LAYOUTS[layout](values(tuple(sizes), dtype, kind, DEVICE))
    if x is not None:
        check(x, dim, descending, stable)


@pytest.mark.parametrize("n", [n if n in (257, 1024, 8191) else pytest.param(n, marks=pytest.mark.slow) for n in LONG])
def test_long_rows(n: int) -> None:
    for kind in ("special", "ties"):
        check(values((n,), torch.float32, kind, DEVICE), 0, False)
        check(values((n,), torch.int64, kind, DEVICE), 0, True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_of_results_are_atens(layout: str) -> None:
    for shape in ((6, 5), (2, 3, 4), (2, 3, 4, 5), (3, 1, 4)):
        x = LAYOUTS[layout](values(shape, torch.float32, "plain", DEVICE))
        if x is None:
            continue
        for dim in range(-1, x.ndim - 1):
            ours, theirs = both(lambda x=x, d=dim: torch.sort(x, dim=d, stable=True))
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a, b) and a.stride() == b.stride(), (layout, shape, dim)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (2, 0, 4)], ids=str)
def test_0_dim_and_empty(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, device=DEVICE)
    for dim in range(-max(1, len(shape)), max(1, len(shape))):
        ours, theirs = both(lambda d=dim: torch.sort(x, dim=d, stable=True))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) and a.shape == b.shape and a.stride() == b.stride()


def test_argsort_goes_through_sort() -> None:
    x = values((4, 50), torch.float32, "ties", DEVICE)
    with kernels("sort.stable"):
        assert torch.equal(torch.argsort(x, dim=-1, stable=True), stable_order(x, -1, False))
    with kernels("sort"):
        assert torch.equal(torch.argsort(x, 0, True), stable_order(x, 0, True))
    expected = torch.quantile(x, 0.3, dim=1)
    with kernels("sort"):
        assert torch.equal(torch.quantile(x, 0.3, dim=1), expected)


def test_out() -> None:
    x = values((6, 40), torch.float32, "ties", DEVICE)
    order = stable_order(x, 1, False)
    for make in (torch.empty_like, lambda t: torch.empty(0, dtype=t.dtype, device=DEVICE), spaced):
        found, places = make(x), make(order)
        with kernels("sort.values", "sort.values_stable"):
            torch.sort(x, 1, out=(found, places))
            assert torch.equal(places, order) and torch.equal(found, picked(x, 1, order))
            found.zero_(), places.zero_()
            torch.sort(x, stable=True, dim=1, out=(found, places))
            assert torch.equal(places, order) and torch.equal(found, picked(x, 1, order))


def spaced(t: Tensor) -> Tensor:
    """Every second element of a longer tensor."""
    return torch.empty((*t.shape, 2), dtype=t.dtype, device=DEVICE)[..., 1]


def test_out_of_a_transposed_input_has_atens_strides() -> None:
    x = values((6, 4), torch.float32, "plain", DEVICE).t()

    def run() -> Any:
        out = torch.empty(0, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
        torch.sort(x, out=out)
        return out

    for a, b in zip(*both(run), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def test_errors_are_atens() -> None:
    x = torch.randn(3, 4, device=DEVICE)
    wrong = torch.empty(0, dtype=torch.int32, device=DEVICE)
    for call in (
        lambda: torch.sort(x, 2),
        lambda: torch.sort(x, -3),
        lambda: torch.sort(x + 0j),
        lambda: torch.sort(x, out=(torch.empty(0, device=DEVICE), wrong)),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


def test_same_bits_twice() -> None:
    for n in (1000, 20_000):
        x = values((3, n), torch.float32, "special", DEVICE)
        with kernels("sort"):
            first, second = torch.sort(x), torch.sort(x)
        assert same_bits(first.values, second.values) and torch.equal(first.indices, second.indices)


@pytest.mark.parametrize("layout", ["contiguous", "permuted", "stepped"])
def test_gradients(layout: str) -> None:
    x = LAYOUTS[layout](torch.randperm(60, device=DEVICE).double().view(3, 4, 5)).requires_grad_()
    with flag_gems.use_gems():
        for dim in (0, 1, -1):
            assert torch.autograd.gradcheck(lambda t, d=dim: torch.sort(t, d).values, (x,))
            assert torch.autograd.gradcheck(lambda t, d=dim: torch.sort(t, stable=True, dim=d).values, (x,))


# Short rows in every way they share a block, long rows of several tiles, and strided ones.
MODES = """
import torch
from test_sort import check
from sorting import values

for dtype in (torch.float32, torch.int16, torch.float64):
    for shape in ((1,), (5, 3), (40, 8), (3, 33), (2, 130), (1, 600), (2, 2049)):
        check(values(shape, dtype, "special", "cpu"), -1, dtype == torch.int16)
for dtype in (torch.uint8, torch.float32, torch.int64):
    check(values((2, 4500), dtype, "special", "cpu"), -1, False)
check(values((4200, 2), torch.bfloat16, "ties", "cpu"), 0, True)
check(values((3, 20, 4), torch.float32, "ties", "cpu").mT, 1, True)
print("all right")
"""


def run_in(mode: str, order: str, program: str) -> None:
    """Runs a program where every thread of a block exists."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    env = os.environ | {"GEMS_CPU_MODE": mode, "GEMS_CPU_ORDER": order, "GEMS_VENDOR": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stderr[-3000:]


@pytest.mark.parametrize(
    ("mode", "order"),
    [("checked", "forward"), *(pytest.param("faithful", o, marks=pytest.mark.slow) for o in ("reverse", "random:5"))],
)
def test_gpu_kernels_thread_by_thread(mode: str, order: str) -> None:
    run_in(mode, order, MODES)
