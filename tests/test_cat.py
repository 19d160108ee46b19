"""cat and stack beside ATen: dims, empty and legacy inputs, promotion, layouts, memory formats, many inputs, out=."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

import compare
from layouts import LAYOUTS, crossed

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ALL = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)


def check(call: Callable[[], Any], name: str = "cat", kernel: bool = True) -> None:
    compare.check(name, call, kernel)


def sample(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    numbers = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed))
    return (numbers % 2 == 0 if dtype == torch.bool else numbers).to(dtype).to(DEVICE)


@pytest.mark.parametrize(("dtype", "dim"), crossed([*ALL, torch.complex64, torch.complex128], [1, 0, 2, -1, -3]))
def test_dims(dtype: torch.dtype, dim: int) -> None:
    parts = []
    for i, size in enumerate((3, 1, 8, 5)):
        shape = [4, 6, 8]
        shape[dim] = size
        parts.append(sample(dtype, *shape, seed=i))
    check(lambda: torch.cat(parts, dim))
    check(lambda: torch.cat(parts[:1], dim))
    check(lambda: torch.stack([parts[0], parts[0] + parts[0]], dim), "stack")


WIDTHS = [(8, 24, 32), (16, 16), (7, 9), (1, 1, 1), (0, 5, 0), (4096, 1, 33)]


@pytest.mark.parametrize(
    ("dtype", "widths"), crossed([torch.bfloat16, torch.uint8, torch.float32, torch.float64], WIDTHS)
)
def test_widths(dtype: torch.dtype, widths: tuple[int, ...]) -> None:
    parts = [sample(dtype, 5, width, seed=i) for i, width in enumerate(widths)]
    check(lambda: torch.cat(parts, 1))
    check(lambda: torch.cat([p.flatten() for p in parts]))
    check(lambda: torch.cat([p.flatten()[1:] for p in parts]))


@pytest.mark.parametrize("count", [1, 2, 199, 300, 335, 336, 337, 700])
def test_many_inputs(count: int) -> None:
    parts = [sample(torch.float32, 3, 1 + i % 4, seed=i) for i in range(count)]
    check(lambda: torch.cat(parts, 1))
    check(lambda: torch.stack([p[:, 0] for p in parts], 1), "stack")


def test_legacy_empty() -> None:
    """Tensors of shape [0] are skipped beside any rank."""
    x, nothing = sample(torch.float32, 2, 3, 4), torch.zeros(0, device=DEVICE)
    check(lambda: torch.cat([nothing, x, nothing, x], 1))
    check(lambda: torch.cat([nothing, x], -1))
    check(lambda: torch.cat([x[:0], x], 0))
    check(lambda: torch.cat([nothing.double(), x], 0))
    check(lambda: torch.cat([nothing, nothing]), kernel=False)


@pytest.mark.parametrize(("first", "second"), crossed(ALL[1:] + ALL[:1], ALL[1:] + ALL[:1]))
def test_promotion(first: torch.dtype, second: torch.dtype) -> None:
    parts = [sample(first, 3, 5), sample(second, 3, 9, seed=1), sample(first, 3, 2, seed=2)]
    check(lambda: torch.cat(parts, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_layouts(layout: str, dim: int) -> None:
    x, y = sample(torch.float32, 2, 6, 5, 8), sample(torch.float32, 2, 6, 5, 8, seed=1)
    changed = LAYOUTS[layout](x)
    check(lambda: torch.cat([changed, y, changed], dim))
    check(lambda: torch.cat([changed, LAYOUTS[layout](y)], dim))
    if layout != "channels_last":
        check(lambda: torch.stack([changed, y], dim), "stack")


def test_channels_last() -> None:
    parts = [sample(torch.float32, 2, c, 5, 4).contiguous(memory_format=torch.channels_last) for c in (3, 1, 8)]
    for dim in (0, 1, 2, 3):
        same = [parts[2], parts[2] * 2]
        check(lambda d=dim, s=same: torch.cat(s, d))
    check(lambda: torch.cat(parts, 1))
    check(lambda: torch.stack([parts[2], parts[2]], 1), "stack", kernel=False)


def test_errors_are_atens() -> None:
    x = sample(torch.float32, 2, 3)
    for bad in ([x, x[:, :2]], [x, x[0]], [x[0, 0], x[0, 0]]):
        check(lambda b=bad: torch.cat(b, 0), kernel=False)
    check(lambda: torch.cat([x, x], 2), kernel=False)
    check(lambda: torch.stack([x, x[:1]]), "stack", kernel=False)


def test_out() -> None:
    x = sample(torch.float32, 2, 3)
    check(lambda: torch.cat([x, x], out=torch.empty(0, device=DEVICE)), "cat.out")
    check(lambda: torch.cat([x, x], 1, out=torch.empty(2, 6, device=DEVICE)), "cat.out")
    check(lambda: torch.stack([x, x], out=torch.empty(0, device=DEVICE)), "stack.out")

    def into_itself() -> Tensor:
        base = torch.arange(12.0, device=DEVICE).view(4, 3)
        return torch.cat([base[:2], base[2:]], out=base)

    check(into_itself, "cat.out", kernel=False)


def test_gradients() -> None:
    def step() -> Any:
        x, y = sample(torch.float32, 3, 4).requires_grad_(), sample(torch.float32, 3, 2).requires_grad_()
        z = torch.cat([x, y, x], 1)
        (z * torch.arange(30, device=DEVICE).view(3, 10)).sum().backward()
        return x.grad, y.grad

    expected = step()
    with flag_gems.use_gems():
        compare.assert_same(step(), expected)
