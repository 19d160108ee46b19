"""Elementwise rows beside ATen at the edges: NaN, infinities, -0.0, limits of integers, division by zero, bounds."""

from __future__ import annotations

import math
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import _C
from torch import Tensor

import entry_args
from compare import FLOATS, assert_same, kernels, outcome
from random_elementwise import SAME_SHAPE

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
INF, NAN = math.inf, math.nan
EDGES = [0.0, -0.0, INF, -INF, NAN, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 3, -3, 6, -6, 1e-5, -1e-5, 20.5, -20.5, 100, -100]
EDGES += [1e30, -1e30, 2.0, 0.25, 0.75, 1e-30, 7, 10, -10, 88.5, -104, 0.1]
QUICK = {"round", "nan_to_num", "sign", "fmax", "xlogy_tensor", "logaddexp", "elu", "atan2", "lcm"}
# ATen's own loops disagree there: of -0.0 and NaN its vectors give another value than its scalars.
UNSURE = {"logit_backward", "hardswish_backward"}
# Here its own formula overflows, cancels, or is multiplied and added in one rounding where its compiler chose to.
UNSURE |= {"soft_margin_loss_backward", "gelu_backward", "binary_cross_entropy_backward", "addcmul"}
OWN = {"glu", "glu_backward", "addr", "log_sigmoid_backward"}  # want arguments that fit each other


def edges(dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point:
        return torch.tensor(EDGES).to(dtype).to(DEVICE)
    if dtype == torch.bool:
        return torch.tensor([True, False], device=DEVICE)
    info = torch.iinfo(dtype)
    values = [0, 1, 2, 3, 5, 7, 8, 12, 31, 63, 64, 100, info.max, info.max - 1]
    values += [-1, -2, -3, -8, -12, -100, info.min, info.min + 1] if info.min < 0 else []
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def arguments(name: str, dtype: torch.dtype) -> tuple[Any, list[Any], dict[str, Any]]:
    """Every edge value of one tensor with every one of the others."""
    function, args, keywords = entry_args.arguments(name, dtype, DEVICE)
    places = [i for i, value in enumerate(args) if isinstance(value, Tensor) and value.ndim]
    values = edges(dtype)
    values = values if len(places) < 3 else values[:24]
    if name in ("gcd", "lcm") and not dtype.is_floating_point and dtype != torch.bool:
        values = values[values != torch.iinfo(dtype).min]  # ATen's own divides it by -1, which ends the process
    for k, place in enumerate(places):
        shape = [1] * len(places)
        shape[k] = -1
        mask = args[place].dtype == torch.bool and dtype != torch.bool
        args[place] = values.view(shape) > 0 if mask else values.view(shape)
    if name.lstrip("_").startswith(SAME_SHAPE) or name.startswith(SAME_SHAPE):
        whole = torch.broadcast_tensors(*[args[place] for place in places])
        for place, value in zip(places, whole, strict=True):
            args[place] = value.contiguous()
    return function, args, keywords


def cases() -> list[Any]:
    found = []
    for row in _C.rows():
        if row["family"] != "elementwise" or row["id"] in OWN | UNSURE:
            continue
        for dtype in (*FLOATS, torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool):
            quick = row["id"] in QUICK and dtype in (torch.float32, torch.int32)
            marks = [] if quick else [pytest.mark.slow]
            name = row["entries"][0]["name"]
            found.append(pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}", marks=marks))
    return found


def take_single(aten: Tensor, ours: Tensor, function: Any, args: list[Any], keywords: dict[str, Any]) -> None:
    """Puts our elements into ATen's result where ATen itself gives them to a tensor of one element, in this dtype or in
    float64: its vectors and its scalars do not treat all infinities and NaN alike."""
    places = [i for i, value in enumerate(args) if isinstance(value, Tensor) and value.ndim]
    spread = torch.broadcast_tensors(*(args[i] for i in places))
    for at in map(tuple, (~torch.isclose(ours, aten, equal_nan=True)).nonzero().tolist()):
        one = list(args)
        for place, value in zip(places, spread, strict=True):
            one[place] = value[at].reshape(1).clone()
        wide = [value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for value in one]
        for given in (one, wide):
            single = function(*given, **keywords)[0].to(ours.dtype)
            if torch.isclose(ours[at], single, equal_nan=True):
                aten[at] = ours[at]


@pytest.mark.parametrize(("name", "dtype"), cases())
def test_edges(name: str, dtype: torch.dtype) -> None:
    function, args, keywords = arguments(name, dtype)
    aten = outcome(lambda: function(*args, **keywords))
    with flag_gems.use_gems():
        ours = outcome(lambda: function(*args, **keywords))
    if isinstance(ours, Tensor) and isinstance(aten, Tensor) and ours.shape == aten.shape and dtype in FLOATS:
        take_single(aten, ours, function, args, keywords)
    assert_same(ours, aten, None, name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU gives any number for a division by zero")
def test_integers_divided_by_a_tensor(dtype: torch.dtype) -> None:
    """In our kernels where no divisor is 0, wherever it lies; ATen's error where one is."""
    a = torch.arange(-30, 30).view(3, 4, 5).to(dtype)
    spread = torch.ones(3, 8, 10, dtype=dtype)[:, ::2, ::2]
    functions = {
        "floor_divide": torch.floor_divide,
        "remainder.Tensor": torch.remainder,
        "fmod.Tensor": torch.fmod,
        "div.Tensor_mode": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    }
    for divisor in (
        spread.fill_(7),
        spread.transpose(0, 2).contiguous().transpose(0, 2),
        spread[:, :1, :].expand(3, 4, 5),
    ):
        for name, function in functions.items():
            expected = function(a, divisor)
            with kernels(name):
                assert torch.equal(function(a, divisor), expected)
    for place in ((0, 0, 0), (2, 3, 4), (1, 2, 3)):
        divisor = spread.clone()
        divisor[place] = 0
        for function in functions.values():
            with flag_gems.use_gems(), pytest.raises(RuntimeError, match="ZeroDivisionError"):
                function(a, divisor)
