"""torch.compile and the explicit functions: builtins, which it writes into its graphs as they are.

Run by the backend "eager" a graph calls them; where operators are traced further ("aot_eager", "inductor") it has the
aten operators that they stand for, which run these kernels while they are enabled.
"""

from __future__ import annotations

from .imports import when_imported


def _allow() -> None:
    import torch

    from . import ops

    for function in ops._functions.values():
        torch._dynamo.allow_in_graph(function)


def install() -> None:
    """Tells torch.compile of the explicit functions, once it is here."""
    when_imported("torch._dynamo", _allow)
