"""Operators that only move elements, beside ATen: the same bits, shapes and strides, forward, backward, in every form.

As a program it runs `SMALL` in the cpu mode that the environment names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from flag_gems import _C
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass
from compare import Raised, assert_same, outcome, tensors
from cpu_modes import EVERY_THREAD, run_in_mode
from layouts import LAYOUTS, crossed

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
aten = torch.ops.aten
DTYPES = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.complex128)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
many = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def numbered(dtype: torch.dtype, *shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    values = torch.arange(1, count + 1, device=DEVICE)
    return (values % 3 == 0 if dtype == torch.bool else values % 251).to(dtype).reshape(shape)


def bits(t: Tensor) -> bytes:
    flat = torch.empty(t.numel(), dtype=t.dtype)
    return flat.copy_(t.detach().reshape(-1)).view(torch.uint8).numpy().tobytes()


def check(name: str, call: Callable[[], Any], kernel: bool | None = True) -> None:
    """What ATen gives, bit for bit; `kernel`: `name` ran in our kernel, or (False) was left to ATen."""
    expected = outcome(call)
    with flag_gems.use_gems():
        before = dict(flag_gems.stats().get(name, {"kernel": 0, "fallback": 0}))
        got = outcome(call)
        after = flag_gems.stats().get(name, {"kernel": 0, "fallback": 0})
    assert_same(got, expected, None, name)
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        assert bits(a) == bits(b), name
    if kernel is not None and not isinstance(expected, Raised):
        what = "kernel" if kernel else "fallback"
        assert after[what] > before[what], (name, before, after)


def dense_or_expanded(t: Tensor) -> bool | None:
    """True where a scatter's copy of t has no gaps in memory; None: it may be left to ATen."""
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1):
        if stride == 0:
            return True
        if stride != step:
            return None
        step *= size
    return True


@st.composite
def inputs(draw: st.DrawFn, least: int = 1, most: int = 5, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Tensor:
    """A tensor of some rank, dtype and layout."""
    shape = draw(st.lists(st.integers(1, 9), min_size=least, max_size=most))
    t = numbered(draw(st.sampled_from(dtypes)), *shape)
    changed = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](t)
    if draw(st.booleans()) and t.ndim > 1:
        changed = (t if changed is None else changed).transpose(0, -1)
    return t if changed is None else changed


# ---- pads


@many
@given(inputs(), st.data())
def test_constant_pad(x: Tensor, data: st.DataObject) -> None:
    pads = []
    for d in range(data.draw(st.integers(0, x.ndim))):
        size = x.shape[x.ndim - 1 - d]
        before = data.draw(st.integers(-min(size, 3), 5))
        pads += [before, data.draw(st.integers(-max(0, min(size + min(before, 0), 3)), 5))]
    value = data.draw(st.sampled_from([0, 1, 0.5, True] if x.dtype.is_floating_point else [0, 1, True]))
    check("constant_pad_nd", lambda: aten.constant_pad_nd(x, pads, value))
    out = torch.empty(0, dtype=x.dtype, device=DEVICE)
    check("constant_pad_nd.out", lambda: aten.constant_pad_nd.out(x, pads, value, out=out.new_empty(0)))


def test_constant_pad_of_what_does_not_fit() -> None:
    x = numbered(torch.uint8, 3, 4)
    check("constant_pad_nd", lambda: F.pad(x, (1, 1), value=300), kernel=None)
    check("constant_pad_nd", lambda: F.pad(x, (-3, -3)), kernel=None)
    check("constant_pad_nd", lambda: F.pad(x, (1, 1, 1)), kernel=None)
    check("constant_pad_nd", lambda: F.pad(x.bfloat16(), (1, 1), value=float("nan")))
    check("constant_pad_nd", lambda: F.pad(x.float(), (1, 1), value=-0.0))


