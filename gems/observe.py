"""What was done: counters, the reason of declines, explain and info."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _C


class DeclinedError(RuntimeError):
    """No kernel takes a call, and ATen's may not: GEMS_STRICT=1 is set, or the arguments are NumPy's."""


_C.set_strict(os.environ.get("GEMS_STRICT", "") not in ("", "0"))


def stats() -> dict[str, dict[str, int]]:
    """Calls since the last reset, by aten name: `{"mm": {"kernel": 12, "fallback": 1}, ...}`."""
    return {name: {"kernel": kernel, "fallback": fallback} for name, (kernel, fallback, _) in _C.counts().items()}


def reset_stats() -> None:
    """Sets all counters to 0."""
    _C.reset_counts()


_listeners: list[Callable[..., None]] = []


def record(entry: int, status: int, reason: str | None, nanoseconds: int, backend: str | None, tensors: Any) -> None:
    """Called by the extension after each call while something listens."""
    for listen in list(_listeners):
        listen(entry, status, reason, nanoseconds, backend, tensors)


def listen(listener: Callable[..., None]) -> None:
    """Adds a listener to all calls."""
    _listeners.append(listener)
    _C.set_observing(True)


def unlisten(listener: Callable[..., None]) -> None:
    """Removes a listener."""
    _listeners.remove(listener)
    _C.set_observing(bool(_listeners))


@dataclass
class Line:
    """A row of explain's table."""

    operator: str
    calls: int
    ran: str
    shapes: str
    backend: str
    microseconds: float


class Explanation(list[Line]):
    """The rows of explain, and what the function returned (`result`); prints as a table."""

    result: Any = None

    @property
    def kernel_share(self) -> float:
        """Share of the calls, views left out, that ran in our kernels; 1 where nothing was called."""
        calls = sum(line.calls for line in self)
        return sum(line.calls for line in self if line.ran == "kernel") / calls if calls else 1.0

    def __str__(self) -> str:
        head = ("operator", "calls", "ran", "shape class", "backend", "us")
        cells = [head] + [
            (line.operator, str(line.calls), line.ran, line.shapes, line.backend, f"{line.microseconds:.1f}")
            for line in self
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        )


def _is_contiguous(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def shape_class(tensors: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    """ "dense float32": how the tensors of a call lie in memory, and their dtypes."""
    dtypes = " ".join(dict.fromkeys(str(dtype) for dtype, _, _ in tensors))
    if not tensors:
        return "no tensors"
    if any(0 in sizes for _, sizes, _ in tensors):
        return f"empty {dtypes}"
    broadcast = len({sizes for _, sizes, _ in tensors}) > 1
    dense = all(_is_contiguous(sizes, strides) for _, sizes, strides in tensors)
    return f"{'strided' if not dense else 'broadcast' if broadcast else 'dense'} {dtypes}"


def _is_view(result: Any, args: Any) -> bool:
    """True when a result is an argument's memory: a view, also one that its schema does not call so."""
    import torch

    if not isinstance(result, torch.Tensor) or result.layout != torch.strided:
        return False
    pointer = result.untyped_storage().data_ptr()
    return any(isinstance(arg, torch.Tensor) and arg.untyped_storage().data_ptr() == pointer for arg in args)


def _count_others(lines: dict[tuple[str, str, str, str], Line]) -> Any:
    """A torch mode that adds the aten calls without a row of the table, views left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    known = {entry["name"] for entry in _C.entries()}

    class Others(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            space, _, name = func.name().partition("::")
            view = func.is_view or (not func._schema.is_mutable and _is_view(result, args))
            if space == "aten" and name not in known and not view:
                key = (name, "ATen: not in the table", "-", "-")
                lines.setdefault(key, Line(name, 0, *key[1:], 0.0)).calls += 1
            return result

    return Others()


def explain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Runs `fn(*args, **kwargs)` with all operators enabled and tells what ran.

    Returns
    -------
    Explanation
        A list of lines (operator, calls, ran: "kernel" or "fallback: reason", shapes, backend, host microseconds),
        most time first; `result` is what fn returned. Printed, it is a table.
    """
    names: dict[int, str] = {}
    lines: dict[tuple[str, str, str, str], Line] = {}

    def see(entry: int, status: int, reason: str | None, nanoseconds: int, backend: str | None, tensors: Any) -> None:
        ran = "kernel" if status == 0 else f"fallback: {reason}" if status == 1 else "error"
        shapes = shape_class(tensors) if tensors is not None else "-"
        name = names.get(entry) or names.setdefault(entry, _C.entry(entry)["name"])
        key = (name, ran, shapes, backend or "-")
        line = lines.setdefault(key, Line(key[0], 0, *key[1:], 0.0))
        line.calls += 1
        line.microseconds += nanoseconds / 1000

    from .overrides import _scopes, use_gems

    explanation = Explanation()
    listen(see)
    try:
        with contextlib.nullcontext() if _scopes else use_gems(), _count_others(lines):
            explanation.result = fn(*args, **kwargs)
    finally:
        unlisten(see)
    explanation.extend(sorted(lines.values(), key=lambda line: -line.microseconds))
    return explanation


def info() -> dict[str, Any]:
    """Versions, backends with what was found or tried, the cache's directory and size, how tensors are read."""
    import platform

    import flag_gems

    entries, size = _C.cache_info()
    found: dict[str, Any] = {
        "flag_gems": flag_gems.__version__,
        "python": platform.python_version(),
        "torch": None,
        "operators": len(_C.rows()),
        "overloads": len(_C.entries()),
        "backends": _C.backends(),
        "cache": {"directory": _C.cache_directory(), "entries": entries, "bytes": size},
        "jit": _C.jit_stats(),
        "reader": _C.reader(),
    }
    if flag_gems.has_torch:
        import torch

        found["torch"] = torch.__version__
        found["device"], found["vendor"] = flag_gems.device, flag_gems.vendor_name
    return found
