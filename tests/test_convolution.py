"""Convolution: one to three dims, every geometry, groups, transposed, both memory formats, and gradients."""

from __future__ import annotations

import random
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
from cpu_modes import run_in_mode

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
aten = torch.ops.aten
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def draw_tensor(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    return x.contiguous(memory_format=FORMATS[x.ndim]) if last and x.ndim in FORMATS else x


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    groups, ins, outs = draw(st.sampled_from(((1, 2, 3), (1, 1, 1), (2, 4, 6), (3, 3, 3), (2, 2, 4))))
    transposed = draw(st.booleans())
    size = [draw(st.integers(1, 3)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    return {
        "x": [draw(st.integers(1, 2)), ins, *(draw(st.integers(3, 7)) for _ in range(rank))],
        "weight": [ins, outs // groups, *size] if transposed else [outs, ins // groups, *size],
        "bias": outs if draw(st.booleans()) else None,
        "args": [
            stride,
            [draw(st.integers(0, 2)) for _ in range(rank)],
            [draw(st.integers(1, 2)) for _ in range(rank)],
            transposed,
            [draw(st.integers(0, s - 1)) if transposed else 0 for s in stride],
            groups,
        ],
        "last": [draw(st.booleans()) for _ in range(3)],
    }


@settings(max_examples=80)
@given(geometries())
def test_geometry(g: dict[str, Any]) -> None:
    """Beside ATen in float64: the result, and all gradients."""
    x = draw_tensor(*g["x"], dtype=torch.float64, last=g["last"][0])
    weight = draw_tensor(*g["weight"], dtype=torch.float64, last=g["last"][1])
    bias = g["bias"] and draw_tensor(g["bias"], dtype=torch.float64)
    ours, theirs = both(lambda: aten.convolution(x, weight, bias, *g["args"]))
    same(ours, theirs)
    if isinstance(theirs, type):
        return
    grad = draw_tensor(*theirs.shape, dtype=torch.float64, last=g["last"][2])
    sizes = [theirs.shape[1]]
    ours, theirs = both(lambda: aten.convolution_backward(grad, x, weight, sizes, *g["args"], [True] * 3))
    same(ours, theirs)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype, last: bool) -> None:
    x, weight = draw_tensor(1, 2, 5, 6, dtype=dtype, last=last), draw_tensor(2, 2, 3, 3, dtype=dtype)
    bias = draw_tensor(2, dtype=dtype)
    for args in ([[1, 1], [1, 1], [1, 1], False, [0, 0], 1], [[2, 1], [0, 2], [1, 2], False, [0, 0], 1]):
        check(
            "convolution",
            lambda a=args: aten.convolution(x, weight, bias, *a),
            reference=lambda a=args: aten.convolution(x.double(), weight.double(), bias.double(), *a),
        )
        grad = draw_tensor(*aten.convolution(x, weight, bias, *args).shape, dtype=dtype, last=last)
        tensors = [grad, x, weight]
        check(
            "convolution_backward",
            lambda a=args, t=tensors: aten.convolution_backward(*t, [2], *a, [True] * 3),
            reference=lambda a=args, t=tensors: aten.convolution_backward(
                *(s.double() for s in t), [2], *a, [True] * 3
            ),
        )


def test_masks() -> None:
    x, weight, grad = draw_tensor(1, 2, 6, 5), draw_tensor(3, 2, 3, 2), draw_tensor(1, 3, 4, 4)
    args = [[1, 1], [0, 0], [1, 1], False, [0, 0], 1]
    for number in range(8):
        mask = [bool(number >> i & 1) for i in range(3)]
        ours, theirs = both(lambda m=mask: aten.convolution_backward(grad, x, weight, [3], *args, m))
        for wanted, a, b in zip(mask, ours, theirs, strict=True):
            assert (a is None) == (not wanted)  # ATen gives some that are not
            if wanted:
                same(a, b, rtol=1e-5, atol=1e-4)


def test_layouts() -> None:
    weight = draw_tensor(3, 3, 3, 2)
    x = draw_tensor(2, 3, 8, 7)
    views = {
        "transposed": (x.transpose(2, 3), weight),
        "stepped": (draw_tensor(2, 3, 8, 14)[..., ::2], weight),
        "expanded": (x[:1].expand(2, -1, -1, -1), weight[:1].expand(3, -1, -1, -1)),
        "offset": (draw_tensor(2 * 3 * 8 * 7 + 1)[1:].view(2, 3, 8, 7), weight.transpose(2, 3)),
        "last": (x.contiguous(memory_format=torch.channels_last)[:, :, ::2], weight),
    }
    for name, (image, kernel) in views.items():
        check(
            "convolution",
            lambda i=image, k=kernel: aten.convolution(i, k, None, [1, 1], [1, 0], [1, 1], False, [0, 0], 1),
            reference=lambda i=image, k=kernel: F.conv2d(i.double(), k.double(), None, 1, (1, 0)),
        )
        assert counts("convolution")["kernel"], name


def test_lines_whose_weight_is_channels_last() -> None:
    x, weight = draw_tensor(2, 3, 6), draw_tensor(2, 3, 3).transpose(1, 2)
    for kernel in (weight, draw_tensor(2, 3, 3)):
        for dtype in (torch.float32, torch.float64):
            image, w = x.transpose(1, 2).contiguous().transpose(1, 2).to(dtype), kernel.to(dtype)
            args = [[1], [1], [1], False, [0], 1]
            check("convolution", lambda i=image, w=w, a=args: aten.convolution(i, w, None, *a))
            grad = draw_tensor(2, 2, 6, dtype=dtype)
            check(
                "convolution_backward",
                lambda i=image, w=w, a=args, g=grad: aten.convolution_backward(g, i, w, [2], *a, [True] * 3),
            )


def test_what_aten_refuses_stays_refused() -> None:
    x, weight = draw_tensor(2, 4, 6, 5), draw_tensor(3, 4, 3, 2)
    for call in (
        lambda: F.conv2d(x, draw_tensor(3, 3, 3, 3)),
        lambda: F.conv2d(x, weight, groups=2),
        lambda: F.conv2d(x, draw_tensor(3, 4, 7, 2)),
        lambda: F.conv2d(x, weight, stride=0),
        lambda: F.conv2d(x, weight, padding=-1),
        lambda: F.conv2d(x, weight, draw_tensor(4)),
        lambda: F.conv2d(x, weight.double()),
        lambda: F.conv_transpose2d(x, draw_tensor(4, 3, 3, 3), output_padding=2),
        lambda: aten.convolution_backward(x, x, weight, [3], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


def test_functional_lands_here_with_gradients() -> None:
    """torch.nn.functional's convolutions are composite: under a scope they end in our kernels, gradients too."""
    calls = {
        "conv1d": lambda x, w: F.conv1d(x, w, None, 2, 1),
        "same": lambda x, w: F.conv2d(x, w, padding="same"),
        "valid": lambda x, w: F.conv2d(x, w, padding="valid"),
        "even": lambda x, w: F.conv2d(x, w, padding="same"),
        "conv3d": lambda x, w: F.conv3d(x, w, None, 1, 1, 2),
        "groups": lambda x, w: F.conv2d(x, w, None, 1, 1, 1, 4),
        "unbatched": lambda x, w: F.conv2d(x, w),
        "transposed": lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1),
    }
    shapes = {
        "conv1d": ((2, 4, 9), (3, 4, 3)),
        "conv3d": ((1, 1, 4, 4, 4), (1, 1, 2, 2, 2)),
        "groups": ((1, 4, 4, 4), (8, 1, 3, 3)),
        "unbatched": ((4, 4, 5), (2, 4, 3, 3)),
        "even": ((1, 2, 5, 4), (2, 2, 2, 2)),
        "transposed": ((1, 2, 4, 4), (2, 2, 3, 3)),
    }
    for name, call in calls.items():
        image, kernel = shapes.get(name, ((1, 2, 5, 5), (2, 2, 3, 3)))
        x = draw_tensor(*image, dtype=torch.float64).requires_grad_()
        weight = draw_tensor(*kernel, dtype=torch.float64).requires_grad_()
        with kernels("convolution", "convolution_backward"):
            ours = torch.autograd.grad(call(x, weight).square().sum(), (x, weight))
        theirs = torch.autograd.grad(call(x, weight).square().sum(), (x, weight))
        same(ours, theirs)


def test_gradcheck() -> None:
    x = draw_tensor(2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    weight = draw_tensor(4, 1, 3, 2, dtype=torch.float64).requires_grad_()
    bias = draw_tensor(4, dtype=torch.float64).requires_grad_()
    with kernels("convolution", "convolution_backward"):
        assert torch.autograd.gradcheck(lambda *t: F.conv2d(*t, (2, 1), 1, 1, 2), (x, weight, bias))
        assert torch.autograd.gradgradcheck(lambda *t: F.conv2d(*t, 1, 1, 1, 2), (x, weight, bias))


def test_depthwise() -> None:
    """A GPU's own operator; a CPU has none beside ours."""
    for last in (False, True):
        x, weight, bias = draw_tensor(2, 6, 9, 8, last=last), draw_tensor(12, 1, 3, 2), draw_tensor(12)
        args = [[2, 1], [1, 2], [1, 2]]
        with flag_gems.use_gems():
            before = counts("_conv_depthwise2d")["kernel"]
            ours = aten._conv_depthwise2d(x, weight, [3, 2], bias, *args)
            assert counts("_conv_depthwise2d")["kernel"] > before
        torch.testing.assert_close(ours, F.conv2d(x, weight, bias, *args, 6), rtol=1e-5, atol=1e-5)


def test_explicit_functions() -> None:
    x, weight = draw_tensor(1, 2, 6, 6), draw_tensor(3, 2, 3, 3)
    before = counts("convolution")["kernel"]
    same(ops.conv2d(x, weight, None, [1, 1], [1, 1]), F.conv2d(x, weight, None, 1, 1), rtol=1e-5, atol=1e-5)
    same(ops.conv2d(x, weight, padding="same"), F.conv2d(x, weight, padding="same"), rtol=1e-5, atol=1e-5)
    line = draw_tensor(3, 6, 3)
    same(flag_gems.conv1d(x[0], line), F.conv1d(x[0], line), rtol=1e-5, atol=1e-5)
    volume = draw_tensor(1, 2, 4, 4, 4)
    same(ops.conv3d(volume, volume, padding="valid"), F.conv3d(volume, volume), rtol=1e-5, atol=1e-4)
    assert counts("convolution")["kernel"] >= before + 4


def test_out_forms() -> None:
    x, weight, grad = draw_tensor(1, 2, 6, 5), draw_tensor(3, 2, 3, 2), draw_tensor(1, 3, 4, 4)
    args = [[1, 1], [0, 0], [1, 1], False, [0, 0], 1]
    out = torch.empty(0, device=DEVICE)
    outs = [torch.empty(0, device=DEVICE) for _ in range(3)]
    with kernels("convolution.out", "convolution_backward.out"):
        assert aten.convolution.out(x, weight, None, *args, out=out) is out
        back = dict(zip(("out0", "out1", "out2"), outs, strict=True))
        aten.convolution_backward.out(grad, x, weight, [3], *args, [True] * 3, **back)
    same(out, aten.convolution(x, weight, None, *args), rtol=1e-5, atol=1e-4)
    same(outs, aten.convolution_backward(grad, x, weight, [3], *args, [True] * 3), rtol=1e-5, atol=1e-4)


def test_same_bits_twice() -> None:
    x, weight, grad = draw_tensor(1, 1, 16, 15), draw_tensor(1, 1, 3, 2), draw_tensor(1, 1, 14, 14)
    args = [[1, 1], [0, 0], [1, 1], False, [0, 0], 1]
    with flag_gems.use_gems():
        first, second = (aten.convolution_backward(grad, x, weight, [3], *args, [True] * 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def random_geometry(draw: random.Random) -> tuple[Tensor, Tensor, list[Any]]:
    """An image, a weight, and the arguments behind the bias."""
    rank, transposed = draw.randint(1, 3), draw.random() < 0.3
    groups, ins, outs = draw.choice(((1, 2, 3), (1, 8, 16), (2, 4, 6), (3, 3, 3), (1, 24, 8)))
    size, stride = ([draw.randint(1, 3) for _ in range(rank)] for _ in range(2))
    dilation, pad = [draw.randint(1, 2) for _ in range(rank)], [draw.randint(0, 2) for _ in range(rank)]
    extra = [draw.randint(0, s - 1) if transposed else 0 for s in stride]
    image = [draw.randint(1, 3), ins, *(draw.randint(5, 9) for _ in range(rank))]
    weight = [ins, outs // groups, *size] if transposed else [outs, ins // groups, *size]
    tensors = [draw_tensor(*shape, last=draw.random() < 0.4) for shape in (image, weight)]
    return *tensors, [stride, pad, dilation, transposed, extra, groups]


def sweep(count: int) -> None:
    """Random geometries beside ATen's: run in a mode in which no size is left to ATen."""
    torch.set_num_threads(1)
    draw = random.Random(7)
    for number in range(count):
        x, weight, args = random_geometry(draw)
        dtype = draw.choice((torch.float32, torch.float64, torch.float16, torch.bfloat16))
        x, weight = x.to(dtype), weight.to(dtype)
        exact = aten.convolution(x.double(), weight.double(), None, *args)
        grad = draw_tensor(*exact.shape, dtype=dtype)
        back = aten.convolution_backward(
            grad.double(), x.double(), weight.double(), [exact.shape[1]], *args, [True] * 3
        )
        with kernels("convolution", "convolution_backward"):
            ours = aten.convolution(x, weight, None, *args)
            gradients = aten.convolution_backward(grad, x, weight, [exact.shape[1]], *args, [True] * 3)
        for a, b in zip((ours, *gradients), (exact, *back), strict=True):
            note = f"{number}: {tuple(x.shape)} {tuple(weight.shape)} {args} {dtype}"
            precise = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
            torch.testing.assert_close(a.double(), b, rtol=precise, atol=precise, msg=lambda m, n=note: f"{n}\n{m}")


@pytest.mark.parametrize(
    ("mode", "count"), [("faithful", 12), ("checked", 6), pytest.param("faithful", 150, marks=pytest.mark.slow)]
)
def test_all_threads_of_a_block(mode: str, count: int) -> None:
    """The kernels of a GPU, thread by thread: no race, no access out of bounds, the results of float64."""
    run_in_mode(mode, "forward", "-c", f"import test_convolution; test_convolution.sweep({count})")


def test_larger_sizes_on_a_cpu() -> None:
    """The fast mode's panels: beside float64, and an infinite element reaches only the taps that meet it."""
    if DEVICE != "cpu":
        return
    cases = (
        ((1, 12, 17, 19), (30, 12, 3, 3), [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]),
        ((3, 8, 15, 16), (16, 4, 3, 2), [[2, 2], [1, 0], [1, 1], False, [0, 0], 2]),
        ((2, 8, 9, 40), (20, 8, 5, 5), [[1, 3], [2, 2], [2, 1], False, [0, 0], 1]),
        ((1, 16, 200), (24, 16, 7), [[1], [3], [1], False, [0], 1]),
        ((2, 9, 12, 13), (9, 14, 3, 3), [[2, 1], [1, 1], [1, 1], True, [1, 0], 1]),
        ((2, 5, 6, 10, 9), (13, 5, 2, 3, 3), [[1, 1, 1], [1, 1, 1], [1, 1, 1], False, [0, 0, 0], 1]),
    )
    for shape, filters, args in cases:
        for dtype, near in ((torch.float32, 4e-6), (torch.bfloat16, 1.6e-2)):
            x, weight = draw_tensor(*shape, dtype=dtype), draw_tensor(*filters, dtype=dtype)
            wide = aten.convolution(x.double(), weight.double(), None, *args)
            grad = draw_tensor(*wide.shape, dtype=dtype)
            doubles = [t.double() for t in (grad, x, weight)]
            back = aten.convolution_backward(*doubles, [wide.shape[1]], *args, [True, True, False])
            with kernels("convolution", "convolution_backward"):
                ours = [aten.convolution(x, weight, None, *args)]
                ours += aten.convolution_backward(grad, x, weight, [wide.shape[1]], *args, [True, True, False])[:2]
            for a, b in zip(ours, (wide, *back[:2]), strict=True):
                assert (a.double() - b).abs().max() <= near * b.abs().max(), (shape, filters, args, dtype)
    x, weight, grad = draw_tensor(1, 8, 12, 12), draw_tensor(8, 8, 3, 3), draw_tensor(1, 8, 12, 12)
    x[0, 3, 0, 0] = float("inf")
    args = [[1, 1], [1, 1], [1, 1], False, [0, 0], 1]
    with kernels("convolution_backward"):
        ours = aten.convolution_backward(grad, x, weight, [8], *args, [False, True, False])[1]
    theirs = aten.convolution_backward(grad, x, weight, [8], *args, [False, True, False])[1]
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    torch.testing.assert_close(ours[theirs.isfinite()], theirs[theirs.isfinite()], rtol=1e-4, atol=1e-4)
