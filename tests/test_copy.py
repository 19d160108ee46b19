"""Copies, casts, fills and factories beside ATen: dtype pairs, layouts, overlap, memory formats, overflow."""

from __future__ import annotations

import itertools
import math
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

from compare import assert_same, check, counts, outcome
from layouts import LAYOUTS, crossed

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ALL = (*FLOATS, *INTS, torch.bool)
BF16_FIRST = (torch.bfloat16, *(dtype for dtype in ALL if dtype != torch.bfloat16))
aten = torch.ops.aten


def sample(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    numbers = torch.randint(0, 100, shape, generator=generator)
    if dtype.is_floating_point or dtype.is_complex:
        return ((numbers - 50) / 8).to(dtype).to(DEVICE)
    return (numbers % 2 == 0 if dtype == torch.bool else numbers).to(dtype).to(DEVICE)


# ---- copy_ and _to_copy


@pytest.mark.parametrize(("source", "target"), crossed(BF16_FIRST, BF16_FIRST))
def test_dtype_pairs(source: torch.dtype, target: torch.dtype) -> None:
    x = sample(source, 5, 67)
    check("copy_", lambda: torch.zeros(5, 67, dtype=target, device=DEVICE).copy_(x))
    check("copy_", lambda: torch.zeros(67, 5, dtype=target, device=DEVICE).t().copy_(x))
    if source != target:
        check("_to_copy", lambda: x.to(target))
        check("_to_copy", lambda: x[:, ::3].to(target))
        check("_to_copy", lambda: x.t().to(target, memory_format=torch.contiguous_format))


@pytest.mark.parametrize("source", FLOATS)
def test_special_values(source: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-30, 70000.0, 2.5, 3.5, -2.5], device=DEVICE).to(source)
    for target in FLOATS:
        check("copy_", lambda t=target: torch.zeros(9, dtype=t, device=DEVICE).copy_(x))
    check("copy_", lambda: torch.zeros(9, dtype=torch.bool, device=DEVICE).copy_(x))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.uint16, torch.float8_e4m3fn])
def test_moved_as_bytes(dtype: torch.dtype) -> None:
    """Dtypes without arithmetic of ours are moved all the same, but not converted."""
    x = sample(torch.float32, 6, 33).to(dtype)
    expected = x.clone()
    with flag_gems.use_gems(include=["clone", "copy_"]):
        before = counts("clone")["kernel"], counts("copy_")["kernel"]
        ours = x.clone()
        copied = torch.empty_like(x).copy_(x.t().contiguous().t())
    assert counts("clone")["kernel"] > before[0] and counts("copy_")["kernel"] > before[1]
    assert ours.view(torch.uint8).equal(expected.view(torch.uint8))
    assert copied.view(torch.uint8).equal(expected.view(torch.uint8))


PAIRS_OF_LAYOUTS = [pair for pair in itertools.product(LAYOUTS, LAYOUTS) if pair[0] != "expanded"]
MOVED = (torch.float32, torch.bool, torch.bfloat16, torch.float64, torch.complex128)


@pytest.mark.parametrize(("dtype", "pair"), crossed(MOVED, [("transposed", "contiguous"), *PAIRS_OF_LAYOUTS]))
def test_layout_pairs(dtype: torch.dtype, pair: tuple[str, str]) -> None:
    to, source = pair
    x = LAYOUTS[source](sample(dtype, 3, 66, 2, 35))
    y = LAYOUTS[to](torch.zeros(3, 66, 2, 35, dtype=dtype, device=DEVICE))

    def copy() -> Tensor:
        target = torch.empty_strided(y.shape, y.stride(), dtype=dtype, device=DEVICE)
        return target.copy_(x)

    check("copy_", copy)


SHAPES = [(130, 127), (64, 64), (3, 65, 200), (8, 7), (1, 300), (2, 3, 64, 9)]


