"""Pooling of images: windows of every geometry, both memory formats, gradients, and which element wins."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import both, check, counts, kernels, same

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
aten = torch.ops.aten
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64) if DEVICE == "cpu" else ()


def image(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    """Few different values, so that there are equal ones in a window."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randint(-9, 9, shape, generator=generator)
    x = (x / 4).to(dtype) if dtype.is_floating_point else x.abs().to(dtype)
    x = x.to(DEVICE)
    return x.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else x


@st.composite
def geometries(draw: st.DrawFn, dilated: bool) -> dict[str, Any]:
    size = [draw(st.integers(1, 5)) for _ in range(2)]
    dilation = [draw(st.integers(1, 3)) for _ in range(2)] if dilated else [1, 1]
    return {
        "shape": [
            *draw(st.sampled_from(([2, 3], [1, 8], [1, 17], [3], [2, 1]))),
            *(draw(st.integers(3, 40)) for _ in range(2)),
        ],
        "kernel_size": size,
        "stride": [draw(st.integers(1, 4)) for _ in range(2)],
        "padding": [draw(st.integers(0, k // 2)) for k in size],
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
        "last": draw(st.booleans()),
    }


def windows(g: dict[str, Any], *names: str) -> list[Any]:
    return [g[name] for name in names]


@settings(max_examples=60)
@given(geometries(False), st.booleans(), st.sampled_from((None, 3, -2)))
def test_average(g: dict[str, Any], padded: bool, divisor: int | None) -> None:
    x = image(*g["shape"], dtype=torch.float64, last=g["last"])
    args = [*windows(g, "kernel_size", "stride", "padding", "ceil_mode"), padded, divisor]
    ours, theirs = both(lambda: aten.avg_pool2d(x, *args))
    same(ours, theirs)
    if isinstance(theirs, type):
        return
    grad = image(*theirs.shape, dtype=torch.float64, last=not g["last"])
    ours, theirs = both(lambda: aten.avg_pool2d_backward(grad, x, *args))
    same(ours, theirs)


@settings(max_examples=60)
@given(geometries(True))
def test_maximum(g: dict[str, Any]) -> None:
    x = image(*g["shape"], dtype=torch.float64, last=g["last"])
    args = windows(g, "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    ours, theirs = both(lambda: aten.max_pool2d_with_indices(x, *args))
    same(ours, theirs)
    if isinstance(theirs, type):
        return
    grad = image(*theirs[0].shape, dtype=torch.float64, last=not g["last"])
    ours, theirs = both(lambda: aten.max_pool2d_with_indices_backward(grad, x, *args, theirs[1]))
    same(ours, theirs)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS], ids=str)
def test_dtypes(dtype: torch.dtype, last: bool) -> None:
    small = last and dtype in (torch.uint8, torch.int8)  # ATen counts places in the dtype there
    x = image(2, 24, *((9, 13) if small else (19, 33)), dtype=dtype, last=last)
    exact = x.double()
    if dtype in (*FLOATS, torch.int64):
        # ATen's gradient of padded channels last is its own on a GPU
        args = [[3, 2], [2, 2], [0 if last and DEVICE != "cpu" else 1, 0], True, False, None]
        reference = (lambda: aten.avg_pool2d(exact, *args)) if dtype in FLOATS else None
        check("avg_pool2d", lambda: aten.avg_pool2d(x, *args), reference=reference)
        grad = torch.ones_like(aten.avg_pool2d(x, *args))
        wide = (lambda: aten.avg_pool2d_backward(grad.double(), exact, *args)) if dtype in FLOATS else None
        check("avg_pool2d_backward", lambda: aten.avg_pool2d_backward(grad, x, *args), reference=wide)
    args = [[3, 2], [2, 1], [1, 0], [1, 2], True]
    check("max_pool2d_with_indices", lambda: aten.max_pool2d_with_indices(x, *args))
    if dtype in FLOATS:
        y, places = aten.max_pool2d_with_indices(x, *args)
        grad = image(*y.shape, dtype=dtype, last=last)
        check(
            "max_pool2d_with_indices_backward",
            lambda: aten.max_pool2d_with_indices_backward(grad, x, *args, places),
            reference=lambda: aten.max_pool2d_with_indices_backward(grad.double(), exact, *args, places),
        )


@pytest.mark.parametrize("last", [False, True])
def test_which_element_wins(last: bool) -> None:
    """The first of equal elements; a NaN before all; of nothing but the smallest number, the first."""
    x = image(1, 4, 12, 12, last=last)
    x[0, 0] = float("-inf")
    x[0, 1, 3, 4] = x[0, 1, 5, 5] = x[0, 1, 5, 6] = float("nan")
    x[0, 2] = 1.0
    x[0, 3, ::2] = float("inf")
    for args in ([[3, 3], [2, 2], [1, 1]], [[2, 2]], [[3, 3], [1, 1], [1, 1], [2, 2]]):
        with kernels("max_pool2d_with_indices"):
            ours = aten.max_pool2d_with_indices(x, *args)
        same(ours, aten.max_pool2d_with_indices(x, *args))
    ones = torch.ones(1, 1, 4, 4, device=DEVICE)
    with kernels("max_pool2d_with_indices"):
        places = aten.max_pool2d_with_indices(ones, [2, 2])[1]
    assert places.flatten().tolist() == [0, 2, 8, 10]


def test_layouts() -> None:
    """Any strides; a result has the memory format that ATen gives it."""
    x = image(2, 6, 15, 14)
    views = {
        "transposed": x.transpose(2, 3),
        "stepped": image(2, 6, 15, 28)[..., ::2],
        "expanded": x[:1].expand(2, -1, -1, -1),
        "flipped": x.flip(3),
        "one channel": image(3, 1, 9, 9),
        "one pixel": image(3, 5, 1, 1, last=True),
        "offset": image(1, 1, 1, 2 * 6 * 15 * 14 + 1).flatten()[1:].view(2, 6, 15, 14),
        "last, stepped": image(2, 12, 15, 14, last=True)[:, ::2],
        "no batch": image(6, 15, 14).transpose(0, 2),
        "empty batch": image(0, 6, 15, 14),
    }
    for name, view in views.items():
        size = [1, 1] if name == "one pixel" else [3, 3]
        for call in (
            lambda v=view, s=size: aten.avg_pool2d(v, s),
            lambda v=view, s=size: aten.max_pool2d_with_indices(v, s),
        ):
            ours, theirs = both(call)
            assert not isinstance(theirs, type), name
            same(ours, theirs)


def test_what_aten_refuses_stays_refused() -> None:
    x = image(1, 2, 6, 6)
    for call in (
        lambda: aten.avg_pool2d(x, [3, 3], [1, 1], [2, 2]),
        lambda: aten.avg_pool2d(x, [7, 7]),
        lambda: aten.avg_pool2d(x, [0, 1]),
        lambda: aten.avg_pool2d(x, [2, 2], [2, 2], [0, 0], False, True, 0),
        lambda: aten.avg_pool2d(x[0, 0], [2, 2]),
        lambda: aten.avg_pool2d(x[:, :0], [2, 2]),
        lambda: aten.avg_pool2d(x > 0, [2, 2]),
        lambda: aten.max_pool2d_with_indices(x, [2, 2], [1, 1], [0, 0], [0, 1]),
        lambda: aten.max_pool2d_with_indices(x, [2, 2, 2]),
        lambda: aten.avg_pool2d_backward(x, x, [2, 2], [2, 2], [0, 0], False, True, None),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


def test_out_forms() -> None:
    x = image(2, 3, 10, 10)
    out, places = torch.empty(0, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE)
    with kernels("avg_pool2d.out", "max_pool2d_with_indices.out"):
        averages = aten.avg_pool2d.out(x, [2, 2], out=torch.empty(2, 3, 5, 5, device=DEVICE))
        result = aten.max_pool2d_with_indices.out(x, [2, 2], out=out, indices=places)
    same(averages, aten.avg_pool2d(x, [2, 2]))
    same(result, aten.max_pool2d_with_indices(x, [2, 2]))
    assert result[0] is out and result[1] is places
    grad, into = torch.ones_like(averages), torch.empty_like(x)
    with kernels("avg_pool2d_backward.grad_input", "max_pool2d_with_indices_backward.grad_input"):
        aten.avg_pool2d_backward.grad_input(grad, x, [2, 2], [], [0], False, True, None, grad_input=into)
        same(into, torch.full_like(x, 0.25))
        aten.max_pool2d_with_indices_backward.grad_input(grad, x, [2, 2], [], [0], [1], False, places, grad_input=into)
    assert into.sum() == grad.sum()


@pytest.mark.parametrize("last", [False, True])
def test_gradients(last: bool) -> None:
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, device=DEVICE)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    with kernels("avg_pool2d", "avg_pool2d_backward", "max_pool2d_with_indices", "max_pool2d_with_indices_backward"):
        pad = 0 if last and DEVICE != "cpu" else 1  # ATen's gradient of it is wrong there
        assert torch.autograd.gradcheck(lambda t: F.avg_pool2d(t, 3, 2, pad, True, False), x)
        assert torch.autograd.gradcheck(lambda t: F.max_pool2d(t, 3, 2, 1, 1, True), x)
        assert torch.autograd.gradgradcheck(lambda t: F.avg_pool2d(t, (2, 3)), x)


def test_composites_and_functions() -> None:
    """nn.functional's pools, and the explicit functions by their names."""
    x = image(2, 3, 10, 11)
    with kernels("avg_pool2d", "max_pool2d_with_indices"):
        same(F.avg_pool2d(x, 2), F.avg_pool2d(x, 2))
        F.max_pool2d(x.requires_grad_(), 3, 2).sum().backward()
        flag_gems.max_pool2d(x.detach(), [3, 3], [2, 2])
    same(ops.avg_pool2d(x, [3, 3]), aten.avg_pool2d(x, [3, 3]))
    same(ops.max_pool2d(x.detach(), [3, 3], [2, 2]), aten.max_pool2d(x.detach(), [3, 3], [2, 2]))
    before = counts("max_pool2d_with_indices")["kernel"]
    values, _ = ops.max_pool2d_with_indices(x.detach(), [3, 3])
    assert counts("max_pool2d_with_indices")["kernel"] > before
    same(values, F.max_pool2d(x.detach(), 3))


def test_same_bits_twice() -> None:
    x = torch.randn(2, 8, 33, 35, device=DEVICE)
    y, places = aten.max_pool2d_with_indices(x, [3, 3], [1, 1], [1, 1])
    grad = torch.randn_like(y)
    with flag_gems.use_gems():
        for call in (
            lambda: aten.max_pool2d_with_indices_backward(grad, x, [3, 3], [1, 1], [1, 1], [1, 1], False, places),
            lambda: aten.avg_pool2d_backward(grad, x, [3, 3], [1, 1], [1, 1], False, True, None),
        ):
            assert torch.equal(call(), call())
