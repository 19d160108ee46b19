"""What sorting is held to: the order in float64 or in the integers themselves, NaN above all, ties in their order."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
QUICK = (torch.float32, torch.bfloat16, torch.int64, torch.bool)  # dtypes of a quick test
KINDS = ("plain", "ties", "special", "sorted", "constant")


def dtypes(*all_of_them: torch.dtype) -> list[Any]:
    """Parameters of a test, of which the rarer ones are slow."""
    return [pytest.param(d, id=str(d), marks=[] if d in QUICK else [pytest.mark.slow]) for d in all_of_them]


def values(shape: tuple[int, ...], dtype: torch.dtype, kind: str, device: str, seed: int = 0) -> Tensor:
    """Numbers to sort.

    kind : "plain", "ties" (few values), "special" (NaN, infinities and both zeros between), "sorted", "constant"
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 100
    if kind == "ties":
        x = (x / 60).round()
    elif kind == "sorted":
        x = x.sort(-1).values if x.ndim else x
    elif kind == "constant":
        x = torch.full(shape, 3.0, dtype=torch.float64)
    if dtype == torch.bool:
        return (x > 0).to(device)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        x = x.clamp(limits.min, limits.max).to(dtype)
        if kind == "special" and x.numel():
            x.view(-1)[::5], x.view(-1)[1::7] = limits.min, limits.max
        return x.to(device)
    x = x.to(dtype)
    if kind == "special" and x.numel():
        flat = x.view(-1)
        for start, step, value in ((0, 7, math.nan), (1, 11, math.inf), (2, 13, -math.inf), (3, 5, 0.0), (4, 5, -0.0)):
            flat[start::step] = value
    return x.to(device)


def stable_order(x: Tensor, dim: int, descending: bool) -> Tensor:
    """Places along dim in the order of a stable sort, by another algorithm than ATen's own sort of x's dtype."""
    wide = x.cpu().to(torch.int64 if not x.dtype.is_floating_point else torch.float64)
    order = torch.sort(wide, dim=dim, stable=True, descending=descending).indices
    return order.to(x.device)


def bits(x: Tensor) -> Tensor:
    """The bytes of a tensor: tells -0.0 from 0.0 and one NaN from another."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x).view(-1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def picked(x: Tensor, dim: int, places: Tensor) -> Tensor:
    """Elements at some places, bit by bit: ATen's gather of halves changes the bits of NaN."""
    if not x.ndim or not x.dtype.is_floating_point:
        return torch.gather(x, dim, places) if x.ndim else x
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize]
    return torch.gather(x.view(whole), dim, places).view(x.dtype)