@pytest.mark.parametrize(("dtype", "shape"), crossed(MOVED[2:] + MOVED[:2], SHAPES))
def test_transposing(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = sample(dtype, *shape)
    for order in itertools.permutations(range(len(shape))):
        check("clone", lambda o=order: x.permute(o).clone(memory_format=torch.contiguous_format))


COUNTS = [4097, 1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 4096, 70001]


@pytest.mark.parametrize(("dtype", "count"), crossed(MOVED, COUNTS))
def test_sizes_and_offsets(dtype: torch.dtype, count: int) -> None:
    x = sample(dtype, count + 3)
    for start in range(3):
        check("clone", lambda s=start: x[s : s + count].clone())


def test_broadcast() -> None:
    x = sample(torch.float32, 3, 1, 5)
    check("copy_", lambda: torch.zeros(2, 3, 4, 5, device=DEVICE).copy_(x))
    check("copy_", lambda: torch.zeros(2, 3, 4, 5, device=DEVICE).copy_(x[0, 0, 0]))
    check("copy_", lambda: torch.zeros(7, 1000, device=DEVICE).copy_(sample(torch.float32, 7, 1)))
    check("copy_", lambda: torch.zeros(7, 1000, device=DEVICE).copy_(sample(torch.bfloat16, 1, 1)))
    check("copy_", lambda: torch.zeros(3, 5, device=DEVICE).copy_(x), kernel=False)
    check("copy_", lambda: torch.zeros(2, device=DEVICE).copy_(sample(torch.float32, 3)), kernel=False)


def test_empty_and_0dim() -> None:
    check("clone", lambda: torch.zeros(0, 3, device=DEVICE).clone())
    check("clone", lambda: torch.zeros((), device=DEVICE).clone())
    check("copy_", lambda: torch.zeros(0, 3, device=DEVICE).copy_(torch.zeros(1, 3, device=DEVICE)))
    check("_to_copy", lambda: torch.ones((), device=DEVICE).to(torch.int16))


def test_overlap() -> None:
    """Views of the same memory are ATen's: it copies a tensor onto itself, or raises."""
    x = sample(torch.float32, 40)

    def shifted() -> Tensor:
        y = x.clone()
        return y[1:].copy_(y[:-1])

    def onto_itself() -> Tensor:
        y = x.clone()
        return y.copy_(y)

    def into_expanded() -> Tensor:
        return torch.zeros(1, device=DEVICE).expand(4).copy_(x[:4])

    for call in (shifted, onto_itself, into_expanded):
        check("copy_", call, kernel=False)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.preserve_format, torch.channels_last])
def test_memory_formats(form: torch.memory_format) -> None:
    for layout in LAYOUTS.values():
        x = layout(sample(torch.float32, 2, 3, 5, 7))
        check("clone", lambda t=x: t.clone(memory_format=form))
        check("_to_copy", lambda t=x: t.to(torch.bfloat16, memory_format=form))
    video = sample(torch.float32, 2, 3, 5, 7, 2)
    check("clone", lambda: video.clone(memory_format=torch.channels_last_3d))
    check("clone", lambda: video.clone(memory_format=torch.channels_last), kernel=False)


def test_preserved_strides_of_gaps() -> None:
    """A tensor with gaps keeps the order of its dims."""
    x = sample(torch.float32, 6, 8, 10)
    for view in (x[:, ::2], x.permute(2, 0, 1)[::2], x.transpose(0, 1)[:, :, 3:5], x[:1].expand(4, 8, 10), x[:, :1]):
        check("clone", lambda v=view: v.clone())
        check("_to_copy", lambda v=view: v.to(torch.float64))
        check("full_like", lambda v=view: torch.full_like(v, 2))


def test_clone_out() -> None:
    x = sample(torch.float32, 4, 6)
    check("clone.out", lambda: aten.clone.out(x, out=torch.empty(0, device=DEVICE)))
    check("clone.out", lambda: aten.clone.out(x, out=torch.empty(4, 6, device=DEVICE)))


def test_gradients() -> None:
    def step() -> Any:
        x = sample(torch.float32, 4, 6).requires_grad_()
        y = x.t().contiguous().to(torch.float64).clone() * torch.arange(24, device=DEVICE).view(6, 4)
        y.sum().backward()
        return x.grad

    expected = step()
    with flag_gems.use_gems():
        assert_same(step(), expected)


