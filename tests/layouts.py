"""The ways a tensor can lie in memory. Each function keeps the shape, and gives None where it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def transposed(t: Tensor) -> Tensor | None:
    """The last two dims stored the other way round."""
    return t.mT.contiguous().mT if t.ndim >= 2 else None


def stepped(t: Tensor) -> Tensor | None:
    """Every second element of a longer row."""
    if t.ndim == 0:
        return None
    wide = torch.zeros(*t.shape[:-1], t.shape[-1] * 2, dtype=t.dtype, device=t.device)
    return wide[..., ::2].copy_(t)


def offset(t: Tensor) -> Tensor:
    """One element behind the start of an allocation, so that wide accesses are not aligned."""
    flat = torch.zeros(t.numel() + 1, dtype=t.dtype, device=t.device)
    return flat[1:].view(t.shape).copy_(t)


def expanded(t: Tensor) -> Tensor | None:
    """The first row, repeated without a copy."""
    return t[:1].expand(t.shape) if t.ndim and t.shape[0] > 1 else None


def flipped(t: Tensor) -> Tensor | None:
    return t.flip(0) if t.ndim else None


def permuted(t: Tensor) -> Tensor | None:
    """The outermost dim stored innermost."""
    return t.movedim(0, -1).contiguous().movedim(-1, 0) if t.ndim >= 3 else None


def channels_last(t: Tensor) -> Tensor | None:
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else None


LAYOUTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    layout.__name__: layout
    for layout in (contiguous, transposed, stepped, offset, expanded, flipped, permuted, channels_last)
}


def crossed(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Pairs of both; quick are those in which one is the first of its kind, and those of a thing with itself."""
    first, second = list(first), list(second)
    return [
        pytest.param(a, b, marks=[] if a == first[0] or b == second[0] or a == b else pytest.mark.slow)
        for a in first
        for b in second
    ]
