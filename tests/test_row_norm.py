"""softmax, layer_norm and rms_norm with their gradients: every dimension, length and layout beside float64 and ATen.

A result may be as far from float64 as a few roundings of its compute type and one of its own dtype; or, on long rows,
as far as ATen's own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from flag_gems import ops
from torch import Tensor

from compare import both, kernels
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ATEN = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LENGTHS = sorted({*range(1, 131), *(2**k + d for k in range(8, 14) for d in (-1, 0, 1))})
LONG = (2**15 + 1, 70_000, 2**17 - 1, 2**18)


def near(ours: Any, theirs: Any, exact: Any = None, size: float = 1) -> None:
    """Same dtypes, shapes and strides as ATen; values within `size` times the default tolerance of ATen's.

    Where that is not so: as near to the exact ones as ATen's.
    """
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, (ours, theirs)
        return
    if isinstance(ours, Tensor):
        ours, theirs = [ours], [theirs]
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a is None or b is None:
            assert a is b
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.numel() < 2 or a.stride() == b.stride(), (a.stride(), b.stride())
        rtol = size * max(1.3e-6, torch.finfo(a.dtype).eps * 4)
        try:
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)
        except AssertionError:
            if exact is None:
                raise
            errors = [(t.double() - exact[i]).abs().max() for t in (a, b)]
            assert errors[0] <= 2 * errors[1], errors


def softmaxes(x: Tensor, g: Tensor, dim: int) -> list[Tensor]:
    y, z = ATEN._softmax(x, dim, False), ATEN._log_softmax(x, dim, False)
    p, q = x.double().softmax(dim).to(x.dtype), x.double().log_softmax(dim).to(x.dtype)
    back = (ATEN._softmax_backward_data, ATEN._log_softmax_backward_data)
    return [y, z, back[0](g, p, dim, x.dtype), back[1](g, q, dim, x.dtype)]


def norms(x: Tensor, g: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None) -> list[Tensor]:
    stats = [t.clone() for t in aten_stats(x, shape, weight, bias)]
    mask = [True, weight is not None, bias is not None]
    back = ATEN.native_layer_norm_backward(g, x, shape, *stats, weight, bias, mask)
    return [*ATEN.native_layer_norm(x, shape, weight, bias, 1e-5), *back]


def aten_stats(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """ATen's own mean and rstd, whatever scope is open."""
    with flag_gems.use_gems(include=["mm"]):
        return ATEN.native_layer_norm(x, shape, weight, bias, 1e-5)[1:]


