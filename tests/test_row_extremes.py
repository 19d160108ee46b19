"""logsumexp and aminmax: what is not a number, lengths, dtypes, forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

from compare import kernels

DEVICE = flag_gems.device


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).to(DEVICE)


def check(name: str, call: Callable[[], Any], **tolerance: float) -> None:
    expected = call()
    with kernels(name):
        ours = call()
    torch.testing.assert_close(ours, expected, equal_nan=True, **tolerance)


@pytest.mark.parametrize("shape", [(5, 7), (3, 130, 6), (2, 1000), (40000,), (1, 70000), (70000, 2)])
def test_lengths_and_dims(shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    for dim in range(len(shape)):
        check("logsumexp", lambda d=dim: torch.logsumexp(x, d))
        check("aminmax", lambda d=dim: torch.aminmax(x, dim=d, keepdim=True))
    check("logsumexp", lambda: torch.logsumexp(x, tuple(range(len(shape))), keepdim=True))
    check("aminmax", lambda: torch.aminmax(x))
    check("aminmax", lambda: torch.aminmax(x.t() if x.ndim == 2 else x))


def test_every_length() -> None:
    for n in [*range(1, 70), 127, 128, 129, 255, 257, 513]:
        x = draw(3, n)
        check("logsumexp", lambda x=x: torch.logsumexp(x, 1))
        check("aminmax", lambda x=x: torch.aminmax(x, dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.uint8])
def test_dtypes(dtype: torch.dtype) -> None:
    x = draw(6, 9, dtype=dtype)
    check("logsumexp", lambda: torch.logsumexp(x, 1))
    check("aminmax", lambda: torch.aminmax(x, dim=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_round_once(dtype: torch.dtype) -> None:
    x, eps = draw(6, 90, dtype=dtype), torch.finfo(dtype).eps
    with kernels("logsumexp"):
        ours = torch.logsumexp(x, 1)
    torch.testing.assert_close(ours.double(), torch.logsumexp(x.double(), 1), rtol=eps, atol=0)
    check("aminmax", lambda: torch.aminmax(x, dim=1))


def test_not_finite() -> None:
    inf, x = float("inf"), draw(6, 9)
    x[0, 1], x[1], x[2, 3], x[3, 0], x[4, :2] = inf, -inf, float("nan"), -inf, inf
    x[5, 0], x[5, 1] = inf, -inf
    for dim in (0, 1):
        check("logsumexp", lambda d=dim: torch.logsumexp(x, d))
        check("aminmax", lambda d=dim: torch.aminmax(x, dim=d))


def test_large_numbers() -> None:
    x = draw(4, 50) + 1e4
    check("logsumexp", lambda: torch.logsumexp(x, 1))
    check("logsumexp", lambda: torch.logsumexp(-x, 0))


def test_nothing_and_numbers() -> None:
    check("logsumexp", lambda: torch.logsumexp(draw(3, 0), 1))
    check("logsumexp", lambda: torch.logsumexp(draw(0, 3), 1))
    number = draw(1)[0]
    check("logsumexp", lambda: torch.logsumexp(number, 0))
    check("aminmax", lambda: torch.aminmax(number))
    with flag_gems.use_gems(), pytest.raises((RuntimeError, IndexError)):
        torch.aminmax(draw(3, 0), dim=1)


def test_out() -> None:
    x = draw(3, 4)
    check("logsumexp.out", lambda: torch.logsumexp(x, 1, out=torch.empty(0, device=DEVICE)))
    check("logsumexp.out", lambda: torch.logsumexp(x, 1, out=torch.empty(6, device=DEVICE)[::2]))
    outs = lambda: (torch.empty(0, device=DEVICE), torch.empty(0, device=DEVICE))  # noqa: E731
    check("aminmax.out", lambda: torch.aminmax(x, dim=0, out=outs()))


def test_gradients() -> None:
    x = draw(3, 4, dtype=torch.float64).requires_grad_()
    with kernels("logsumexp", "aminmax"):
        assert torch.autograd.gradcheck(lambda x: torch.logsumexp(x, 1), x)
        assert torch.autograd.gradgradcheck(lambda x: torch.logsumexp(x, 1), x)
        smallest = torch.aminmax(x, dim=1)[0]
        if "NotImplemented" not in smallest.grad_fn.name():  # which older versions of torch have
            assert torch.autograd.gradcheck(lambda x: torch.aminmax(x, dim=1), x)
    assert torch.autograd.gradcheck(lambda x: flag_gems.logsumexp(x, 0), x)
