"""embedding, index_select, gather, scatter_add and nll_loss beside ATen: index errors, padding, gradients."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from typing import Any

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare import assert_same, check, counts
from layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
aten = torch.ops.aten


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache  # drawn by ATen, before a scope is entered
def sample(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype).to(DEVICE)
    return torch.randint(0, 100, shape, generator=generator(seed)).to(dtype).to(DEVICE)


@functools.cache
def index(high: int, *shape: int, dtype: torch.dtype = torch.int64, seed: int = 1) -> Tensor:
    return torch.randint(0, high, shape, generator=generator(seed)).to(dtype).to(DEVICE)


# ---- embedding


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [1, 3, 8, 31, 64, 200])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_embedding(kind: torch.dtype, width: int, dtype: torch.dtype) -> None:
    weight = sample(dtype, 50, width)
    for shape in ((), (7,), (3, 5), (2, 0), (2, 3, 4)):
        check("embedding", lambda s=shape: F.embedding(index(50, *s, dtype=kind), weight))
    spread = index(50, 6, 8, dtype=kind)
    check("embedding", lambda: F.embedding(spread[:, ::2], weight))
    check("embedding", lambda: F.embedding(spread.t(), weight[:, 1:] if width > 1 else weight))
    check("embedding", lambda: F.embedding(spread, sample(dtype, width, 50).t()))


@pytest.mark.parametrize("bad", [-1, 50, 1 << 40])
def test_index_errors(bad: int) -> None:
    """An index out of range is ATen's IndexError, whichever element it is, and nothing else is touched."""
    if DEVICE != "cpu":
        return  # there it is a device-side assertion, after which the process has no device
    weight, where = sample(torch.float32, 50, 8), index(50, 40).clone()
    where[33] = bad
    check("embedding", lambda: F.embedding(where, weight), kernel=False)
    check("index_select", lambda: weight.index_select(0, where), kernel=False)
    check("gather", lambda: weight.t().gather(1, where.expand(8, 40)), kernel=False)
    logits = sample(torch.float32, 40, 50).log_softmax(1)
    check("nll_loss_forward", lambda: F.nll_loss(logits, where), kernel=False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (10, 4, 3), (700, 50, 16), (5000, 300, 8), (64, 5000, 5)])
