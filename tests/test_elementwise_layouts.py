"""Where elementwise results lie and what may overlap, drawn at random beside ATen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import Raised, outcome
from native import OK
from test_base import NUMBERS
from test_base import value as cpu_value
from test_elementwise_engine import gpu, library, output, run

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3, 4]), min_size=1, max_size=5)))


@st.composite
def operand(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes that broadcast to a shape, and strides: dims in any order, steps, expanded, odd ones of single elements."""
    sizes = list(shape[draw(st.integers(0, len(shape))) if draw(st.booleans()) else 0 :])
    for d in range(len(sizes)):
        if draw(st.integers(0, 4)) == 0:
            sizes[d] = 1
    order = draw(st.permutations(range(len(sizes)))) if draw(st.booleans()) else list(range(len(sizes)))[::-1]
    strides, step = [0] * len(sizes), draw(st.sampled_from([1, 1, 1, 2]))
    for d in order:
        strides[d] = step
        step *= sizes[d] * draw(st.sampled_from([1, 1, 1, 2]))
    for d, size in enumerate(sizes):
        if size > 1 and draw(st.integers(0, 5)) == 0:
            strides[d] = 0
        if size == 1 and draw(st.integers(0, 3)) == 0:
            strides[d] = draw(st.sampled_from([0, 1, 5, 100]))
    return tuple(sizes), tuple(strides)


def strided(layout: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    sizes, strides = layout
    reach = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return torch.ones(reach, dtype=dtype).as_strided(sizes, strides)


REAL, MASK, COMPLEX = torch.float32, torch.bool, torch.complex64
OPERATORS: dict[str, tuple[Callable[..., Tensor], tuple[torch.dtype, ...], tuple[Any, ...]]] = {
    "neg": (torch.neg, (REAL,), ()),
    "abs": (torch.abs, (COMPLEX,), ()),
    "mul.Tensor": (torch.mul, (REAL, REAL), ()),
    "add.Scalar": (torch.ops.aten.add.Scalar, (REAL,), (2, 1)),
    "eq.Tensor": (torch.eq, (COMPLEX, COMPLEX), ()),
    "rsub.Tensor": (torch.rsub, (REAL, REAL), (1,)),
    "where.self": (torch.where, (MASK, REAL, REAL), ()),
    "addcmul": (torch.addcmul, (REAL, REAL, REAL), (1,)),
    "clamp.Tensor": (torch.clamp, (REAL, REAL, REAL), ()),
    "masked_fill.Scalar": (torch.masked_fill, (REAL, MASK), (2,)),
    "pow.Tensor_Tensor": (torch.pow, (REAL, REAL), ()),
}
KEYWORDS = ("addcmul", "rsub.Tensor")  # whose numbers go by name in torch


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_strides_of_outputs(name: str, data: st.DataObject) -> None:
    """As TensorIterator decides: channels last, permuted, mixed, broadcast, ambiguous.

    Of one dtype: on a CPU ATen copies an input of another one, and goes by how the copy lies.
    """
    function, dtypes, numbers = OPERATORS[name]
    shape = data.draw(shapes())
    layouts = [data.draw(operand(shape)) for _ in dtypes]
    tensors = [strided(layout, dtype) for layout, dtype in zip(layouts, dtypes, strict=True)]
    expected = outcome(lambda: function(*tensors, *(() if name in KEYWORDS else numbers)))
    assert not isinstance(expected, Raised), expected
    places = zip(layouts, dtypes, range(2, 2 + len(dtypes)), strict=True)
    values = [gpu(*layout, dtype, data=i << 28) for layout, dtype, i in places]
    assert run(name, *values, *(cpu_value(n) for n in numbers)) == OK, library().gems_reason()
    out = output()
    got = tuple(out.sizes[: out.ndim]), tuple(out.strides[: out.ndim])
    assert (*got, out.dtype) == (tuple(expected.shape), expected.stride(), NUMBERS[expected.dtype]), layouts


@st.composite
def view(draw: st.DrawFn, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Some view of 64 elements: dense, transposed, stepped, expanded; from any start."""
    strides = [1] * len(sizes)
    step = draw(st.sampled_from([1, 1, 2]))
    for d in draw(st.permutations(range(len(sizes)))):
        strides[d] = step
        step *= sizes[d]
    if draw(st.integers(0, 5)) == 0:
        strides[draw(st.integers(0, len(sizes) - 1))] = 0
    return sizes, tuple(strides), draw(st.sampled_from([0, 0, 0, 1, 2, 6, 12, 24]))


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_overlap(data: st.DataObject) -> None:
    """Output and inputs in one storage: ATen's result, or its error, whatever overlaps what."""
    sizes = data.draw(st.sampled_from([(6,), (3, 4), (2, 6)]))
    places = [data.draw(view(sizes)) for _ in range(3)]
    in_place = data.draw(st.booleans())
    wide = data.draw(st.booleans())

    def call() -> Any:
        base = torch.arange(64, dtype=torch.float32, device=DEVICE)
        out, x, y = (base.as_strided(*place) for place in places)
        if wide:  # the same bytes in other elements
            y = base.view(torch.complex64).as_strided(places[2][0], places[2][1], places[2][2] // 2).real
        if in_place:
            out.mul_(y)
        else:
            torch.mul(x, y, out=out)
        return base

    expected = outcome(call)
    with flag_gems.use_gems():
        got = outcome(call)
    if isinstance(expected, Raised):
        assert expected.same_as(got), (expected, got)
    else:
        assert isinstance(got, Tensor), got
        assert torch.equal(got, expected)


def test_strides_where_an_input_is_cast() -> None:
    """On a CPU ATen goes by the dense copy of an expanded input of another dtype."""
    x = torch.ones(1, 3, 1, 1, device=DEVICE).expand(2, 3, 4, 5)
    y = torch.ones(2, 3, 4, 5, dtype=torch.float64, device=DEVICE).contiguous(memory_format=torch.channels_last)
    for a, b in ((x, y), (y, x)):
        expected = (a * b).stride()
        with flag_gems.use_gems():
            assert (a * b).stride() == expected