def test_device_that_is_named() -> None:
    x = sample(torch.float32, 3)
    check("_to_copy", lambda: x.to(DEVICE, torch.float64))


# ---- fills

NUMBERS = (-129, 0, 1, -1, 3, 255, 256, 2**31, True, 0.5, -2.7, 70000.0, 1e39, math.nan, math.inf, 1 + 2j)


@pytest.mark.parametrize(("dtype", "value"), crossed([*BF16_FIRST, torch.complex64], NUMBERS), ids=str)
def test_fill(dtype: torch.dtype, value: Any) -> None:
    """A number that does not fit the dtype is ATen's error."""

    def fill() -> Tensor:
        return torch.ones(5, 67, dtype=dtype, device=DEVICE).fill_(value)

    expected = outcome(fill)
    with flag_gems.use_gems(include=["fill_.Scalar"]):
        assert_same(outcome(fill), expected, None, f"fill_({value})")


def test_fill_variants() -> None:
    x = sample(torch.float32, 6, 10)
    check("fill.Scalar", lambda: torch.fill(x, 3))
    check("fill_.Scalar", lambda: x.clone().fill_(3))
    check("fill_.Scalar", lambda: x.clone()[:, ::3].fill_(3))
    check("fill_.Scalar", lambda: x.clone()[1:, 1:7].fill_(-0.5))
    check("fill_.Tensor", lambda: x.clone().fill_(torch.tensor(7, device=DEVICE)))
    check("fill_.Tensor", lambda: x.clone().t()[1:].fill_(torch.tensor(7.5, device=DEVICE, dtype=torch.bfloat16)))
    check("fill_.Tensor", lambda: x.clone().fill_(torch.ones(1, device=DEVICE)), kernel=False)
    check("zero_", lambda: x.clone().zero_())
    check("zero_", lambda: x.clone()[::2].zero_())
    check("fill_.Scalar", lambda: torch.zeros(1, device=DEVICE).expand(4).fill_(1), kernel=False)


# ---- factories


@pytest.mark.parametrize("size", [(), (0,), (5,), (3, 0, 2), (2, 3, 4)])
def test_factories(size: tuple[int, ...]) -> None:
    check("zeros", lambda: torch.zeros(size, device=DEVICE))
    check("ones", lambda: torch.ones(size, dtype=torch.int8, device=DEVICE))
    for value in (True, 4, 2.5):
        check("full", lambda v=value: torch.full(size, v, device=DEVICE))
    check("full", lambda: torch.full(size, 7, dtype=torch.bfloat16, device=DEVICE))
    check("zeros.out", lambda: torch.zeros(size, out=torch.ones(0, dtype=torch.int64, device=DEVICE)))
    check("full.out", lambda: torch.full(size, 3, out=torch.ones(size, device=DEVICE)))
    x = torch.empty(2, dtype=torch.float64, device=DEVICE)
    check("new_zeros", lambda: x.new_zeros(size))
    check("new_ones", lambda: x.new_ones(size, dtype=torch.bool))
    check("new_full", lambda: x.new_full(size, 2))


def test_factories_that_are_atens() -> None:
    x = sample(torch.float32, 2, 3)
    check("zeros", lambda: torch.zeros(-1, device=DEVICE), kernel=False)
    check("zeros_like", lambda: torch.zeros_like(x, memory_format=torch.channels_last), kernel=False)
    check("full", lambda: torch.full((2,), 300, dtype=torch.uint8, device=DEVICE), kernel=False)


def test_factories_follow_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        check("zeros", lambda: torch.zeros(3, device=DEVICE))
        check("full", lambda: torch.full((3,), 1.5, device=DEVICE))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_like(layout: str) -> None:
    x = LAYOUTS[layout](sample(torch.float32, 2, 3, 4, 5))
    check("zeros_like", lambda: torch.zeros_like(x))
    check("ones_like", lambda: torch.ones_like(x, dtype=torch.int32))
    check("full_like", lambda: torch.full_like(x, 2.5, memory_format=torch.contiguous_format))
