"""The explicit functions: a builtin for each operator of the table.

A function takes what the aten operator of its name takes, by position or keyword, as tensors of torch or arrays of
NumPy; it picks the overload that the arguments fit. In-place forms end in `_`, forms with `out=` in `_out`. Where a
gradient is wanted, or a mode of torch is active, the call goes through `torch.ops.aten`, so that autograd records it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import _C
from .rows import functions_of, name_of


@functools.cache
def _operator(name: str, aten: str, parts: str) -> Callable[..., Any]:
    """torch's operator of a name, `aten` where it has none, what it is made of being registered."""
    import torch

    from . import overrides

    wanted = parts.split(",")
    overrides.register_for_good([e["index"] for e in _C.entries() if e["name"].split(".")[0] in wanted])
    if name.endswith("_out"):  # a packet would try the overloads, and print every tensor for each that does not fit
        special = getattr(torch, name.removesuffix("_out"), None)
        return special or getattr(torch._C._nn, name.removesuffix("_out"))
    return getattr(torch.ops.aten, name, None) or getattr(torch.ops.aten, aten)


def _composite(name: str, aten: str, parts: str, doc: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return _C.forced(_operator(name, aten, parts), *args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


_functions: dict[str, Callable[..., Any]] = _C.functions()
if _C.has_torch():
    for _row in _C.composite_rows():
        _text = f"{_row['doc']}\n\naten::{_row['schema']}, by way of the operators that torch makes it of."
        for _name in functions_of(_row):
            _also = f"{_functions[_name].__doc__}\n" if _name in _functions else ""  # a name of other overloads too
            _functions[_name] = _composite(_name, name_of(_row).split(".")[0], _row["expr"], _also + _text)
globals().update(_functions)

__all__ = sorted(_functions)


def __dir__() -> list[str]:
    return __all__
