"""Versions of vLLM: what is replaced may take more, or give back less, than the function that takes its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


class UnfitError(Exception):
    """No call of this vLLM's operator can be done by our function; says why."""


def takes(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., bool] | None:
    """What says of a call's arguments whether a function takes them; None where it takes whatever the original does."""
    signature = inspect.signature(function)
    if list(signature.parameters) == list(inspect.signature(original).parameters):
        return None

    def fits(*args: Any, **kwargs: Any) -> bool:
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    return fits


def _kind(argument: Any) -> str:
    return str(argument.type).removeprefix("Optional[").removesuffix("]")


def _is_optional(argument: Any) -> bool:
    return str(argument.type).startswith("Optional[")


def _is_unset(argument: Any, value: Any) -> bool:
    """True for a value that asks for nothing beyond what the operator does without the argument."""
    default = argument.default_value if argument.has_default_value() else None
    return value is None or value is False or (argument.has_default_value() and value == default)


def adapted(own: str, schema: Any, function: Callable[..., Any]) -> Callable[..., tuple[bool, Any]]:
    """A function of an operator's arguments by a function that takes those of another version.

    Parameters
    ----------
    own : str
        The schema that the function has.
    schema : torch._C.FunctionSchema
        The operator's. What it has more comes last.
    function : callable

    Returns
    -------
    callable
        Takes a call's arguments, gives (True, the operator's results), or (False, None) where they ask for what the
        function does not do; then nothing was written.

    Raises
    ------
    UnfitError
        The operator has other arguments, or more results.
    """
    ours = torch._C.parse_schema(own)
    shared = list(zip(ours.arguments, schema.arguments, strict=False))
    for mine, theirs in shared:
        if _kind(mine) != _kind(theirs):
            raise UnfitError(f"its {theirs.name} is {theirs.type}")
    if any(not a.has_default_value() for a in ours.arguments[len(shared) :]):
        raise UnfitError(f"it has no {ours.arguments[len(shared)].name}")
    if len(schema.returns) > len(ours.returns):
        raise UnfitError(f"it gives {len(schema.returns)} results")
    names = [argument.name for argument in schema.arguments]
    needed = [i for i, (mine, theirs) in enumerate(shared) if _is_optional(theirs) and not _is_optional(mine)]
    extra = schema.arguments[len(shared) :]

    def call(*args: Any, **kwargs: Any) -> tuple[bool, Any]:
        if kwargs or len(args) < len(names):
            named = dict(zip(names, args, strict=False)) | kwargs
            args = tuple(
                named[a.name] if a.name in named else a.default_value if a.has_default_value() else None
                for a in schema.arguments
            )
        unset = all(_is_unset(a, value) for a, value in zip(extra, args[len(shared) :], strict=True))
        if not unset or any(args[i] is None for i in needed):
            return False, None
        made = function(*args[: len(shared)])
        count = len(schema.returns)
        if count == 0:
            return True, None
        return True, made if count == len(ours.returns) else made[0] if count == 1 else made[:count]

    return call
