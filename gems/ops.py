"""The explicit functions: a builtin for each operator of the table.

A function takes what the aten operator of its name takes, by position or keyword, as tensors of torch or arrays of
NumPy; it picks the overload that the arguments fit. In-place forms end in `_`, forms with `out=` in `_out`. Where a
gradient is wanted, or a mode of torch is active, the call goes through `torch.ops.aten`, so that autograd records it.
"""

from __future__ import annotations

from . import _C

_functions = _C.functions()
globals().update(_functions)

__all__ = sorted(_functions)


def __dir__() -> list[str]:
    return __all__
