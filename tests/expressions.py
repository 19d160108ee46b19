"""What the tests of operators made of expressions share."""

from __future__ import annotations

from typing import Any

import flag_gems
import torch
from flag_gems import pointwise
from torch import Tensor


def draw(domain: str, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    low, high = {"real": (-3, 3), "positive": (0.2, 3), "unit": (-0.9, 0.9), "large": (1.2, 4)}[domain]
    return (low + (high - low) * x).to(dtype).to(flag_gems.device)


SWIGLU = "a * sigmoid(a) * b"


def swiglu() -> Any:
    return pointwise(SWIGLU, grad="auto", name="swiglu")