@pytest.mark.parametrize(("padding", "by_count"), [(-1, False), (2, False), (0, True)])
def test_embedding_backward(padding: int, by_count: bool, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    count, rows, width = sizes
    where, grad = index(rows, count), sample(dtype, count, width)

    def call(of: torch.dtype = dtype) -> Tensor:
        return aten.embedding_dense_backward(grad.to(of), where, rows, padding, by_count)

    expected = call(torch.float64)
    with flag_gems.use_gems(include=["embedding_dense_backward"]):
        before = counts("embedding_dense_backward")["kernel"]
        ours, again = call(), call()
        assert counts("embedding_dense_backward")["kernel"] == before + 2
    assert ours.equal(again)
    # One rounding of an exact sum, and fp32 sums of at most `count` terms.
    slack = torch.finfo(torch.float32 if dtype != torch.float64 else dtype).eps * count**0.5 * 4
    torch.testing.assert_close(ours.double(), expected, rtol=torch.finfo(dtype).eps, atol=slack)


def test_embedding_backward_layouts() -> None:
    where, grad = index(9, 4, 6), sample(torch.float32, 4, 6, 10)
    turned = grad.transpose(0, 1).contiguous().transpose(0, 1)
    for view in (grad, turned, grad[:1, :1].expand(4, 6, 10), grad[..., ::2]):
        check("embedding_dense_backward", lambda v=view: aten.embedding_dense_backward(v, where, 9, -1, False))
        check("embedding_dense_backward", lambda v=view: aten.embedding_dense_backward(v, where.int(), 9, 3, True))
    other = index(9, 6, 4).t()
    check("embedding_dense_backward", lambda: aten.embedding_dense_backward(grad, other, 9, -1, False))
    nothing = index(9, 0)
    check("embedding_dense_backward", lambda: aten.embedding_dense_backward(grad[0, :0], nothing, 9, -1, False))


def test_embedding_gradient() -> None:
    where = index(20, 5, 7)

    def step() -> Any:
        weight = sample(torch.float32, 20, 6).clone().requires_grad_()
        (F.embedding(where, weight, padding_idx=3) ** 2).sum().backward()
        return weight.grad

    expected = step()
    with flag_gems.use_gems():
        assert_same(step(), expected)


# ---- index_select, gather


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float32, torch.complex128])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_index_select(dim: int, dtype: torch.dtype) -> None:
    base = sample(torch.float32, 5, 16, 9).to(dtype)
    for layout in LAYOUTS.values():
        x = layout(base)
        if x is None:
            continue
        for where in (index(5, 7), index(5, 3, dtype=torch.int32), index(5, 8)[::2], index(5, 0), index(5)):
            check("index_select", lambda t=x, w=where: t.index_select(dim, w))
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    check("index_select.out", lambda: torch.index_select(base, dim, index(5, 4), out=out.resize_(0)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gather(dim: int, dtype: torch.dtype) -> None:
    base = sample(torch.float32, 6, 8, 10).to(dtype)
    for layout in LAYOUTS.values():
        x = layout(base)
        if x is None:
            continue
        for shape in ((6, 8, 10), (3, 2, 10), (1, 8, 1), (6, 0, 2)):
            where = index(6, *shape)
            check("gather", lambda t=x, w=where: t.gather(dim, w))
        check("gather", lambda t=x: t.gather(dim, index(6, 6, 8, 1).expand(6, 8, 10)))
        check("gather", lambda t=x: t.gather(dim, index(6, 10, 8, 6).permute(2, 1, 0)))
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    check("gather.out", lambda: torch.gather(base, dim, index(6, 2, 2, 2), out=out.resize_(0)))
    check("gather", lambda: base[0, 0, 0].gather(0, index(1)))
    check("gather", lambda: base.gather(dim, index(6, 7, 9, 11)), kernel=False)


def test_gather_gradient() -> None:
    where = index(9, 4, 5)

    def step() -> Any:
        x = sample(torch.float64, 4, 9).clone().requires_grad_()
        y = sample(torch.float64, 9, 6).clone().requires_grad_()
        (x.gather(1, where) ** 2).sum().backward()
        (y.index_select(0, where[0]) ** 2).sum().backward()
        return x.grad, y.grad

    expected = step()
    with flag_gems.use_gems():
        assert_same(step(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.uint8])
def test_scatter_add(dtype: torch.dtype) -> None:
    base, src = sample(dtype, 6, 8), sample(dtype, 7, 9, seed=3)
    for dim, shape in itertools.product((0, 1), ((5, 7), (6, 8), (1, 8), (0, 3))):
        where = index(6, *shape)
        exact = lambda d=dim, w=where: base.double().scatter_add(d, w, src.double())  # noqa: E731
        check("scatter_add", lambda d=dim, w=where: base.scatter_add(d, w, src), True, exact)
        check("scatter_add_", lambda d=dim, w=where: base.clone().scatter_add_(d, w, src), True, exact)
        check("scatter_add", lambda d=dim, w=where: base.scatter_add(d, w, src.t().contiguous().t()), True, exact)
    check("scatter_add_", lambda: base.clone().t().scatter_add_(0, index(6, 5, 5), src.t()))


def test_scatter_add_along_long_lines() -> None:
    """Left to ATen on a GPU, where it is faster."""
    for length in (32, 33, 500):
        where, src = index(6, length, 5), sample(torch.float32, length, 5)
        here = DEVICE == "cpu" or length <= 32
        exact = lambda w=where, s=src: torch.zeros(6, 5, device=DEVICE).double().scatter_add(0, w, s.double())  # noqa: E731
        check("scatter_add", lambda w=where, s=src: torch.zeros(6, 5, device=DEVICE).scatter_add(0, w, s), here, exact)


def test_scatter_add_out_of_range() -> None:
    """Self is untouched when an index is bad."""
    if DEVICE != "cpu":
        return
    base, where = torch.zeros(6, 8), index(6, 6, 8).clone()
    where[5, 7] = 6
    check("scatter_add_", lambda: base.clone().scatter_add_(0, where, torch.ones(6, 8)), kernel=False)


# ---- nll_loss


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(7,), (1, 3), (40, 11), (3000, 5), (2, 5, 3, 4), (0, 5)])
def test_nll_loss(shape: tuple[int, ...], weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    classes = shape[1] if len(shape) > 1 else shape[0]
    weight = sample(dtype, classes, seed=5).abs() if weighted else None
    target = index(classes, *shape[:1], *shape[2:]) if len(shape) > 1 else index(classes)
    name = "nll_loss2d" if len(shape) == 4 else "nll_loss"
    base = sample(dtype, *shape)

    def call(of: torch.dtype = dtype) -> Any:
        x = base.to(of).clone().requires_grad_()
        w = None if weight is None else weight.to(of)
        loss = F.nll_loss(x, target, w, ignore_index=2, reduction=reduction)
        grad = torch.linspace(1, 2, loss.numel(), dtype=of, device=DEVICE).view(loss.shape)
        loss.backward(grad)
        return loss, x.grad

    expected, exact = call(), call(torch.float64)
    with flag_gems.use_gems(include=[f"{name}_forward", f"{name}_backward"]):
        before = counts(f"{name}_forward")["kernel"], counts(f"{name}_backward")["kernel"]
        ours = call()
    assert counts(f"{name}_forward")["kernel"] == before[0] + 1
    assert counts(f"{name}_backward")["kernel"] == before[1] + 1
    for mine, theirs, right in zip(ours, expected, exact, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape and mine.stride() == theirs.stride()
        scale = right.detach().abs().nan_to_num().max().item() if right.numel() else 1.0
        tolerance = torch.finfo(dtype).eps * 4 * max(scale, 1.0)
        torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_nll_loss_all_ignored() -> None:
    x, target = sample(torch.float32, 6, 5).log_softmax(1), torch.full((6,), -100, device=DEVICE)
    for reduction in ("none", "mean", "sum"):
        check("nll_loss_forward", lambda r=reduction: F.nll_loss(x, target, reduction=r))


def test_nll_loss_total_weight() -> None:
    x, target = sample(torch.float32, 6, 5), index(5, 6)
    weight = sample(torch.float32, 5).abs()
    for reduction in (0, 1, 2):
        for w in (None, weight):
            check("nll_loss_forward", lambda r=reduction, v=w: aten.nll_loss_forward(x, target, v, r, 1))
    check("nll_loss_forward", lambda: aten.nll_loss_forward(x.t().contiguous().t(), target, weight, 1, -100))
    check("nll_loss_forward", lambda: aten.nll_loss_forward(x, target[:5], None, 1, -100), kernel=False)


def test_same_bits_twice() -> None:
    x, target, where = sample(torch.float32, 4000, 7), index(7, 4000), index(30, 4000)
    few = where[:32, None].expand(32, 7)  # longer lines are ATen's on a GPU, with atomics
    with flag_gems.use_gems():
        for call in (
            lambda: F.nll_loss(x, target),
            lambda: aten.embedding_dense_backward(x, where, 30, -1, False),
            lambda: torch.zeros(30, 7, device=DEVICE).scatter_add(0, few, x),
        ):
            assert call().equal(call())


MODES = """
import torch, flag_gems
F = torch.nn.functional
index, grad = torch.randint(0, 40, (2500,)), torch.randn(2500, 5)
weight, target, logits = torch.randn(40, 9), torch.randint(0, 7, (1300,)), torch.randn(1300, 7)
calls = (
    lambda: torch.ops.aten.embedding_dense_backward(grad, index, 40, 3, True),
    lambda: F.embedding(index, weight),
    lambda: F.nll_loss(logits, target),
    lambda: weight.gather(1, index[:360].view(40, 9) % 9),
    lambda: torch.zeros(40, 5).scatter_add(0, index[:90, None].expand(90, 5), grad),
    lambda: torch.cat([weight, weight[:, :2].contiguous(), weight.bfloat16()], 1),
    lambda: weight.t().contiguous(),
    lambda: weight[:, 1:].clone(),
)
expected = [call() for call in calls]
names = ["embedding", "embedding_dense_backward", "nll_loss_forward", "gather", "scatter_add", "cat", "clone"]
with flag_gems.use_gems(include=names):
    ours = [call() for call in calls]
for a, b in zip(ours, expected):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
ran = flag_gems.stats()
assert all(ran[name]["kernel"] and not ran[name]["fallback"] for name in names), ran
"""


@pytest.mark.parametrize("mode", ["faithful", "checked"])
def test_modes(mode: str) -> None:
    """What a GPU runs and the fast cpu backend does not: the radix sort, tiles, sums of several blocks; no race."""
    environment = os.environ | {"GEMS_CPU_MODE": mode, "GEMS_VENDOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", MODES], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
