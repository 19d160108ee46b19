"""Images of another size: by the nearest pixel and by antialiasing filters, and gradients."""

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
NEAREST = ("upsample_nearest2d", "_upsample_nearest_exact2d")
GRADIENTS = DEVICE == "cpu"  # a GPU leaves contiguous ones of nearest pixels to ATen
FILTERS = ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa")


def image(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 20
    x = (x if dtype.is_floating_point else x.abs()).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    size = [draw(st.integers(1, 40)) for _ in range(2)]
    factor = draw(st.sampled_from((None, 2, 3, 0.5)))
    result = [draw(st.integers(1, 70)) if factor is None else max(1, int(s * factor)) for s in size]
    scales = draw(st.sampled_from((None, "exact", "near")))
    given = [
        None if scales is None else r / s * (1 if scales == "exact" else 1.03)
        for r, s in zip(result, size, strict=True)
    ]
    channels = draw(st.sampled_from(([2, 3], [1, 8], [2, 1], [1, 17])))
    return {"shape": [*channels, *size], "result": result, "scales": given, "last": draw(st.booleans())}


@pytest.mark.parametrize("name", NEAREST)
@settings(max_examples=40)
@given(geometries())
def test_nearest(name: str, g: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = image(*g["shape"], dtype=dtype, last=g["last"])
        ours, theirs = both(lambda x=x: getattr(aten, name)(x, g["result"], *g["scales"]))
        same(ours, theirs, rtol=0, atol=0)
    grad = image(*theirs.shape, dtype=torch.float64, last=g["last"])
    args = [grad, g["result"], g["shape"], *g["scales"]]
    same(*both(lambda: getattr(aten, name + "_backward")(*args)))


@pytest.mark.parametrize("name", FILTERS)
@settings(max_examples=40)
@given(geometries(), st.booleans())
def test_filters(name: str, g: dict[str, Any], align: bool) -> None:
    x = image(*g["shape"], dtype=torch.float64, last=g["last"])
    ours, theirs = both(lambda: getattr(aten, name)(x, g["result"], align, *g["scales"]))
    same(ours, theirs)
    grad = image(*theirs.shape, dtype=torch.float64, last=g["last"])
    args = [grad, g["result"], g["shape"], align, *g["scales"]]
    same(*both(lambda: getattr(aten, name + "_backward")(*args)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8], ids=str)
def test_dtypes(dtype: torch.dtype, last: bool) -> None:
    x = image(2, 16, 19, 21, dtype=dtype, last=last)
    for size in ([38, 42], [33, 17], [57, 63], [19, 300]):
        for name in NEAREST:
            check(name, lambda n=name, s=size: getattr(aten, n)(x, s))
            if dtype in FLOATS and (last or GRADIENTS):
                grad = image(2, 16, *size, dtype=dtype, last=last)
                back = getattr(aten, name + "_backward")
                check(
                    name + "_backward",
                    lambda b=back, g=grad, s=size: b(g, s, x.shape),
                    reference=lambda b=back, g=grad, s=size: b(g.double(), s, x.shape),
                )
        if dtype not in (torch.float32, torch.float64) and (DEVICE == "cpu" or dtype not in FLOATS):
            continue
        for name in FILTERS:
            function, back = getattr(aten, name), getattr(aten, name + "_backward")
            check(
                name,
                lambda f=function, s=size: f(x, s, False),
                reference=lambda f=function, s=size: f(x.double(), s, False),
            )
            grad = image(2, 16, *size, dtype=dtype, last=last)
            if DEVICE != "cpu" and dtype == torch.float32:  # both find places in float32, ATen adds in no order
                same(*both(lambda b=back, g=grad, s=size: b(g, s, x.shape, False)), rtol=1e-5, atol=1e-4)
                continue
            check(
                name + "_backward",
                lambda b=back, g=grad, s=size: b(g, s, x.shape, False),
                reference=lambda b=back, g=grad, s=size: b(g.double(), s, x.shape, False),
            )


def test_layouts() -> None:
    views = {
        "transposed": image(2, 6, 15, 14).transpose(2, 3),
        "stepped": image(2, 6, 15, 28)[..., ::2],
        "expanded": image(1, 6, 15, 14).expand(2, -1, -1, -1),
        "one pixel": image(3, 5, 1, 1, last=True),
        "one channel": image(3, 1, 4, 4),
        "last, stepped": image(2, 12, 15, 14, last=True)[:, ::2],
    }
    if DEVICE == "cpu":
        views["empty batch"] = image(0, 6, 15, 14)  # ATen's launch fails on a GPU
    for name, view in views.items():
        for call in (
            lambda v=view: aten.upsample_nearest2d(v, [20, 9]),
            lambda v=view: aten._upsample_bicubic2d_aa(v, [20, 9], False),
        ):
            ours, theirs = both(call)
            assert not isinstance(theirs, type), name
            same(ours, theirs, rtol=1e-5, atol=1e-4)


def test_what_aten_refuses_stays_refused() -> None:
    x = image(1, 2, 6, 6)
    for call in (
        lambda: aten.upsample_nearest2d(x, [0, 3]),
        lambda: aten.upsample_nearest2d(x, [3]),
        lambda: aten.upsample_nearest2d(x[0], [3, 3]),
        lambda: aten.upsample_nearest2d(x[:, :0], [3, 3]),
        lambda: aten.upsample_nearest2d(x.long(), [3, 3]),
        lambda: aten.upsample_nearest2d_backward(x, [6, 6], [1, 3, 4, 4]),
        lambda: aten._upsample_bicubic2d_aa_backward(x, [6, 5], [1, 2, 4, 4], False),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs


def test_out_forms() -> None:
    x = image(2, 3, 5, 6)
    for name in (*NEAREST, *FILTERS):
        extra = [False] if name in FILTERS else []
        function, back = getattr(aten, name), getattr(aten, name + "_backward")
        out, into = torch.empty(0, device=DEVICE), torch.empty_like(x)
        grad = image(2, 3, 8, 4)
        ours = (name + ".out", name + "_backward.grad_input")
        with kernels(*(ours if GRADIENTS or name in FILTERS else ours[:1])):
            assert function.out(x, [8, 4], *extra, out=out) is out
            assert back.grad_input(grad, [8, 4], x.shape, *extra, grad_input=into) is into
        same(out, function(x, [8, 4], *extra))
        same(into, back(grad, [8, 4], x.shape, *extra))


@pytest.mark.parametrize("last", [False, True])
def test_gradients(last: bool) -> None:
    x = image(2, 2, 6, 5, dtype=torch.float64, last=last).requires_grad_()
    back = ["upsample_nearest2d_backward"] if GRADIENTS else []  # the gradients that gradcheck hands in are contiguous
    with kernels("upsample_nearest2d", "_upsample_bicubic2d_aa", *back):
        for kind in ("nearest", "nearest-exact"):
            assert torch.autograd.gradcheck(lambda t, k=kind: F.interpolate(t, (9, 3), mode=k), x)
        for kind in ("bicubic", "bilinear"):
            assert torch.autograd.gradcheck(lambda t, k=kind: F.interpolate(t, (4, 8), mode=k, antialias=True), x)
        assert torch.autograd.gradgradcheck(lambda t: F.interpolate(t, (4, 8), mode="bicubic", antialias=True), x)


def test_composites_and_functions() -> None:
    """nn.functional.interpolate and the .vec overloads, which are composite; the explicit functions by their names."""
    x = image(2, 3, 10, 11)
    with kernels("upsample_nearest2d", "_upsample_bicubic2d_aa"):
        ours = [F.interpolate(x, scale_factor=1.7), aten.upsample_nearest2d.vec(x, None, [3.0, 2.0])]
        ours.append(F.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True))
    same(ours[0], F.interpolate(x, scale_factor=1.7))
    same(ours[1], aten.upsample_nearest2d.vec(x, None, [3.0, 2.0]))
    same(ours[2], F.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True), rtol=1e-5, atol=1e-4)
    before = counts("upsample_nearest2d")["kernel"]
    same(ops.upsample_nearest2d(x, [4, 4]), aten.upsample_nearest2d(x, [4, 4]))
    assert counts("upsample_nearest2d")["kernel"] > before


def test_same_bits_twice() -> None:
    grad = torch.randn(2, 8, 33, 35, device=DEVICE)
    with flag_gems.use_gems():
        for call in (
            lambda: aten.upsample_nearest2d_backward(grad, [33, 35], [2, 8, 12, 9]),
            lambda: aten._upsample_bicubic2d_aa_backward(grad, [33, 35], [2, 8, 70, 9], False),
        ):
            assert torch.equal(call(), call())
