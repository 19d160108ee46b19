"""torch.compile and the explicit functions: builtins, which it writes into its graphs as they are.

Run by the backend "eager" a graph calls them; where operators are traced further ("aot_eager", "inductor") it has the
aten operators that they stand for, which run these kernels while they are enabled.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

DYNAMO = "torch._dynamo"


class _Waiting(importlib.abc.MetaPathFinder):
    """Calls a function once when a module has been imported: importing it here would take longer than torch itself."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self.name, self.call = name, call

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute, call = spec.loader.exec_module, self.call

        def exec_module(module: Any) -> None:
            execute(module)
            call()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _allow() -> None:
    import torch

    from . import ops

    for function in ops._functions.values():
        torch._dynamo.allow_in_graph(function)


def install() -> None:
    """Tells torch.compile of the explicit functions, once it is here."""
    if DYNAMO in sys.modules:
        _allow()
    else:
        sys.meta_path.insert(0, _Waiting(DYNAMO, _allow))
