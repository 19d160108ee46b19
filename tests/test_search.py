"""searchsorted, bucketize and isin beside ATen: sides, sorters, rows, dtypes, layouts, NaN, out=."""

from __future__ import annotations

import math
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compare import both, kernels
from layouts import LAYOUTS
from sorting import FLOATS, INTS, dtypes, values
from test_sort import run_in

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device


def same(name: str, call: Any) -> None:
    """Our kernel runs, and gives ATen's result."""
    expected = call()
    with kernels(name):
        result = call()
    assert torch.equal(result, expected) and result.dtype == expected.dtype, name
    assert result.stride() == expected.stride() or result.numel() < 2


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 4),
    length=st.integers(0, 130),
    count=st.integers(0, 40),
    shared=st.booleans(),
    right=st.booleans(),
    int32=st.booleans(),
    use_sorter=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.int64, torch.bfloat16]),
    kind=st.sampled_from(["plain", "ties"]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_searchsorted(
    rows: int,
    length: int,
    count: int,
    shared: bool,
    right: bool,
    int32: bool,
    use_sorter: bool,
    dtype: torch.dtype,
    kind: str,
    layout: str,
) -> None:
    sequence = values((length,) if shared else (rows, length), dtype, kind, DEVICE)
    wanted = LAYOUTS[layout](values((rows, count), dtype, kind, DEVICE, 1))
    if wanted is None:
        return
    sorter = torch.argsort(sequence, dim=-1, stable=True) if use_sorter else None
    sequence = sequence if use_sorter else sequence.sort(-1).values
    side = "right" if right else "left"
    options = {"out_int32": int32, "right": right, "sorter": sorter}
    same("searchsorted.Tensor", lambda: torch.searchsorted(sequence, wanted, **options))
    same("searchsorted.Tensor", lambda: torch.searchsorted(sequence, wanted, side=side, sorter=sorter))


@pytest.mark.parametrize("dtype", dtypes(*FLOATS, *INTS))
def test_every_dtype(dtype: torch.dtype) -> None:
    line = values((50,), dtype, "ties", DEVICE).sort().values
    x = values((6, 7), dtype, "special", DEVICE)
    for right in (False, True):
        same("searchsorted.Tensor", lambda r=right: torch.searchsorted(line, x, right=r))
        same("bucketize.Tensor", lambda r=right: torch.bucketize(x, line, right=r, out_int32=True))
        for number in (2, 1.5, -300, True):
            same("searchsorted.Scalar", lambda r=right, n=number: torch.searchsorted(line, n, right=r))
            same("bucketize.Scalar", lambda r=right, n=number: torch.bucketize(n, line, right=r))


def test_nan_and_infinity() -> None:
    line = torch.tensor([-math.inf, -1, 0, 0, 2, math.inf, math.nan, math.nan], device=DEVICE)
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 3], device=DEVICE)
    for right in (False, True):
        same("searchsorted.Tensor", lambda r=right: torch.searchsorted(line, x, right=r))
        same("searchsorted.Tensor", lambda r=right: torch.searchsorted(line[:6], x, right=r))


def test_sequences_in_any_layout() -> None:
    for layout in ("transposed", "stepped", "offset", "expanded"):
        lines = LAYOUTS[layout](values((4, 20), torch.float32, "sorted", DEVICE))
        x = values((4, 9), torch.float32, "plain", DEVICE, 1)
        same("searchsorted.Tensor", lambda s=lines, v=x: torch.searchsorted(s, v))
        same("bucketize.Tensor", lambda s=lines, v=x: torch.bucketize(v, s[1]))