@many
@given(st.sampled_from(["reflection", "replication"]), st.integers(1, 3), st.booleans(), st.data())
def test_edge_pads(kind: str, rank: int, batch: bool, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(2, 7), min_size=rank + 1 + batch, max_size=rank + 1 + batch))
    x = numbered(data.draw(st.sampled_from(FLOATS)), *shape)
    changed = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](x)
    x = x if changed is None else changed
    pads = []
    for size in reversed(shape[-rank:]):
        most = size - 1 if kind == "reflection" else 9
        before = data.draw(st.integers(-(size // 2), most))
        pads += [before, data.draw(st.integers(-((size - 1) // 2), most))]
    name = f"{kind}_pad{rank}d"
    aten_result = getattr(aten, name)(x, pads)
    check(name, lambda: getattr(aten, name)(x, pads))
    check(f"{name}.out", lambda: getattr(aten, name).out(x, pads, out=x.new_empty(0)), None if x.ndim == 4 else True)
    check(f"{name}.out", lambda: getattr(aten, name).out(x, pads, out=torch.empty_like(aten_result)))


@many
@given(st.sampled_from(["reflection", "replication"]), st.integers(1, 3), st.booleans(), st.data())
def test_gradients_of_edge_pads(kind: str, rank: int, batch: bool, data: st.DataObject) -> None:
    """Sums, so within a rounding of ATen's; the same bits twice."""
    shape = data.draw(st.lists(st.integers(2, 7), min_size=rank + 1 + batch, max_size=rank + 1 + batch))
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
    pads = []
    for size in reversed(shape[-rank:]):
        most = size - 1 if kind == "reflection" else 9
        before = data.draw(st.integers(-(size // 2), most))
        pads += [before, data.draw(st.integers(-((size - 1) // 2), most))]
    x = numbered(dtype, *shape) / 8
    grad = getattr(aten, f"{kind}_pad{rank}d")(x, pads).flip(0) + 0.25
    layout = LAYOUTS[data.draw(st.sampled_from(["contiguous", "transposed", "stepped", "offset", "expanded"]))]
    grad = grad if layout(grad) is None else layout(grad)
    name = f"{kind}_pad{rank}d_backward"
    exact = getattr(aten, name)(grad.double(), x.double(), pads)
    with flag_gems.use_gems():
        flag_gems.reset_stats()
        first, second = (getattr(aten, name)(grad, x, pads) for _ in range(2))
        third = getattr(aten, name).grad_input(grad, x, pads, grad_input=torch.empty_like(first))
        stats = flag_gems.stats()
    torch.testing.assert_close(first, exact.to(dtype))
    assert bits(first) == bits(second) == bits(third) and first.is_contiguous()
    assert stats[name]["kernel"] == 2 and stats[f"{name}.grad_input"]["kernel"] == 1


# ---- order


@many
@given(inputs(), st.data())
def test_flip_roll_rot90(x: Tensor, data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(0, x.ndim - 1), unique=True, max_size=x.ndim))
    check("flip", lambda: x.flip(dims))
    dims = data.draw(st.lists(st.integers(-x.ndim, x.ndim - 1), min_size=1, max_size=3))
    shifts = data.draw(st.lists(st.integers(-20, 20), min_size=len(dims), max_size=len(dims)))
    check("roll", lambda: x.roll(shifts, dims))
    check("roll", lambda: x.roll(shifts[0]), kernel=x.is_contiguous())
    if x.ndim >= 2:
        turns, plane = data.draw(st.integers(-5, 5)), data.draw(st.permutations(range(x.ndim)))[:2]
        check("rot90", lambda: torch.rot90(x, turns, plane))


def test_bad_dims_are_atens_errors() -> None:
    x = numbered(torch.float32, 3, 4)
    for call in (
        lambda: x.flip(0, 0),
        lambda: x.flip(2),
        lambda: x.roll(1, 5),
        lambda: x.roll((1, 2), 0),
        lambda: torch.rot90(x, 1, (0, 0)),
        lambda: x[0].triu(),
        lambda: x.repeat(2),
        lambda: x.repeat(-1, 1),
        lambda: torch.diag_embed(x, 0, 1, 1),
        lambda: torch.select_scatter(x, x[0], 0, 7),
        lambda: torch.slice_scatter(x, x, 0, 0, 2),
        lambda: aten.constant_pad_nd(x, [1] * 6),
        lambda: aten.reflection_pad1d(x, [4, 0]),
        lambda: aten.view_copy(x, [5, 3]),
        lambda: aten.expand_copy(x, [2, 4]),
        lambda: aten.permute_copy(x, [0, 0]),
        lambda: F.pixel_shuffle(x[None], 2),
    ):
        expected = outcome(call)
        assert isinstance(expected, Raised)
        with flag_gems.use_gems():
            assert expected.same_as(outcome(call))


# ---- triangles and diagonals


@many
@given(inputs(least=2), st.integers(-10, 10), st.sampled_from(["triu", "tril"]))
def test_triangles(x: Tensor, k: int, name: str) -> None:
    check(name, lambda: getattr(x, name)(k))
    if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return

    def in_place() -> Tensor:
        other = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE)
        return getattr(other.copy_(x), f"{name}_")(k)

    check(f"{name}_", in_place)
    with flag_gems.use_gems():  # ATen's own writes beyond an output of other strides
        out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE)
        getattr(torch, name)(x, k, out=out)
    assert bits(out) == bits(getattr(x.contiguous(), name)(k))
    check(f"{name}.out", lambda: getattr(torch, name)(x, k, out=torch.empty(0, dtype=x.dtype, device=DEVICE)))


def test_triangles_keep_no_nan_and_take_any_diagonal() -> None:
    x = torch.full((5, 6), float("nan"), device=DEVICE)
    for k in (-(2**62), -6, 0, 6, 2**62):
        check("triu", lambda k=k: x.triu(k))
        check("tril", lambda k=k: x.tril(k))
    check("triu", lambda: numbered(torch.float32, 3, 0, 4).triu())
    check("triu", lambda: numbered(torch.float32, 130, 257).t().triu(3))


@many
@given(inputs(least=2, most=4), st.integers(-4, 4), st.data())
def test_diagonals(x: Tensor, offset: int, data: st.DataObject) -> None:
    a, b = data.draw(st.permutations(range(-x.ndim, 0)))[:2]
    check("diagonal_copy", lambda: torch.diagonal_copy(x, offset, a, b))
    part = torch.diagonal(x, offset, a, b).clone()
    dense = dense_or_expanded(x)
    check("diagonal_backward", lambda: aten.diagonal_backward(part, x.shape, offset, a, b))
    check("diagonal_scatter", lambda: torch.diagonal_scatter(x, part, offset, a, b), dense)
    a, b = data.draw(st.permutations(range(-x.ndim - 1, 0)))[:2]
    check("diag_embed", lambda: torch.diag_embed(x, offset, a, b))


# ---- parts


@many
@given(inputs(), st.data())
def test_parts(x: Tensor, data: st.DataObject) -> None:
    d = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = x.shape[d]
    index = data.draw(st.integers(-size, size - 1))
    start, end = (data.draw(st.one_of(st.none(), st.integers(-12, 12))) for _ in range(2))
    step = data.draw(st.integers(1, 4))
    dense = dense_or_expanded(x)
    one, some = x.select(d, index), x[(slice(None),) * (d % x.ndim) + (slice(start, end, step),)]
    first, last = 0 if start is None else start, sys.maxsize if end is None else end
    for layout in (lambda t: t.clone(), lambda t: t):
        a, b = layout(one) + 0 if x.dtype != torch.bool else one.clone(), layout(some)
        check("select_scatter", lambda a=a: torch.select_scatter(x, a, d, index), dense)
        check("slice_scatter", lambda b=b: torch.slice_scatter(x, b, d, start, end, step), dense)
        check("select_backward", lambda a=a: aten.select_backward(a, x.shape, d, index))
        check("slice_backward", lambda b=b: aten.slice_backward(b, x.shape, d, first, last, step))


# ---- shuffles and repeats


@many
@given(inputs(most=4), st.data())
def test_repeat_and_tile(x: Tensor, data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=x.ndim, max_size=x.ndim + 2))
    check("repeat", lambda: x.repeat(repeats))
    check("repeat", lambda: torch.tile(x, repeats))


@pytest.mark.parametrize(("dtype", "layout"), crossed(DTYPES, LAYOUTS))
def test_shuffles(dtype: torch.dtype, layout: str) -> None:
    for factor, shape in ((2, (2, 8, 3, 5)), (3, (9, 4, 2)), (1, (2, 3, 4, 5)), (2, (2, 3, 4, 6, 8))):
        changed = LAYOUTS[layout](numbered(dtype, *shape))
        if changed is None:
            continue
        check("pixel_shuffle", lambda x=changed, f=factor: F.pixel_shuffle(x, f), kernel=None)
        check("pixel_unshuffle", lambda x=changed, f=factor: F.pixel_unshuffle(x, f), kernel=None)
        check("channel_shuffle", lambda x=changed: F.channel_shuffle(x, x.shape[1] // 2), kernel=None)
    x = numbered(dtype, 2, 8, 6, 4)
    check("pixel_shuffle", lambda: F.pixel_shuffle(x, 2))
    check("pixel_unshuffle", lambda: F.pixel_unshuffle(x, 2))
    check("channel_shuffle", lambda: F.channel_shuffle(x, 4))
    check("channel_shuffle", lambda: F.channel_shuffle(x[:, ::2], 2))


# ---- copies of views


@settings(many, max_examples=10)
@given(inputs(least=2, most=4), st.data())
def test_view_copies(x: Tensor, data: st.DataObject) -> None:
    d, e = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
    order = data.draw(st.permutations(range(x.ndim)))
    size, thin = x.shape[d], x.narrow(d, 0, 1)
    start = data.draw(st.integers(-size, size))
    length = data.draw(st.integers(0, size - start % size if start < size else 0))
    window = data.draw(st.integers(1, size))
    calls: dict[str, Callable[[], Tensor]] = {
        "alias_copy": lambda: torch.alias_copy(x),
        "detach_copy": lambda: torch.detach_copy(x),
        "permute_copy": lambda: torch.permute_copy(x, order),
        "transpose_copy.int": lambda: torch.transpose_copy(x, d, e),
        "t_copy": lambda: torch.t_copy(x.flatten(1)),
        "select_copy.int": lambda: torch.select_copy(x, d, start % size),
        "slice_copy.Tensor": lambda: torch.slice_copy(x, d, start, None, window),
        "narrow_copy": lambda: torch.narrow_copy(x, d, start, length),
        "squeeze_copy": lambda: torch.squeeze_copy(thin),
        "squeeze_copy.dim": lambda: torch.squeeze_copy(thin, d),
        "squeeze_copy.dims": lambda: torch.squeeze_copy(thin, [d]),
        "unsqueeze_copy": lambda: torch.unsqueeze_copy(x, d),
        "unfold_copy": lambda: torch.unfold_copy(x, d, window, 2),
        "expand_copy": lambda: torch.expand_copy(thin, [2, *x.shape]),
    }
    for name, call in calls.items():
        check(name, call)
    check("view_copy", lambda: torch.view_copy(x, [-1, x.shape[-1]]), kernel=True if x.is_contiguous() else None)
    check("view_copy", lambda: torch.view_copy(x, [x.numel()]), kernel=True if x.is_contiguous() else None)
    dense = x.contiguous()
    strides = [1] * x.ndim
    check("as_strided_copy", lambda: torch.as_strided_copy(dense, x.shape, strides))
    check("as_strided_copy", lambda: torch.as_strided_copy(dense, [2], [1], 1), kernel=None)


def test_bytes_of_other_dtypes_are_copied_as_they_are() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64):
        x = numbered(torch.uint8, 3, 5, 16).view(dtype)
        check("permute_copy", lambda x=x: torch.permute_copy(x, [2, 0, 1]).view(torch.uint8))
        check("as_strided_copy", lambda x=x: torch.as_strided_copy(x, [3, 2], [1, 3]).view(torch.uint8))


# ---- conversions

OTHERS = (torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64)


def pairs() -> list[Any]:
    """Pairs with a dtype that has no arithmetic here, the quick ones with float32 and complex64."""
    plain = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *FLOATS[:4], torch.uint32)
    found = [(a, b) for a in OTHERS for b in (*plain, *OTHERS) if a != b] + [(a, b) for a in plain for b in OTHERS]
    quick = (torch.float32, torch.complex64)
    return [pytest.param(a, b, marks=[] if a in quick or b in quick else pytest.mark.slow) for a, b in found]


@pytest.mark.parametrize(("source", "target"), pairs())
def test_conversions(source: torch.dtype, target: torch.dtype) -> None:
    values = torch.tensor([0, 1, 2, 3, 7, 13, 17, 100, 120, 0.5, 3.5, 0.0625, 1e-3, 448], dtype=torch.float64)
    if source.is_floating_point and (target.is_floating_point or target.is_complex):
        special = [float("nan"), float("inf"), -float("inf"), -0.0, -1.5, 470.0, -500.0, 1e5, 61440.0, 1e-30]
        values = torch.cat([values, torch.tensor(special, dtype=torch.float64)])
    x = (values if source.is_floating_point else values.clamp(max=120)).to(DEVICE).to(source)
    warns = source.is_complex and not target.is_complex and target != torch.bool
    if target == torch.float8_e4m3fn and not warns and torch.full((1,), 1e3).to(target).float().isnan():
        x = x[~(x.double().abs() > 464)]  # this torch makes NaN of what newer ones, and our kernels, saturate
    for call in (
        lambda: x.to(target),
        lambda: torch.zeros(2, x.numel(), dtype=target, device=DEVICE).copy_(x),
        lambda: torch.zeros(x.numel(), 1, dtype=target, device=DEVICE)[::2].copy_(x[::2, None]),
    ):
        expected = outcome(call)
        with flag_gems.use_gems(include=["_to_copy", "copy_"]):
            flag_gems.reset_stats()
            got = outcome(call)
            stats = flag_gems.stats()
        assert any(counts["fallback" if warns else "kernel"] for counts in stats.values())
        wide = torch.complex128 if target.is_complex else torch.float64
        torch.testing.assert_close(got.to(wide), expected.to(wide), rtol=0, atol=0, equal_nan=True)


# ---- gradients, composites, sizes, modes


def test_gradients() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, device=DEVICE, requires_grad=True)
    row = torch.randn(2, 4, dtype=torch.float64, device=DEVICE, requires_grad=True)
    calls: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "constant_pad_nd": (lambda a: F.pad(a, (1, -1, 2, 0), value=3.0), (x,)),
        "reflection_pad2d": (lambda a: F.pad(a, (1, 2, 1, 0), mode="reflect"), (x,)),
        "replication_pad1d": (lambda a: F.pad(a, (1, 2), mode="replicate"), (x,)),
        "reflection_pad2d_backward": (lambda a: F.pad(a, (1, 2, 1, 0), mode="reflect"), (x,)),
        "replication_pad1d_backward": (lambda a: F.pad(a, (1, 2), mode="replicate"), (x,)),
        "flip": (lambda a: a.flip(0, 2), (x,)),
        "roll": (lambda a: a.roll((1, -2), (0, 2)), (x,)),
        "rot90": (lambda a: torch.rot90(a, 3, (0, 2)), (x,)),
        "triu": (lambda a: a.triu(1), (x,)),
        "tril": (lambda a: a.tril(-1), (x,)),
        "diag_embed": (lambda a: torch.diag_embed(a, 1, 0, 2), (x,)),
        "diagonal_backward": (lambda a: a.diagonal(1, 0, 2) * 2, (x,)),
        "select_backward": (lambda a: a.select(1, -1) * 2, (x,)),
        "slice_backward": (lambda a: a[:, ::2, 1:] * 2, (x,)),
        "select_scatter": (lambda a, b: torch.select_scatter(a, b, 1, 2), (x, row)),
        "slice_scatter": (lambda a, b: torch.slice_scatter(a, b[:, None], 1, 2, 3), (x, row)),
        "diagonal_scatter": (lambda a, b: torch.diagonal_scatter(a, b.t()[:3, :2], 0, 0, 2), (x, row)),
        "repeat": (lambda a: a.repeat(2, 1, 2, 2), (x,)),
        "pixel_shuffle": (lambda a: F.pixel_shuffle(a.reshape(4, 2, 3), 2), (x,)),
        "pixel_unshuffle": (lambda a: F.pixel_unshuffle(a.reshape(3, 2, 4), 2), (x,)),
        "channel_shuffle": (lambda a: F.channel_shuffle(a.reshape(1, 6, 4), 2), (x,)),
        "permute_copy": (lambda a: torch.permute_copy(a, (2, 0, 1)), (x,)),
        "unfold_copy": (lambda a: torch.unfold_copy(a, 2, 3, 1), (x,)),
        "expand_copy": (lambda a: torch.expand_copy(a, (3, 2, 3, 4)), (x,)),
        "cat": (lambda a, b: torch.cat([a[:, 0], b, a[:, 1]], 1), (x, row)),
        "stack": (lambda a, b: torch.stack([a[:, 0], b], 1), (x, row)),
        "copy_": (lambda a: torch.zeros(4, 3, 2, dtype=torch.float64, device=DEVICE).copy_(a.permute(2, 1, 0)), (x,)),
        "clone": (lambda a: a.transpose(0, 2).clone(memory_format=torch.contiguous_format), (x,)),
    }
    with flag_gems.use_gems():
        for name, (function, args) in calls.items():
            before = flag_gems.stats().get(name, {"kernel": 0})["kernel"]
            assert torch.autograd.gradcheck(function, args), name
            assert torch.autograd.gradgradcheck(function, args), name
            assert flag_gems.stats()[name]["kernel"] > before, name


@pytest.mark.parametrize(
    ("name", "call"),
    {
        "cat": lambda x: (torch.hstack([x, x]), torch.vstack([x, x]), torch.concat([x, x]), torch.dstack([x, x])),
        "repeat": lambda x: torch.tile(x, (2, 2)),
        "clone": lambda x: (x.t().contiguous(), x.t().reshape(-1), x.repeat_interleave(2, 0)),
        "diag_embed": lambda x: torch.diag(x[0], 1),
        "diagonal_copy": lambda x: torch.diag(x, -1),
        "constant_pad_nd": lambda x: F.pad(x, (1, 2, 3, 4)),
        "flip": lambda x: (torch.fliplr(x), torch.flipud(x)),
        "roll": lambda x: (torch.fft.fftshift(x), torch.fft.ifftshift(x)),
    }.items(),
)
def test_composites_reach_it(name: str, call: Callable[[Tensor], Any]) -> None:
    check(name, lambda: call(numbered(torch.float32, 6, 7)))


WIDTHS = [65, 1, 2, 15, 16, 17, 31, 33, 63, 127, 129, 130, 1000]


@pytest.mark.parametrize(("dtype", "count"), crossed((*DTYPES[2:], torch.uint8), WIDTHS))
def test_widths(dtype: torch.dtype, count: int) -> None:
    """Rows of each width beside vectors of each size, and storage that begins anywhere."""
    for start in range(3):
        x = numbered(dtype, 3 * count + start)[start:].view(3, count)
        check("constant_pad_nd", lambda x=x: F.pad(x, (1, 2, 1, 0), value=1))
        check("roll", lambda x=x: x.roll(3, 1))
        check("flip", lambda x=x: x.flip(1))
        check("tril", lambda x=x: x.tril(1))
        check("slice_scatter", lambda x=x: torch.slice_scatter(x, x[:, ::2], 1, 0, None, 2))


def test_empty_and_no_dims() -> None:
    for x in (numbered(torch.float32, 0, 3), numbered(torch.float32, 3, 0), numbered(torch.float32)):
        for call in (
            lambda x=x: x.flip(range(x.ndim)),
            lambda x=x: x.roll(1),
            lambda x=x: F.pad(x, (1, 1)) if x.ndim else x.flip(()),
            lambda x=x: x.repeat(2, 2),
            lambda x=x: torch.alias_copy(x),
            lambda x=x: torch.unsqueeze_copy(x, 0),
            lambda x=x: torch.squeeze_copy(x),
            lambda x=x: torch.view_copy(x, [-1]) if x.numel() else torch.view_copy(x, [0]),
        ):
            check("flip", call, kernel=None)


WIDE_MOVES = ("constant_pad_nd", "triu", "slice_scatter", "roll")


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("sm_90a", WIDE_MOVES[:2]),
        *(pytest.param(arch, WIDE_MOVES, marks=pytest.mark.slow) for arch in ("sm_80", "sm_90a", "sm_120")),
    ],
)
def test_machine_code(arch: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole vectors on both sides where they line up; a transposing copy goes through shared memory."""
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path))
    for name in names:
        text = _C.program_text(name, "bfloat16", 0, arch, "cuda")
        found = sass.kernels(text, ["index_map"], arch)["index_map"]
        assert found.has("LDG.E.128", "STG.E.128") and found.spill_bytes == 0, (name, found.instructions)
        assert found.registers <= 40, (name, found.registers)
    tile = sass.kernels(_C.program_text("t_copy", "float32", 2, arch, "cuda"), ["copy_tile"], arch)["copy_tile"]
    assert tile.has("STS", "LDS") and tile.spill_bytes == 0


SMALL: dict[str, Callable[[], Any]] = {
    f"{name} {dtype} {shape}": lambda f=function, d=dtype, s=shape: f(numbered(d, *s), numbered(d, *reversed(s)).mT)
    for dtype, shape in ((torch.uint8, (2, 17, 33)), (torch.float32, (2, 3, 18)))
    for name, function in {
        "pad": lambda x, y: F.pad(x, (1, 3, -1, 2)),
        "pad transposed": lambda x, y: F.pad(y, (1, 3, -1, 2)),
        "reflect": lambda x, y: aten.reflection_pad2d(x.float(), [2, 1, 1, 2]),
        "replicate": lambda x, y: aten.replication_pad2d(y.float(), [2, 1, 1, 2]),
        "roll": lambda x, y: (x.roll((1, 5), (1, 2)), y.roll(3, 0)),
        "flip": lambda x, y: (x.flip(2), y.flip(0, 1)),
        "triangles": lambda x, y: (x.triu(1), y.tril(-1), x.clone().triu_(), y.clone().tril_(2)),
        "diagonals": lambda x, y: (torch.diag_embed(x, 1), torch.diagonal_scatter(x, x.diagonal(1, 1, 2), 1, 1, 2)),
        "parts": lambda x, y: (
            torch.slice_scatter(x, x[:, :, 1::3] + 1, 2, 1, None, 3),
            torch.select_scatter(x, x[:, 0] + 1, 1, 2),
        ),
        "shuffles": lambda x, y: (x.repeat(2, 1, 2), torch.permute_copy(x, (2, 0, 1))),
    }.items()
}


def main() -> int:
    torch.set_num_threads(1)
    expected = {name: outcome(call) for name, call in SMALL.items()}
    wrong = []
    flag_gems.enable()
    for name, call in SMALL.items():
        got = outcome(call)
        try:
            assert_same(got, expected[name], None, name)
        except AssertionError as error:
            wrong.append(str(error))
    stats = flag_gems.stats()
    print("\n".join(wrong))
    quiet = [n for n in ("constant_pad_nd", "roll", "flip", "triu_", "slice_scatter") if not stats[n]["kernel"]]
    print(f"{len(SMALL)} calls, {len(wrong)} wrong, not run: {quiet}")
    return 1 if wrong or quiet else 0


@EVERY_THREAD
def test_with_every_thread_of_a_block(mode: str, order: str) -> None:
    run_in_mode(mode, order, __file__, seconds=600)


if __name__ == "__main__":
    sys.exit(main())
