"""Counts, norms, moments, dot products and losses: shapes, layouts, dtypes beside float64, wrong numbers, gradients."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import both, kernels, tensors
from layouts import LAYOUTS

DEVICE = flag_gems.device
ATEN = torch.ops.aten
ORDERS = (0, 1, 2, 2.5, -1, math.inf, -math.inf)
SHAPES = st.lists(st.integers(1, 130), min_size=1, max_size=3).filter(lambda shape: math.prod(shape) < 60_000)
QUICK = settings(max_examples=15, deadline=None)


def near(ours: Any, exact: Any, dtype: torch.dtype, note: str = "", count: int = 0) -> None:
    """A result beside that of float64: a few units of what is computed in, and one rounding to its own dtype.

    Of count equal numbers ATen's sum in float64, made of 16 sums at most, is as many roundings away.
    """
    units = max(40, count // 16)
    wide = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    eps = max(torch.finfo(dtype).eps, units * wide.eps)
    for a, b in zip(tensors(ours), tensors(exact), strict=True):
        assert a.dtype == dtype, note
        torch.testing.assert_close(a.double(), b, rtol=eps, atol=eps, equal_nan=True, msg=lambda m: f"{note}: {m}")


def draw(data: st.DataObject, dtypes: tuple[torch.dtype, ...]) -> tuple[Tensor, list[int], bool]:
    """A tensor in some layout, dimensions of it, keepdim."""
    shape, dtype = data.draw(SHAPES), data.draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = (torch.randn(shape, generator=generator) + data.draw(st.sampled_from((0, 3)))).to(dtype).to(DEVICE)
    laid = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](x)
    dims = data.draw(st.lists(st.integers(-len(shape), len(shape) - 1), unique_by=lambda d: d % len(shape)))
    return x if laid is None else laid, dims, data.draw(st.booleans())


@QUICK
@given(data=st.data(), correction=st.sampled_from((None, 0, 1, 0.5)))
def test_moments(data: st.DataObject, correction: float | None) -> None:
    x, dims, keepdim = draw(data, (torch.float32, torch.bfloat16))
    count = math.prod(x.shape[d] for d in dims or range(x.ndim))
    if count <= (1 if correction is None else correction):
        return
    for name in ("var", "std", "var_mean", "std_mean"):
        overload = getattr(ATEN, name).correction
        call = lambda t, f=overload: f(t, dims, correction=correction, keepdim=keepdim)  # noqa: E731
        with kernels(f"{name}.correction"):
            ours = call(x)
        near(ours, call(x.double()), x.dtype, f"{name} {tuple(x.shape)} {dims}")


@QUICK
@given(data=st.data(), order=st.sampled_from(ORDERS))
def test_norms(data: st.DataObject, order: float) -> None:
    x, dims, keepdim = draw(data, (torch.float32, torch.float16))
    with kernels("linalg_vector_norm"):
        ours = ATEN.linalg_vector_norm(x, order, dims, keepdim)
    near(ours, ATEN.linalg_vector_norm(x.double(), order, dims, keepdim), x.dtype, f"{order} {tuple(x.shape)} {dims}")
    with kernels("linalg_vector_norm"):
        wide = ATEN.linalg_vector_norm(x, order, dims, keepdim, dtype=torch.float64)
    near(wide, ATEN.linalg_vector_norm(x.double(), order, dims, keepdim), torch.float64, count=x.numel())


@QUICK
@given(data=st.data())
def test_counts_and_sums_without_nan(data: st.DataObject) -> None:
    x, dims, keepdim = draw(data, (torch.float32, torch.bfloat16))
    holes = torch.where(x > 0.5, x, math.nan if data.draw(st.booleans()) else 0.0)
    for call in (
        lambda: ATEN.count_nonzero.dim_IntList(holes, dims),
        lambda: ATEN.count_nonzero(holes.int(), dims[0] if dims else None),
        lambda: ATEN.count_nonzero(holes > 0, None),
    ):
        ours, theirs = both(call)
        assert torch.equal(ours, theirs)
    with kernels("nansum"):
        ours = ATEN.nansum(holes, dims, keepdim)
    exact = ATEN.nansum(holes.double(), dims, keepdim)
    size = holes.double().nan_to_num().abs().sum(dims or list(range(x.ndim)), keepdim=keepdim)
    assert ((ours.double() - exact).abs() <= torch.finfo(x.dtype).eps * exact.abs() + 2e-6 * size + 1e-30).all()


@QUICK
@given(
    n=st.integers(0, 3000), step=st.integers(1, 2), dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.int32))
)
def test_dot(n: int, step: int, dtype: torch.dtype) -> None:
    a, b = (torch.randint(-4, 5, (2 * n + 3,), device=DEVICE).to(dtype) for _ in range(2))
    for x, y in ((a[: n * step : step], b[1 : n + 1]), (a[1 : n + 1], b[1 : n + 1])):
        for name in ("dot", "vdot"):
            with kernels(name):
                ours = getattr(ATEN, name)(x, y)
            assert ours == (x.double() * y.double()).sum().to(dtype)


@QUICK
@given(data=st.data(), reduction=st.integers(0, 2), name=st.sampled_from(("mse_loss", "smooth_l1_loss", "huber_loss")))
def test_losses(data: st.DataObject, reduction: int, name: str) -> None:
    x, _, _ = draw(data, (torch.float32, torch.bfloat16))
    y = torch.randn(x.shape, device=DEVICE).to(x.dtype)
    y = LAYOUTS[data.draw(st.sampled_from(("contiguous", "offset", "stepped")))](y)
    bend = () if name == "mse_loss" else (0.7,)
    with kernels(name):
        ours = getattr(ATEN, name)(x, y, reduction, *bend)
    exact = getattr(ATEN, name)(x.double(), y.double(), reduction, *bend)
    scale = 1e-5 + torch.finfo(x.dtype).eps
    torch.testing.assert_close(ours.double(), exact, rtol=scale, atol=scale)


@pytest.mark.parametrize("mean", [1e4, 1e6, -3e5])
def test_a_large_mean_costs_no_digits(mean: float) -> None:
    x = (torch.randn(130, 5000, device=DEVICE) + mean).contiguous()
    for t, dims in ((x, [1]), (x, [0]), (x, None), (x.t(), [0]), (x[:, :130].contiguous().t(), [1])):
        with kernels("var_mean.correction"):
            ours = ATEN.var_mean.correction(t, dims)
        for a, b in zip(ours, ATEN.var_mean.correction(t.double(), dims), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=2e-6 if DEVICE == "cpu" else 5e-6, atol=0)


def test_numbers_out_of_range() -> None:
    """A sum that would overflow does not where its mean is taken; the norm of one element takes no power of it."""
    huge = torch.full((300,), 3e38, device=DEVICE)
    with flag_gems.use_gems():
        torch.testing.assert_close(ATEN.var_mean.correction(huge, None)[1].item(), 3e38, rtol=1e-6, atol=0)
        assert torch.equal(ATEN.linalg_vector_norm(huge.view(-1, 1), 2, [1]), huge)
    for value in (math.nan, math.inf):
        x = torch.ones(40, device=DEVICE)
        x[7] = value
        for order in ORDERS:
            ours, theirs = both(lambda o=order, t=x: ATEN.linalg_vector_norm(t, o))
            assert torch.equal(ours.nan_to_num(5), theirs.nan_to_num(5)), (order, ours, theirs)
        ours, theirs = both(lambda t=x: ATEN.var.correction(t, None))
        assert ours.isnan() and theirs.isnan()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=DEVICE)
    calls = [
        lambda: ATEN.count_nonzero(x),
        lambda: ATEN.nansum(x),
        lambda: ATEN.var.correction(x, [0]),
        lambda: ATEN.mse_loss(x, x, 1),
        lambda: ATEN.mse_loss(x, x, 0),
        *(lambda o=o: ATEN.linalg_vector_norm(x, o) for o in ORDERS),
        *(lambda o=o: ATEN.linalg_vector_norm(x, o, [0]) for o in ORDERS),
    ]
    for call in calls:
        ours, theirs = both(call)
        assert ours is theirs if isinstance(theirs, type) else torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


def test_out() -> None:
    x = torch.randn(6, 50, device=DEVICE)
    pairs = [
        ("var.correction_out", lambda **k: ATEN.var.correction_out(x, [1], **k), torch.float32),
        ("linalg_vector_norm.out", lambda **k: ATEN.linalg_vector_norm.out(x, 2, [1], **k), torch.float32),
        ("norm.out", lambda **k: ATEN.norm.out(x, 2, [1], **k), torch.float32),
        ("nansum.out", lambda **k: ATEN.nansum.out(x, [1], **k), torch.float32),
        ("count_nonzero.out", lambda **k: ATEN.count_nonzero.out(x, 1, **k), torch.int64),
        ("mse_loss.out", lambda **k: ATEN.mse_loss.out(x, x + 1, 1, **k), torch.float32),
    ]
    for name, call, dtype in pairs:
        expected = call(out=torch.empty(0, dtype=dtype, device=DEVICE))
        with kernels(name):
            out = torch.empty(0, dtype=dtype, device=DEVICE)
            assert call(out=out) is out
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.var((0, 2), correction=0.5),
        lambda x: x.std(1),
        lambda x: torch.var_mean(x, 1),
        lambda x: torch.linalg.vector_norm(x, 3, 1),
        lambda x: torch.linalg.vector_norm(x),
        lambda x: x.norm(2, 0),
        lambda x: x.nansum(1),
        lambda x: x[0].trace(),
        lambda x: torch.dot(x[0, 0], x[1, 1]),
        lambda x: torch.nn.functional.mse_loss(x[0], x[1]),
        lambda x: torch.nn.functional.smooth_l1_loss(x[0], x[1], reduction="sum", beta=0.3),
        lambda x: torch.nn.functional.huber_loss(x[0], x[1], delta=0.3),
    ],
    ids=[
        *("var", "std", "var_mean", "norm_3", "norm", "norm_dim"),
        *("nansum", "trace", "dot", "mse_loss", "smooth_l1", "huber"),
    ],
)
def test_gradients(function: Callable[[Tensor], Tensor]) -> None:
    x = (torch.rand(3, 4, 5, dtype=torch.float64, device=DEVICE) + 0.5).mT.requires_grad_()
    with flag_gems.use_gems():
        assert torch.autograd.gradcheck(function, (x,))


def test_same_bits_twice_and_with_any_number_of_threads() -> None:
    x, y = torch.randn(3, 200_001, device=DEVICE), torch.randn(3, 200_001, device=DEVICE)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        with flag_gems.use_gems():
            results.append(
                [
                    *ATEN.var_mean.correction(x, None),
                    *ATEN.var_mean.correction(x, [0]),
                    ATEN.linalg_vector_norm(x),
                    ATEN.mse_loss(x, y),
                    ATEN.dot(x[0], y[1]),
                ]
            )
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_left_to_aten() -> None:
    x = torch.randn(4, 5, device=DEVICE)
    calls = [
        lambda: ATEN.var.correction(x.int(), [0]),
        lambda: ATEN.linalg_vector_norm(x, 2, [0], False, dtype=torch.float16),
        lambda: ATEN.dot(x[0], x[:, 0]),
        lambda: ATEN.dot(x, x),
        lambda: ATEN.trace(x[0]),
        lambda: ATEN.var.correction(x, [2]),
    ]
    for call in calls:
        ours, theirs = both(call)
        assert isinstance(theirs, type) and ours is theirs
    ours, theirs = both(lambda: ATEN.mse_loss(x, x[0], 1))
    torch.testing.assert_close(ours, theirs)


CHECKED = """
import torch, flag_gems
A = torch.ops.aten
x, y = torch.randn(70, 33), torch.randn(70, 33)
calls = {
    **{f"var_mean {d}": lambda d=d: A.var_mean.correction(x, d) for d in ([0], [1], None)},
    "var of few": lambda: A.var.correction(x[:, :5].contiguous(), [1]),
    "std bf16": lambda: A.std.correction(x.bfloat16(), [1]),
    "var shared": lambda: A.var.correction(torch.arange(20000.0) % 7, None),
    **{f"norm {p}": lambda p=p: A.linalg_vector_norm(x, p, [1]) for p in (0, 2, 2.5, float("inf"))},
    "count": lambda: A.count_nonzero(x > 0), "nansum": lambda: A.nansum(x, [0]), "trace": lambda: A.trace(x),
    "dot": lambda: A.dot(x[0], y[1]), "dot offset": lambda: A.dot(x[0, 1:], y[1, :-1]),
    "mse": lambda: A.mse_loss(x, y), "mse permuted": lambda: A.mse_loss(x.t(), y.t().contiguous(), 2),
}
expected = {name: call() for name, call in calls.items()}
with flag_gems.use_gems():
    ours = {name: call() for name, call in calls.items()}
stats = flag_gems.stats()
assert not any(s["fallback"] for s in stats.values()), stats
for name, result in ours.items():
    torch.testing.assert_close(result, expected[name], msg=lambda m: f"{name}: {m}", rtol=2e-5, atol=2e-5)
"""


@pytest.mark.skipif(DEVICE != "cpu", reason="a mode of the cpu backend")
@pytest.mark.parametrize("mode", ["checked"])
def test_threads_of_a_gpu(mode: str) -> None:
    """The kernels with all threads of their blocks: no race, no access out of bounds, the same results."""
    environment = {**os.environ, "GEMS_CPU_MODE": mode, "GEMS_CPU_ORDER": "random:3"}
    done = subprocess.run([sys.executable, "-c", CHECKED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