# ---- softmax ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax_along_every_dim(layout: str) -> None:
    for shape in ((), (6,), (4, 9), (2, 3, 4, 20)):
        x, g = (LAYOUTS[layout](torch.randn(shape, device=DEVICE)) for _ in range(2))
        if x is None:
            continue
        for dim in range(-len(shape), max(1, len(shape))):
            near(*both(lambda x=x, g=g, d=dim: softmaxes(x, g, d)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax_of_every_length(dtype: torch.dtype) -> None:
    lengths = LENGTHS if dtype == torch.float32 else LENGTHS[::7]
    data = [[torch.randn(3, n, device=DEVICE).to(dtype) for _ in range(2)] for n in lengths]
    near(*both(lambda: [t for x, g in data for t in softmaxes(x, g, 1)]), size=2)
    near(*both(lambda: [t for x, g in data for t in softmaxes(x.t().contiguous(), g.t().contiguous(), 0)]), size=2)


def test_softmax_of_long_rows() -> None:
    for n in LONG:
        x, g = (torch.randn(2, n, device=DEVICE) for _ in range(2))
        exact = softmaxes(x.double(), g.double(), 1)
        near(*both(lambda x=x, g=g: softmaxes(x, g, 1)), exact=exact)


def test_softmax_of_infinities_and_nan() -> None:
    inf, nan = math.inf, math.nan
    rows = [[-inf] * 4, [-inf, 0, -inf, 1], [inf, 1, 2, 3], [nan, 1, 2, 3], [1e38, -1e38, 0, 1e38], [88, 89, -104, 0]]
    x = torch.tensor(rows, device=DEVICE)
    for view in (x, x.repeat(1, 30), torch.cat([torch.full((6, 100), -inf, device=DEVICE), x], 1)):
        near(*both(lambda v=view: [ATEN._softmax(v, 1, False), ATEN._log_softmax(v, 1, False)]))
        near(*both(lambda v=view: [ATEN._softmax(v.t().contiguous(), 0, False)]))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
def test_softmax_of_nothing(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE)
    for dim in range(len(shape)):
        near(*both(lambda d=dim: softmaxes(x, x, d)))


def test_softmax_out_and_errors() -> None:
    x = torch.randn(4, 5, device=DEVICE)
    out = torch.empty(0, device=DEVICE)
    with kernels("_softmax.out"):
        assert ATEN._softmax.out(x, 1, False, out=out) is out
    torch.testing.assert_close(out, x.softmax(1))
    for call in (
        lambda: ATEN._softmax(x, 2, False),
        lambda: ATEN._softmax(x.int(), 1, False),
        lambda: ATEN._softmax_backward_data(x, x.double(), 1, torch.float32),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type)
        assert ours is theirs
    if DEVICE == "cpu":
        same = both(lambda: ATEN._softmax(x.half(), 1, True))
        assert same[0] is same[1]


# ---- layer_norm and rms_norm ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_norm_of_every_layout(layout: str) -> None:
    for shape in ((9,), (4, 10), (2, 3, 4, 16)):
        x, g = (LAYOUTS[layout](torch.randn(shape, device=DEVICE)) for _ in range(2))
        if x is None:
            continue
        for count in range(1, len(shape) + 1):
            normalized = list(shape[-count:])
            w, b = (LAYOUTS["offset"](torch.randn(normalized, device=DEVICE)) for _ in range(2))
            # What is rounded in a row of nearly equal elements is multiplied by rstd.
            size = 8 * max(1.0, aten_stats(x, normalized, w, b)[1].max().item())
            for weight, bias in ((w, b), (w, None), (None, b), (None, None)):
                near(*both(lambda a=(x, g, normalized, weight, bias): norms(*a)), size=size)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layer_norm_of_every_length(dtype: torch.dtype) -> None:
    lengths = LENGTHS if dtype == torch.float32 else LENGTHS[::7]
    data = [[torch.randn(size, device=DEVICE).to(dtype) for size in ((4, n), (4, n), n, n)] for n in lengths]

    def all_norms(data: list[list[Tensor]]) -> list[Tensor]:
        return [t for x, g, w, b in data for t in norms(x, g, [x.shape[1]], w, b)]

    exact = all_norms([[t.double() for t in tensors] for tensors in data])
    near(*both(lambda: all_norms(data)), exact=exact, size=8)


def test_layer_norm_of_half_data_with_float_weights() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x, g = (torch.randn(6, 40, device=DEVICE).to(dtype) for _ in range(2))
        w, b = (torch.randn(40, device=DEVICE) for _ in range(2))
        exact = norms(x.double(), g.double(), [40], w.double(), b.double())
        for weight, bias in ((w, b), (w.double(), b.double()), (w, b.to(dtype))):
            near(*both(lambda a=(x, g, [40], weight, bias): norms(*a)), exact=exact, size=4)


def test_variance_of_data_with_a_large_mean() -> None:
    """Two readings or Welford's steps: no difference of large squares."""
    for n in (100, 4096, 2**18):
        x = torch.randn(2, n, device=DEVICE) + 1e4
        rstd = ops.native_layer_norm(x, [n], None, None, 0.0)[2]
        exact = (x.double().var(1, unbiased=False)).rsqrt()
        torch.testing.assert_close(rstd.double().flatten(), exact, rtol=1e-4, atol=0)


def test_long_and_many_rows() -> None:
    for shape in ((2, 70_001), (1, 2**18), (3000, 24), (1025, 130)):
        x, g = (torch.randn(shape, device=DEVICE) for _ in range(2))
        w, b = (torch.randn(shape[1], device=DEVICE) for _ in range(2))
        exact = norms(x.double(), g.double(), [shape[1]], w.double(), b.double())
        near(*both(lambda a=(x, g, [shape[1]], w, b): norms(*a)), exact=exact, size=8)


def rms_reference(x: Tensor, shape: list[int], weight: Tensor | None, eps: float) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    y = x * (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    return y if weight is None else y * weight


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rms_norm_and_its_gradients(dtype: torch.dtype) -> None:
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)
    for n in (*range(1, 70, 5), 255, 256, 257, 1000, 4097):
        for rows in (1, 5, 300):
            x, w = torch.randn(rows, n, device=DEVICE).to(dtype), torch.randn(n, device=DEVICE).to(dtype)
            g = torch.randn(rows, n, device=DEVICE).to(dtype)
            wide = [t.double().requires_grad_() for t in (x, w)]
            y = rms_reference(wide[0], [n], wide[1], eps)
            dx, dw = torch.autograd.grad(y, wide, g.double())
            ours, rstd = ops._fused_rms_norm(x, [n], w, None)
            back = ops._fused_rms_norm_backward(g, x, [n], rstd, w, [True, True])
            torch.testing.assert_close(ours.double(), y.detach(), rtol=tolerance, atol=tolerance)
            scale = max(1.0, rstd.max().item())
            torch.testing.assert_close(back[0].double(), dx, rtol=tolerance, atol=tolerance * scale)
            torch.testing.assert_close(back[1].double(), dw, rtol=tolerance * 4, atol=tolerance * max(4, rows**0.5))


def test_rms_norm_as_aten_has_it() -> None:
    x = torch.randn(4, 6, 32, device=DEVICE)
    for dtype in FLOATS:
        for eps in (None, 1e-5):
            for weight in (None, torch.randn(32, device=DEVICE).to(dtype), torch.randn(32, device=DEVICE)):
                near(*both(lambda d=dtype, e=eps, w=weight: ATEN._fused_rms_norm(x.to(d), [32], w, e)), size=4)
    near(*both(lambda: ATEN._fused_rms_norm(x.transpose(0, 1), [32], None, None)))
    near(*both(lambda: ATEN._fused_rms_norm(x, [6, 32], None, 1e-6)))


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_same_bits_every_time(rows: int) -> None:
    x, g = (torch.randn(rows, 300, device=DEVICE) for _ in range(2))
    w, b = (torch.randn(300, device=DEVICE) for _ in range(2))
    _, mean, rstd = ops.native_layer_norm(x, [300], w, b, 1e-5)
    threads, first = torch.get_num_threads(), None
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        back = ops.native_layer_norm_backward(g, x, [300], mean, rstd, w, b, [True] * 3)
        result = [*back, ops._softmax(x, 1, False), ops._softmax(x, 0, False)]
        first = first or result
        assert all(torch.equal(p, q) for p, q in zip(first, result, strict=True))
    torch.set_num_threads(threads)


def test_masks_empty_rows_and_errors() -> None:
    x, w = torch.randn(4, 8, device=DEVICE), torch.randn(8, device=DEVICE)
    _, mean, rstd = ATEN.native_layer_norm(x, [8], w, w, 1e-5)
    for mask in ([True, False, False], [False, True, False], [False, False, True], [False, False, False]):
        near(*both(lambda m=mask: ATEN.native_layer_norm_backward(x, x, [8], mean, rstd, w, w, m)), size=4)
    empty = torch.empty(0, 8, device=DEVICE)
    near(*both(lambda: norms(empty, empty, [8], w, w)))
    near(*both(lambda: ATEN.native_layer_norm(torch.empty(3, 0, device=DEVICE), [0], None, None, 1e-5)))
    for call in (
        lambda: ATEN.native_layer_norm(x, [4], None, None, 1e-5),
        lambda: ATEN.native_layer_norm(x, [], None, None, 1e-5),
        lambda: ATEN.native_layer_norm(x, [8], w[:4], None, 1e-5),
        lambda: ATEN.native_layer_norm(x.int(), [8], None, None, 1e-5),
    ):
        ours, theirs = both(call)
        assert isinstance(theirs, type)
        assert ours is theirs


# ---- through autograd ----


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "stepped"])
def test_gradients(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(3, 4, 5, dtype=torch.float64, device=DEVICE)).requires_grad_()
    w, b = (torch.randn(5, dtype=torch.float64, device=DEVICE, requires_grad=True) for _ in range(2))
    checks: list[tuple[Callable[..., Any], tuple[Tensor, ...]]] = [
        (lambda x: x.softmax(-1), (x,)),
        (lambda x: x.softmax(1), (x,)),
        (lambda x: x.log_softmax(0), (x,)),
        (lambda x, w, b: F.layer_norm(x, (5,), w, b), (x, w, b)),
        (lambda x: F.layer_norm(x, (4, 5)), (x,)),
        (lambda x, w: F.rms_norm(x, (5,), w), (x, w)),
        (lambda x, w: ATEN._fused_rms_norm(x, [5], w, 1e-6)[0], (x, w)),
    ]
    with flag_gems.use_gems():
        for function, inputs in checks:
            assert torch.autograd.gradcheck(function, inputs)


def test_expanded_and_0_dim_gradients() -> None:
    """sum() sends back an expanded 0-dim gradient."""
    for function in (
        lambda x: x.softmax(-1)[..., 0].sum(),
        lambda x: F.layer_norm(x, (6,))[..., 1].sum(),
        lambda x: (x.log_softmax(0) * 2).sum(),
    ):
        grads = []
        for scope in (flag_gems.use_gems(), contextlib.nullcontext()):
            x = torch.arange(24.0, device=DEVICE).sin().view(4, 6).requires_grad_()
            with scope:
                function(x).backward()
            grads.append(x.grad)
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(DEVICE != "cpu", reason="only the CPU lacks a kernel in ATen")
def test_a_decline_without_a_kernel_of_aten_raises_as_torch_does() -> None:
    arguments = (torch.ones(2, 3), torch.ones(2, 3), [3], torch.ones(2, 1), None, [True, False])
    with flag_gems.use_gems(), pytest.raises(NotImplementedError, match="_fused_rms_norm_backward"):
        ATEN._fused_rms_norm_backward(*(a.to(torch.complex64) if isinstance(a, Tensor) else a for a in arguments))
