"""Norms along rows with what stands before or after them: values beside torch's own operators, gradients, layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import modules, warm
from torch import Tensor

from compare import FLOATS, kernels
from cpu_modes import run_in_mode
from layouts import LAYOUTS

DEVICE = flag_gems.device
F = torch.nn.functional
OPS = torch.ops.flag_gems


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def close(ours: Any, exact: Any, dtype: torch.dtype, steps: int = 2) -> None:
    """Within a few roundings of the dtype of what float64 gives."""
    assert ours.dtype == dtype and ours.shape == exact.shape, (ours.dtype, ours.shape, exact.shape)
    eps = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps) * steps
    torch.testing.assert_close(ours.double(), exact.double(), rtol=eps, atol=eps)


def counted(name: str, call: Callable[[], Any]) -> Any:
    """The result of a call that runs in our kernel of that name, once."""
    flag_gems.reset_stats()
    result = call()
    assert flag_gems.stats()[name]["kernel"] == 1, flag_gems.stats()
    return result


# Lengths that are kept in registers by a warp and by a block, in shared memory, and read again.
SHAPES = [((3, 5, 7), 1), ((4, 1), 1), ((2, 3, 130), 2), ((9, 1000), 1), ((2, 4096), 1), ((0, 8), 1), ((3, 9000), 1)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "inner"), SHAPES)
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
def test_skip_layer_norm(shape: tuple[int, ...], inner: int, dtype: torch.dtype, affine: tuple[bool, bool]) -> None:
    x, residual = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    norm = shape[-inner:]
    weight = draw(*norm, dtype=dtype, seed=2) if affine[0] else None
    bias = draw(*norm, dtype=dtype, seed=3) if affine[1] else None
    ours = counted(
        "flag_gems::skip_layer_norm", lambda: flag_gems.skip_layer_norm(x, residual, norm, weight, bias, eps=1e-5)
    )
    wide = [None if t is None else t.double() for t in (weight, bias)]
    close(ours, F.layer_norm((x + residual).double(), norm, *wide), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "inner"), SHAPES)
def test_fused_add_rms_norm(shape: tuple[int, ...], inner: int, dtype: torch.dtype) -> None:
    x, residual = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    norm, total = shape[-inner:], x + residual
    weight = draw(*norm, dtype=dtype, seed=2)
    exact = F.rms_norm(total.double(), norm, weight.double(), 1e-5)
    call = lambda: flag_gems.fused_add_rms_norm(x, residual, norm, weight, eps=1e-5)  # noqa: E731
    a, b = counted("flag_gems::fused_add_rms_norm", call)
    assert a is x and b is residual and torch.equal(residual, total)
    close(x, exact, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    change = LAYOUTS[layout]
    for shape in [(6, 10), (3, 4, 6), (2, 3, 4, 5)]:
        made = [change(draw(*shape, seed=seed)) for seed in (0, 1)]
        x, residual = (draw(*shape, seed=seed) if t is None else t for seed, t in enumerate(made))
        norm = x.shape[-1:]
        weight = change(draw(*norm, seed=2)) if norm else None
        if weight is None or weight.shape != norm:
            weight = draw(*norm, seed=2)
        exact = F.layer_norm((x + residual).double(), norm, weight.double())
        close(flag_gems.skip_layer_norm(x, residual, norm, weight, None), exact, torch.float32, 8)
        close(OPS.rms_norm(x, weight, 1e-6), F.rms_norm(x.double(), norm, weight.double(), 1e-6), torch.float32, 8)
        if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
            continue  # cannot be written
        total = x + residual
        exact = F.rms_norm(total.double(), norm, weight.double(), 1e-5)
        flag_gems.fused_add_rms_norm(x, residual, norm, weight)
        assert torch.equal(residual, total)
        close(x, exact, torch.float32, 8)


def test_written_tensors_are_noticed() -> None:
    """Autograd is told that a saved tensor changed, by either way in."""
    for call in (
        lambda x, r, w: flag_gems.fused_add_rms_norm(x, r, w.shape, w),
        lambda x, r, w: OPS.fused_add_rms_norm(x, r, w, 1e-5),
    ):
        x, residual, weight = draw(3, 8), draw(3, 8, seed=1), draw(8, seed=2)
        before = x._version, residual._version
        call(x, residual, weight)
        assert (x._version, residual._version) == (before[0] + 1, before[1] + 1)


def test_half_data_with_float_weights() -> None:
    x, residual = draw(5, 64, dtype=torch.bfloat16), draw(5, 64, dtype=torch.bfloat16, seed=1)
    weight, bias = draw(64, seed=2), draw(64, seed=3)
    exact = F.layer_norm((x + residual).double(), (64,), weight.double(), bias.double())
    close(flag_gems.skip_layer_norm(x, residual, (64,), weight, bias), exact, torch.bfloat16)


def test_gradients() -> None:
    x, residual, weight, bias = (
        draw(*shape, dtype=torch.float64, seed=seed).requires_grad_()
        for seed, shape in enumerate([(3, 5), (3, 5), (5,), (5,)])
    )

    def skip(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return flag_gems.skip_layer_norm(x, residual, (5,), weight, bias)

    def add_rms(x: Tensor, residual: Tensor, weight: Tensor) -> Any:
        return flag_gems.fused_add_rms_norm(x * 1, residual * 1, (5,), weight)

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return OPS.rms_norm(x, weight, 1e-5)

    for function, args in [
        (skip, (x, residual, weight, bias)),
        (add_rms, (x, residual, weight)),
        (rms, (x, weight)),
    ]:
        assert torch.autograd.gradcheck(function, args)
        assert torch.autograd.gradgradcheck(function, args)


def test_operators_of_torch() -> None:
    x, residual, weight = draw(3, 8).requires_grad_(), draw(3, 8, seed=1), draw(8, seed=2)
    torch.library.opcheck(OPS.skip_layer_norm, (x, residual, [8], weight, None))
    torch.library.opcheck(OPS.rms_norm, (x, weight, 1e-5))
    torch.library.opcheck(OPS.fused_add_rms_norm, (x.detach().clone(), residual.clone(), weight, 1e-5))
    with pytest.raises(RuntimeError, match="no gradient"):
        OPS.fused_add_rms_norm(x, residual, weight, 1e-5)


def test_under_transforms() -> None:
    x, residual, weight = draw(4, 3, 8), draw(4, 3, 8, seed=1), draw(8, seed=2)

    def call(x: Tensor, residual: Tensor) -> Tensor:
        return flag_gems.skip_layer_norm(x, residual, (8,), weight, None)

    torch.testing.assert_close(torch.vmap(call)(x, residual), call(x, residual))
    total = torch.func.grad(lambda x: call(x, residual).square().sum())(x)
    wanted = torch.func.grad(lambda x: F.layer_norm(x + residual, (8,), weight).square().sum())(x)
    torch.testing.assert_close(total, wanted)


def test_what_the_kernel_declines_is_done() -> None:
    x, row = draw(4, 8), draw(8, seed=1)
    ours = flag_gems.skip_layer_norm(x, row, (8,), None, None)  # shapes that broadcast
    torch.testing.assert_close(ours, F.layer_norm(x + row, (8,)))
    with pytest.raises(RuntimeError):
        flag_gems.skip_layer_norm(x, x, (7,), None, None)
    with pytest.raises(ValueError, match="a weight of shape"):
        flag_gems.fused_add_rms_norm(x, x.clone(), (7,), row)


# ---- modules ----


@pytest.mark.parametrize("affine", [True, False])
def test_module(affine: bool) -> None:
    module = modules.GemsRMSNorm(8, elementwise_affine=affine, device=DEVICE)
    x, residual = draw(3, 8), draw(3, 8, seed=1)
    torch.testing.assert_close(module(x), F.rms_norm(x, (8,), module.weight, 1e-6))
    assert (module.weight is not None) == affine and module.eps == 1e-6
    held = x.clone(), residual.clone()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        a, b = module(*held)
        c, d = compiled(x.clone(), residual.clone())
    assert a is held[0] and b is held[1]
    torch.testing.assert_close(a, F.rms_norm(x + residual, (8,), None, 1e-6))
    torch.testing.assert_close((c, d), (a, b))
    torch.compiler.reset()
    if affine:  # in training the same, and the gradient is there
        a, b = module(x * 1, residual * 1)
        (a.sum() + b.sum()).backward()
        wanted = F.rms_norm(x + residual, (8,), None, 1e-6).sum(0)
        torch.testing.assert_close(module.weight.grad, wanted)


# ---- instance_norm, normed_cumsum ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 3, 6, 7), (1, 2, 3, 4, 5)])
def test_instance_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, channels = draw(*shape, dtype=dtype), shape[1]
    weight, bias = draw(channels, dtype=dtype, seed=1), draw(channels, dtype=dtype, seed=2)
    for layout in (x, x.transpose(0, 2).contiguous().transpose(0, 2)):
        for given in ((weight, bias), (None, None)):
            wide = [None if t is None else t.double() for t in given]
            exact = torch.instance_norm(layout.double(), *wide, None, None, True, 0.1, 1e-5, False)
            ours = counted("native_group_norm", lambda x=layout, g=given: flag_gems.instance_norm(x, *g))
            assert ours.is_contiguous()
            close(ours, exact, dtype, 8)


@pytest.mark.parametrize("use_input_stats", [True, False])
def test_instance_norm_with_running_statistics(use_input_stats: bool) -> None:
    x, weight = draw(3, 4, 5, 6), draw(4, seed=1)
    mean, var = draw(4, seed=2), draw(4, seed=3).abs() + 1
    mine = flag_gems.instance_norm(x, weight, None, held := mean.clone(), moved := var.clone(), use_input_stats)
    theirs = torch.instance_norm(x, weight, None, mean, var, use_input_stats, 0.1, 1e-5, False)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close((held, moved), (mean, var))


def test_instance_norm_gradients_and_errors() -> None:
    x, weight, bias = (draw(*s, dtype=torch.float64).requires_grad_() for s in [(2, 3, 4), (3,), (3,)])
    assert torch.autograd.gradcheck(flag_gems.instance_norm, (x, weight, bias))
    assert torch.autograd.gradgradcheck(flag_gems.instance_norm, (x, weight, bias), atol=1e-4)
    with pytest.raises(RuntimeError):
        flag_gems.instance_norm(x, use_input_stats=False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_normed_cumsum(dim: int, dtype: torch.dtype) -> None:
    x = draw(5, 40, 7, dtype=dtype).abs() + 0.1
    exact = x.double().cumsum(dim) / x.double().sum(dim, keepdim=True)
    close(flag_gems.normed_cumsum(x, dim), exact, dtype, 4)


def test_normed_cumsum_of_nothing_and_integers() -> None:
    assert flag_gems.normed_cumsum(draw(0, 3)).shape == (0, 3)
    assert flag_gems.normed_cumsum(draw(3, 0)).shape == (3, 0)
    whole = torch.arange(1, 5, device=DEVICE)
    torch.testing.assert_close(flag_gems.normed_cumsum(whole), whole.cumsum(0) / 10)
    x = draw(3, 4, dtype=torch.float64).abs().requires_grad_()
    assert torch.autograd.gradcheck(flag_gems.normed_cumsum, (x,))


# ---- rwkv_ka_fusion ----


def ka_reference(k: Tensor, kk: Tensor, a: Tensor, ka: Tensor, heads: int, n: int) -> tuple[Tensor, ...]:
    k, kk, a, ka = (t.double() for t in (k, kk, a, ka))
    normed = F.normalize((k * kk).view(*k.shape[:-1], heads, n), dim=-1).view(k.shape)
    return k * (1 + (a - 1) * ka), normed, normed * a


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("lead", "heads", "n"), [((), 2, 64), ((5,), 3, 7), ((2, 3), 4, 64), ((2,), 1, 1000), ((0,), 2, 8)]
)
def test_rwkv_ka_fusion(lead: tuple[int, ...], heads: int, n: int, dtype: torch.dtype) -> None:
    k, a = draw(*lead, heads * n, dtype=dtype), draw(*lead, heads * n, dtype=dtype, seed=1)
    kk, ka = draw(heads * n, dtype=dtype, seed=2), draw(heads * n, dtype=dtype, seed=3)
    call = lambda: flag_gems.rwkv_ka_fusion(k, kk, a, ka, heads, n)  # noqa: E731
    for ours, exact in zip(
        counted("flag_gems::rwkv_ka_fusion", call), ka_reference(k, kk, a, ka, heads, n), strict=True
    ):
        close(ours, exact, dtype, 4)


def test_rwkv_ka_fusion_layouts_gradients_and_operator() -> None:
    k, a = draw(6, 4).t(), draw(4, 12, seed=1)[:, ::2]
    kk, ka = draw(12, seed=2)[::2], draw(1, 6, seed=3)
    for ours, exact in zip(flag_gems.rwkv_ka_fusion(k, kk, a, ka, 2, 3), ka_reference(k, kk, a, ka, 2, 3), strict=True):
        close(ours, exact, torch.float32, 4)
    zero = torch.zeros(2, 6, device=DEVICE)
    assert torch.equal(flag_gems.rwkv_ka_fusion(zero, kk, zero, ka[0], 2, 3)[1], zero)
    args = [t.double().requires_grad_() for t in (k, kk, a, ka)]
    assert torch.autograd.gradcheck(lambda *t: flag_gems.rwkv_ka_fusion(*t, 2, 3), args)
    torch.library.opcheck(OPS.rwkv_ka_fusion, (k.requires_grad_(), kk, a, ka[0], 2, 3))
    with pytest.raises(RuntimeError):
        flag_gems.rwkv_ka_fusion(k, kk, a, ka, 2, 4)


# ---- weight_norm ----

ATEN = torch.ops.aten


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 64), (7, 1000), (130, 9), (1, 5), (8,), (3, 20000)])
@pytest.mark.parametrize("last", [False, True])
def test_weight_norm_interface(shape: tuple[int, ...], last: bool, dtype: torch.dtype) -> None:
    dim = len(shape) - 1 if last else 0
    v, grad = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=2)
    g = draw(*(n if d == dim else 1 for d, n in enumerate(shape)), dtype=dtype, seed=1)
    wide, scale = v.double().requires_grad_(), g.double().requires_grad_()
    dims = [d for d in range(len(shape)) if d != dim]
    length = torch.linalg.vector_norm(wide, dim=dims, keepdim=True) if dims else wide.abs()
    exact = wide * (scale / length)
    wanted = torch.autograd.grad(exact, (wide, scale), grad.double())
    aten = ATEN._weight_norm_interface(v, g, dim)
    with kernels("_weight_norm_interface", "_weight_norm_interface_backward"):
        w, lengths = ATEN._weight_norm_interface(v, g, dim)
        found = ATEN._weight_norm_interface_backward(grad, v, g, lengths, dim)
    for mine, theirs in zip((w, lengths), aten, strict=True):
        assert (mine.dtype, mine.shape, mine.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
    close(w, exact.detach(), dtype, 4)
    close(lengths, length.detach(), lengths.dtype, 8)
    for ours, gradient in zip(found, wanted, strict=True):
        unit = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps)
        assert ours.dtype == dtype and ours.shape == gradient.shape
        torch.testing.assert_close(ours.double(), gradient, rtol=8 * unit, atol=8 * unit * v.numel() ** 0.5)


def test_weight_norm_layouts_and_zeros() -> None:
    for layout, change in LAYOUTS.items():
        v = change(draw(4, 6, 8))
        if v is None or v.ndim < 2 or not v.numel():
            continue
        for dim in (0, v.ndim - 1):
            g = draw(*(n if d == dim else 1 for d, n in enumerate(v.shape)), seed=1)
            expected = ATEN._weight_norm_interface(v.contiguous(), g, dim)  # ATen reads v as if it were contiguous
            with flag_gems.use_gems():
                ours = ATEN._weight_norm_interface(v, g, dim)
            torch.testing.assert_close(ours, expected, msg=layout)
    zero, g = torch.zeros(3, 4, device=DEVICE), torch.ones(3, 1, device=DEVICE)
    with kernels("_weight_norm_interface"):
        w, lengths = ATEN._weight_norm_interface(zero, g, 0)
    assert w.isnan().all() and torch.equal(lengths, torch.zeros_like(g))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_weight_norm(dim: int) -> None:
    v = draw(4, 3, 5, dtype=torch.float64).requires_grad_()
    g = draw(*(n if d == dim else 1 for d, n in enumerate(v.shape)), dtype=torch.float64, seed=1).requires_grad_()
    torch.testing.assert_close(flag_gems.weight_norm(v, g, dim), torch._weight_norm(v, g, dim))
    assert torch.autograd.gradcheck(lambda v, g: flag_gems.weight_norm(v, g, dim), (v, g))
    if dim not in (0, 2):  # torch's formula for _weight_norm_interface has a wrong second gradient
        assert torch.autograd.gradgradcheck(lambda v, g: flag_gems.weight_norm(v, g, dim), (v, g))
    half, scale = v.detach().half(), g.detach().half()
    exact = torch._weight_norm(half.double(), scale.double(), dim)
    close(flag_gems.weight_norm(half, scale, dim), exact, half.dtype, 4)


# ---- every own row of these files, and its programs ----

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("checked", "forward"),
        pytest.param("checked", "random:3", marks=pytest.mark.slow),
        pytest.param("faithful", "reverse", marks=pytest.mark.slow),
        pytest.param("fast", "forward", marks=pytest.mark.slow),
    ],
)
def test_own_rows_in_a_mode(mode: str, order: str) -> None:
    """No race and no access out of bounds; the results of what each is composed of."""
    run_in_mode(mode, order, str(HERE / "own_rows.py"))


ROWS = ["skip_layer_norm", "fused_add_rms_norm", "weighted_rms_norm", "rwkv_ka_fusion"]
ROWS += ["skip_layer_norm_backward", "weighted_rms_norm_backward", "rwkv_ka_fusion_backward"]
ROWS += ["cross_entropy", "cross_entropy_backward", "weight_norm", "weight_norm_backward"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("row", ROWS)
def test_programs_for_a_gpu(row: str, arch: str) -> None:
    for dtype in warm.MAIN_DTYPES:
        reports = warm.compile_item(warm.Item("cuda", arch, row, dtype))
        assert reports and all(r["error"] is None and not r["spill_bytes"] for r in reports), reports
