"""Functions whose programs take short ways: dense values against float64, and what the short ways must not lose."""

from __future__ import annotations

import math
from collections.abc import Callable

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from test_accuracy import accuracy

aten = torch.ops.aten
DEVICE = flag_gems.device


def softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def mish(x: Tensor) -> Tensor:
    u = torch.exp(x.clamp(max=20))
    return x * (u * (u + 2) / (u * (u + 2) + 2))


# name: what is called, what is true, the range, units of the last place that it may be off
DENSE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float, float, float]] = {
    "gelu": (F.gelu, accuracy.gelu, -15, 15, 2),
    "gelu's middle": (F.gelu, accuracy.gelu, -4, -1, 2),
    "erfc": (torch.erfc, torch.erfc, -5, 10.2, 2.8),
    "softplus": (F.softplus, softplus, -80, 19, 3),
    "mish": (F.mish, mish, -80, 30, 4),
    "log_sigmoid": (lambda x: aten.log_sigmoid_forward(x)[0], lambda x: -softplus(-x), -50, 80, 3),
    "pow": (lambda x: torch.pow(x, 2.7), lambda x: torch.pow(x, 2.700000047683716), 0, 1e9, 2),
    "pow of a number": (lambda x: torch.pow(1.7, x), lambda x: torch.pow(1.7000000476837158, x), -150, 150, 2),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_values(name: str) -> None:
    call, exact, low, high, limit = DENSE[name]
    x = torch.linspace(low, high, 1_000_003, dtype=torch.float32)
    with flag_gems.use_gems():
        result = call(x.to(DEVICE)).cpu()
    errors = accuracy.errors_in_ulp(result, exact(x.double()))
    at = int(errors.argmax())
    assert errors[at] <= limit, f"{errors[at]} ulp at {x[at]}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_infinities_and_nans(dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([inf, -inf, nan] * 20, dtype=dtype, device=DEVICE)
    ones = torch.ones_like(x)
    expected = {
        "gelu": [inf, nan, nan],
        "gelu_backward": [nan, nan, nan],
        "erfc": [0, 2, nan],
        "softplus": [inf, 0, nan],
        "mish": [inf, nan, nan],
        "log_sigmoid": [0, -inf, nan],
        "log_sigmoid_backward": [0, 1, nan],
        "pow": [inf, inf, nan],
    }
    with flag_gems.use_gems():
        results = {
            "gelu": F.gelu(x),
            "gelu_backward": aten.gelu_backward(ones, x),
            "erfc": torch.erfc(x),
            "softplus": F.softplus(x),
            "mish": F.mish(x),
            "log_sigmoid": aten.log_sigmoid_forward(x)[0],
            "log_sigmoid_backward": aten.log_sigmoid_backward(ones, x, aten.log_sigmoid_forward(x)[1]),
            "pow": torch.pow(x, 4.5),
        }
    for name, result in results.items():
        wanted = torch.tensor(expected[name] * 20, dtype=dtype, device=DEVICE)
        found = torch.where(result.abs() < 1e-30, 0, result)
        assert torch.equal(found.nan_to_num(7, 8, 9), wanted.nan_to_num(7, 8, 9)), f"{name}: {found[:3]}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_zeros_keep_their_sign(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, -20.0] * 20, dtype=dtype, device=DEVICE)
    with flag_gems.use_gems():
        result = F.gelu(x)
    assert (result.abs() < 1e-30).all()
    assert torch.signbit(result).tolist() == [False, True, True] * 20


def test_powers_of_special_numbers() -> None:
    numbers = [0.0, 1.0, 2.0, 0.5, 3.0, 2.5, math.inf, 1e-40, 1.4e-45, 3e38, 16777217.0, 33554432.0, 127.0, 150.0]
    one = torch.tensor([*numbers, *(-v for v in numbers), math.nan], device=DEVICE)
    x, y = (v.flatten() for v in torch.meshgrid(one, one, indexing="ij"))
    with flag_gems.use_gems():
        result = torch.pow(x, y)
    expected = torch.pow(x.double(), y.double()).float()
    torch.testing.assert_close(result, expected, rtol=3e-7, atol=5e-45, equal_nan=True)
    number = ~expected.isnan()
    assert torch.equal(torch.signbit(result)[number], torch.signbit(expected)[number])