def test_out_and_errors() -> None:
    line, x = torch.arange(5.0, device=DEVICE), torch.tensor([[0.5, 9], [2, -1]], device=DEVICE)
    out = torch.empty(0, dtype=torch.int64, device=DEVICE)
    number = torch.empty((), dtype=torch.int32, device=DEVICE)
    names = ("searchsorted.Tensor_out", "bucketize.Tensor_out", "searchsorted.Scalar_out", "isin.Tensor_Tensor_out")
    with kernels(*names):
        assert torch.searchsorted(line, x, out=out) is out
        assert out.tolist() == [[1, 5], [2, 0]]
        assert torch.bucketize(x, line, right=True, out=out).tolist() == [[1, 5], [3, 0]]
        assert torch.searchsorted(line, 2.5, out_int32=True, out=number) == 3
        found = torch.empty(0, dtype=torch.bool, device=DEVICE)
        assert torch.isin(x, line, out=found).tolist() == [[False, False], [True, False]]
    for call in (
        lambda: torch.searchsorted(line.view(1, 5), x),
        lambda: torch.searchsorted(line, x, side="up"),
        lambda: torch.searchsorted(line, x, right=True, side="left"),
        lambda: torch.searchsorted(line, x, sorter=torch.arange(4, device=DEVICE)),
        lambda: torch.searchsorted(line, x, sorter=torch.arange(5, device=DEVICE, dtype=torch.int32)),
        lambda: torch.searchsorted(line.view(1, 5), 3),
        lambda: torch.bucketize(x, line.view(1, 5)),
        lambda: torch.searchsorted(line, x, out=torch.empty(4, device=DEVICE)),
        lambda: torch.isin(x + 0j, line),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


@pytest.mark.skipif(DEVICE != "cpu", reason="an index out of range ends a GPU's context")
def test_a_sorter_out_of_range_is_atens_error() -> None:
    line, x = torch.arange(5.0), torch.tensor([0.5, 9])
    for wrong in (5, -1, 2**40):
        ours, theirs = both(lambda w=wrong: torch.searchsorted(line, x, sorter=torch.full((5,), w)))
        assert ours is theirs is RuntimeError


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 30), max_size=3),
    count=st.one_of(st.integers(0, 40), st.sampled_from([300, 5000])),
    left=st.sampled_from([torch.float32, torch.int64, torch.int8]),
    right=st.sampled_from([torch.float32, torch.int64]),
    kind=st.sampled_from(["ties", "special"]),
    layout=st.sampled_from(list(LAYOUTS)),
    invert=st.booleans(),
)
def test_isin(
    shape: list[int], count: int, left: torch.dtype, right: torch.dtype, kind: str, layout: str, invert: bool
) -> None:
    x = LAYOUTS[layout](values(tuple(shape), left, kind, DEVICE))
    if x is None:
        return
    tests = values((count,), right, kind, DEVICE, 1)
    wide = [t.double() if t.dtype.is_floating_point else t for t in (x, tests)]  # 2^63 is no float
    if left == right or not {left, right} & {torch.int64}:
        wide = [x.double(), tests.double()] if left.is_floating_point or right.is_floating_point else [x, tests]
    else:
        wide = [x.float(), tests.float()] if left.is_floating_point or right.is_floating_point else [x, tests]
    expected = (wide[0].unsqueeze(-1) == wide[1]).any(-1) ^ invert
    with kernels("isin.Tensor_Tensor"):
        result = torch.isin(x, tests, invert=invert)
    assert torch.equal(result, expected) and result.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8], ids=str)
def test_isin_with_numbers(dtype: torch.dtype) -> None:
    x = values((5, 9), dtype, "ties", DEVICE)
    for number in (1, 2.0, -3 if dtype.is_signed else 3, 0.0):
        for invert in (False, True):
            same("isin.Tensor_Scalar", lambda n=number, i=invert: torch.isin(x, n, invert=i))
            same("isin.Scalar_Tensor", lambda n=number, i=invert: torch.isin(n, x, invert=i))
    same("isin.Scalar_Tensor", lambda: torch.isin(3, x[:0]))


MODES = """
import torch
from test_search import same
from sorting import values

for dtype in (torch.float32, torch.int64):
    line, x = values((70,), dtype, "sorted", "cpu"), values((9, 40), dtype, "ties", "cpu", 1)
    same("searchsorted.Tensor", lambda: torch.searchsorted(line, x))
    same("searchsorted.Tensor", lambda: torch.searchsorted(line, x, right=True, sorter=torch.arange(70)))
    same("bucketize.Tensor", lambda: torch.bucketize(x.t(), line))
    for count in (5, 70):
        same("isin.Tensor_Tensor", lambda: torch.isin(x, line[:count]))
print("all right")
"""


def test_gpu_kernels_thread_by_thread() -> None:
    run_in("checked", "forward", MODES)
