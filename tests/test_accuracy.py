"""The accuracy benchmark's core, and what it finds for the functions that have a limit."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import flag_gems
import pytest
import torch

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "accuracy.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


accuracy = load()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", accuracy.LIMITS)
def test_all_values_of_16_bits(name: str, dtype: torch.dtype) -> None:
    ours, _ = accuracy.measure(name, dtype, device=flag_gems.device)
    assert ours.ulp <= accuracy.LIMITS[name], f"{ours.ulp} ulp at {ours.at}"


@pytest.mark.parametrize("name", accuracy.LIMITS)
def test_some_values_of_float32(name: str) -> None:
    ours, _ = accuracy.measure(name, torch.float32, 200_000, flag_gems.device)
    assert ours.ulp <= accuracy.LIMITS[name], f"{ours.ulp} ulp at {ours.at}"


@pytest.mark.slow
@pytest.mark.parametrize("name", accuracy.LIMITS)
def test_ten_million_values_of_float32(name: str) -> None:
    ours, _ = accuracy.measure(name, torch.float32, 10_000_000, flag_gems.device)
    assert ours.ulp <= accuracy.LIMITS[name], f"{ours.ulp} ulp at {ours.at}"


@pytest.mark.parametrize("dtype", accuracy.DTYPES, ids=str)
def test_an_error_is_counted_in_units_of_the_last_place(dtype: torch.dtype) -> None:
    one = torch.ones(4, dtype=dtype)
    eps = torch.finfo(dtype).eps
    exact = torch.tensor([1.0, 1 + 2 * eps, 1 - eps, 1 + eps / 4], dtype=torch.float64)
    assert accuracy.errors_in_ulp(one, exact).tolist() == [0, 2, 2, 0.25]


def test_infinities_and_nans_have_to_agree() -> None:
    inf, nan = math.inf, math.nan
    result = torch.tensor([inf, nan, inf, nan, 1.0, 0.0])
    exact = torch.tensor([inf, nan, 1.0, inf, nan, 1e-60], dtype=torch.float64)
    errors = accuracy.errors_in_ulp(result, exact).tolist()
    assert errors[:5] == [0, 0, inf, inf, inf] and errors[5] < 1e-10


def test_inputs_are_all_values_or_spread_over_them() -> None:
    halves = accuracy.inputs(torch.float16)
    assert halves.unique().numel() == (1 << 16) - 2 * 1023 - 1  # NaNs left out, one zero
    floats = accuracy.inputs(torch.float32, 10_000)
    assert 9_000 < floats.numel() <= 10_001 and (floats < 0).any() and (floats.abs() < 1e-40).any()
