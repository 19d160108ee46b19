"""Own operators of tensors that are shared out over processes (`torch.distributed.tensor.DTensor`)."""

from __future__ import annotations

import sys
from typing import Any

from .imports import when_imported

DTENSOR = "torch.distributed.tensor"
_waiting: list[tuple[Any, Any]] = []


def _placements(operator: Any, specs: list[Any]) -> list[Any]:
    """How an elementwise operator may be shared out: not at all, or along any dimension, whose parts know no other.

    A tensor that is broadcast along the dimension is whole in every process. What is no tensor has None.
    """
    from torch.distributed.tensor import Replicate, Shard

    tensors = [spec for spec in specs if hasattr(spec, "placements")]
    rank = max(t.ndim for t in tensors)
    found = [([Replicate()] * operator.outputs, [Replicate() if s in tensors else None for s in specs])]
    for dim in range(rank):
        places = [dim - rank + t.ndim for t in tensors]
        size = max(t.shape[i] for t, i in zip(tensors, places, strict=True) if i >= 0)
        parts = [
            Shard(i) if i >= 0 and t.shape[i] == size else Replicate() for t, i in zip(tensors, places, strict=True)
        ]
        each = iter(parts)
        found.append(([Shard(dim)] * operator.outputs, [next(each) if s in tensors else None for s in specs]))
    return found


def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    while _waiting:
        operator, overload = _waiting.pop()
        register_sharding(overload)(lambda *specs, operator=operator: _placements(operator, list(specs)))


def elementwise(operator: Any, overload: Any) -> None:
    """Makes an elementwise operator known to DTensor, once it is imported."""
    _waiting.append((operator, overload))
    if DTENSOR in sys.modules:
        _register()


def install() -> None:
    when_imported(DTENSOR, _register)


def any_shared(tensors: list[Any]) -> bool:
    """True when one of the tensors is shared out."""
    module = sys.modules.get(DTENSOR)
    return module is not None and any(isinstance(t, module.DTensor) for t in tensors)
