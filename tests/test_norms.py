"""group_norm and batch_norm with their gradients: layouts, dtypes, statistics beside ATen and float64.

A result may be twice as far from float64 as ATen's own, or a few roundings of its dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import kernels

DEVICE = flag_gems.device
ATEN = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALVES = (torch.bfloat16, torch.float16)


def wide(t: Any) -> Any:
    return t.double() if isinstance(t, Tensor) else t


def check(function: Callable[..., list[Any]], *args: Any, terms: float = 1) -> None:
    """Ours beside ATen's: dtypes, shapes, strides; values beside ATen's in float64. terms: size of what cancels."""
    exact, theirs = function(*map(wide, args)), function(*args)
    with flag_gems.use_gems():
        ours = function(*args)
    for a, b, e in zip(ours, theirs, exact, strict=True):
        if b is None:
            assert a is None
            continue
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        if not a.numel():
            continue
        errors = [(t.double() - e).abs().max().item() for t in (a, b)]
        assert errors[0] <= 2 * errors[1] + 64 * torch.finfo(a.dtype).eps * max(terms, e.abs().max().item()), errors


def group(x: Tensor, g: Tensor, w: Tensor | None, b: Tensor | None, groups: int) -> list[Any]:
    sizes = (x.shape[0], x.shape[1], x[0, 0].numel() if x.numel() else 1, groups)
    y, mean, rstd = ATEN.native_group_norm(x, w, b, *sizes, 1e-5)
    mask = [True, w is not None, w is not None]
    return [y, mean, rstd, *ATEN.native_group_norm_backward(g, x, mean, rstd, w, *sizes, mask)]


Maybe = Tensor | None


def batch(x: Tensor, g: Tensor, w: Maybe, b: Maybe, mean: Maybe, var: Maybe, training: bool) -> list[Any]:
    mean, var = (t.clone() if t is not None else None for t in (mean, var))
    y, m, r = ATEN.native_batch_norm(x, w, b, mean, var, training, 0.1, 1e-5)
    back = ATEN.native_batch_norm_backward(g, x, w, mean, var, m, r, training, 1e-5, [True] * 3)
    return [y, m, r, mean, var, *back]


def draw(shape: tuple[int, ...], dtype: torch.dtype, shift: float = 0) -> Tensor:
    return (torch.randn(shape, device=DEVICE) + shift).to(dtype)


def weights(dtype: torch.dtype, mixed: bool) -> torch.dtype:
    return torch.float32 if mixed and dtype in HALVES and DEVICE == "cpu" else dtype


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 70),
    st.sampled_from(FLOATS), st.booleans(), st.integers(0, 2),
)  # fmt: skip
def test_group_norm(samples: int, groups: int, each: int, plane: int, dtype: Any, mixed: bool, affine: int) -> None:
    shape, other = (samples, groups * each, plane), weights(dtype, mixed)
    w, b = (draw(shape[1:2], other) if affine > k else None for k in (0, 1))
    # Of one element the deviation is 0, and its gradient the rest of terms of 1 / sqrt(eps).
    check(group, draw(shape, dtype, 3), draw(shape, dtype), w, b, groups, terms=1e5**0.5 if each * plane == 1 else 1)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 6), st.integers(1, 70), st.sampled_from([(), (1,), (7,), (3, 5), (16, 9), (2, 3, 4)]),
    st.sampled_from(FLOATS), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["plain", "last", "stepped"]),
)  # fmt: skip
def test_batch_norm(
    n: int, c: int, inner: Any, dtype: Any, mixed: bool, training: bool, stats: bool, layout: str
) -> None:
    shape, other = (n, c, *inner), weights(dtype, mixed)
    x, g = draw(shape, dtype, 3), draw(shape, dtype)
    if layout == "last" and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    if layout == "stepped" and DEVICE == "cpu":
        x = torch.stack([x, x], -1)[..., 0]
    w, b, mean, var = (draw((c,), other) for _ in range(4))
    given_stats = (mean, var.abs() + 0.5) if stats or not training else (None, None)
    check(batch, x, g, w, b, *given_stats, training)


@pytest.mark.parametrize("shape", [(2, 8, 128, 130), (1, 2, 200, 301), (3000, 40), (600, 70, 3)], ids=str)
def test_many_elements_of_a_channel(shape: tuple[int, ...]) -> None:
    w, b, mean = (draw(shape[1:2], torch.float32) for _ in range(3))
    x, g = draw(shape, torch.float32, 3), draw(shape, torch.float32)
    check(batch, x, g, w, b, mean, mean.abs() + 1, True)
    check(group, x, g, w, b, 2)


def test_statistics_of_data_with_a_large_mean() -> None:
    digits = 1e-4 if DEVICE == "cpu" else 1e-5
    for shape in ((4, 3, 5000), (2000, 5), (2, 3, 200, 200)):
        x = draw(shape, torch.float32, 1e4)
        dims = [d for d in range(len(shape)) if d != 1]
        _, mean, invstd = ops.native_batch_norm(x, None, None, None, None, True, 0.1, 0.0)
        exact = x.double().var(dims, correction=0).rsqrt()
        torch.testing.assert_close(invstd.double(), exact, rtol=digits, atol=0)
        torch.testing.assert_close(mean.double(), x.double().mean(dims), rtol=2e-7, atol=0)
    x = draw((2, 4, 3000), torch.float32, 1e4)
    rstd = ops.native_group_norm(x, None, None, 2, 4, 3000, 2, 0.0)[2]
    exact = x.double().view(2, 2, -1).var(-1, correction=0).rsqrt()
    torch.testing.assert_close(rstd.double(), exact, rtol=digits, atol=0)


def test_nan_stays_in_its_channel_or_group() -> None:
    x = draw((2, 4, 6), torch.float32)
    x[0, 1, 2] = float("nan")
    y = ops.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0]
    assert y[:, 1].isnan().all()
    assert not y[:, [0, 2, 3]].isnan().any()
    y = ops.native_group_norm(x, None, None, 2, 4, 6, 2, 1e-5)[0]
    assert y[0, :2].isnan().all()
    assert not y[0, 2:].isnan().any()
    assert not y[1].isnan().any()


def test_running_statistics_are_moved_once_and_in_place() -> None:
    x, mean, var = draw((5, 3, 4), torch.float32), torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    with kernels("native_batch_norm"):
        F.batch_norm(x, mean, var, training=True, momentum=0.25)
    torch.testing.assert_close(mean, 0.25 * x.mean((0, 2)))
    torch.testing.assert_close(var, 0.75 + 0.25 * x.var((0, 2)))
    before = mean.clone(), var.clone()
    F.batch_norm(x, mean, var, training=False)
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


def test_empty_samples() -> None:
    x, w = torch.empty(0, 6, 4, device=DEVICE), torch.ones(6, device=DEVICE)
    with flag_gems.use_gems():
        y, mean, _ = ATEN.native_group_norm(x, w, w, 0, 6, 4, 3, 1e-5)
        assert y.shape == x.shape
        assert mean.shape == (0, 3)
        if DEVICE == "cpu":  # ATen raises on a GPU
            assert ATEN.native_batch_norm(x, w, w, w, w, False, 0.1, 1e-5)[0].shape == x.shape


def test_same_bits_with_any_number_of_threads() -> None:
    x, w = draw((8, 70, 40, 41), torch.float32), draw((70,), torch.float32)
    threads, first = torch.get_num_threads(), None
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        with flag_gems.use_gems():
            result = [*batch(x, x, w, w, None, None, True), *group(x, x, w, w, 7)]
        result = [t for t in result if t is not None]
        first = first or result
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
    torch.set_num_threads(threads)


def test_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    w, b = (torch.randn(4, dtype=torch.float64, device=DEVICE, requires_grad=True) for _ in range(2))
    mean, var = torch.zeros(4, dtype=torch.float64, device=DEVICE), torch.ones(4, dtype=torch.float64, device=DEVICE)
    with flag_gems.use_gems():
        assert torch.autograd.gradcheck(lambda x, w, b: F.group_norm(x, 2, w, b), (x, w, b))
        assert torch.autograd.gradcheck(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (x, w, b))
        assert torch.autograd.gradcheck(lambda x, w, b: F.batch_norm(x, mean, var, w, b, False), (x, w, b))
        assert torch.autograd.gradcheck(lambda x, w, b: F.instance_norm(x, None, None, w, b), (x, w, b))
