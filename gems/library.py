"""`torch.ops.flag_gems`: this package's own operators as torch knows them, with fake and autograd kernels.

An operator of the table in flag_gems:: (a fused function), one that a program made (`flag_gems.pointwise`), and the
composite ones of composites.py. They are defined when `torch.ops.flag_gems.<name>` is first asked for, so that
importing the package costs nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import flag_gems

from . import _C, attention, experts, own, shared

# Of rows in flag_gems:: that are not elementwise: results without values, from fake tensors, by name.
SHAPES: dict[str, Callable[..., Any]] = {**attention.SHAPES, **experts.SHAPES}

_lock = threading.RLock()
_libraries: list[Any] = []
_defined: dict[str, Any] = {}
_defining: set[str] = set()
_added: dict[str, Any] = {}


@functools.cache
def _composites() -> dict[str, dict[str, tuple[str, Callable[..., Any]]]]:
    """The overloads of composites.py, by name."""
    from . import composites

    by_name: dict[str, dict[str, tuple[str, Callable[..., Any]]]] = {}
    for key, overload in composites.OPERATORS.items():
        by_name.setdefault(key.split(".")[0], {})[key] = overload
    return by_name


def _opaque() -> dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]]:
    from . import composites

    return composites.OPAQUE


def is_taken(name: str) -> bool:
    """True when the package itself has an operator of that name."""
    return name in own.rows() or (flag_gems.has_torch and name in {*_composites(), *_opaque()})


def add(operator: Any) -> None:
    """Makes an operator known to torch: called once for each that a program makes."""
    _added[operator.name] = operator
    if flag_gems.has_torch:
        packet(operator.name)


def names() -> list[str]:
    """All names in `torch.ops.flag_gems` that can be asked for."""
    return sorted({*own.rows(), *_added, *_composites(), *_opaque()})


def packet(name: str) -> Any:
    """`torch.ops.flag_gems.<name>`, defined when it was not.

    Raises
    ------
    AttributeError
        When there is no such operator.
    """
    found = _defined.get(name)
    if found is not None:
        return found
    import torch

    with _lock:
        if name not in _defined:
            if name not in _defining:  # defining asks for it too
                _defining.add(name)
                try:
                    _define(name)
                finally:
                    _defining.discard(name)
            space = torch.ops.flag_gems  # which keeps the one that defining asked for
            found = vars(space).get(name) or torch._ops._OpNamespace.__getattr__(space, name)
            if name in _defining:
                return found
            _defined[name] = found
        return _defined[name]


def _library() -> Any:
    if not _libraries:
        import torch

        _libraries.append(torch.library.Library("flag_gems", "FRAGMENT"))
    return _libraries[0]


def _define(name: str) -> None:
    if name in _added:
        _define_row(_added[name].row, _added[name])
        return
    if name in own.rows():
        _define_row(own.rows()[name], own.RowOperator(own.rows()[name]))
        return
    if name in _opaque():
        _define_opaque(name, *_opaque()[name])
        return
    if name not in _composites():
        raise AttributeError(f"'_OpNamespace' 'flag_gems' object has no attribute '{name}'")
    for key, (schema, function) in _composites()[name].items():
        _library().define(key + schema)
        _library().impl(key, function, "CompositeImplicitAutograd")


def _define_opaque(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    import torch

    library = _library()
    library.define(name + schema, tags=(torch.Tag.nondeterministic_seeded,))
    library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flag_gems::{name}", fake, lib=library)


def _define_row(row: dict[str, Any], operator: Any) -> None:
    """Defines the overloads of a row: our kernel on the devices, the shapes of results, gradients, vmap."""
    import torch

    from .expressions import torch_rules

    library = _library()
    for entry in row["entries"]:
        qualified = entry["name"]
        key = qualified.removeprefix("flag_gems::")
        # No Tag.out: inductor (torch 2.13) makes calls of forms that have it from others', and fails at dynamic shapes.
        library.define(entry["schema"].removeprefix("flag_gems::"))
        function = _C.library_function(entry["index"])
        for backend in ("CPU", "CUDA"):
            library.impl(key, function, backend)
        if entry["variant"] == "functional":
            shapes = torch_rules.fake(operator) if operator.elementwise else SHAPES.get(key)
            if shapes is not None:
                torch.library.register_fake(qualified, shapes, lib=library)
            if operator.differentiable:
                backward, setup = torch_rules.autograd(operator)
                torch.library.register_autograd(qualified, backward, setup_context=setup, lib=library)
            else:
                library.impl(key, torch_rules.refuses_gradient(operator.name, qualified), "Autograd", with_keyset=True)
            if operator.elementwise:
                default = getattr(torch.ops.flag_gems, key).default
                torch.library.register_vmap(qualified, torch_rules.vmap(operator, default), lib=library)
                shared.elementwise(operator, default)
        else:
            torch.library.register_fake(qualified, torch_rules.fake_out(entry["schema"]), lib=library)
            if entry["variant"] == "out":
                library.impl(key, torch_rules.functional_out(operator, entry["schema"]), "Functionalize")
            library.impl(key, torch_rules.refuses_gradient(operator.name, qualified), "Autograd", with_keyset=True)


def _own_operator(row: int) -> Any:
    """Called once by a builtin when torch must see a call: what takes such calls."""
    from .expressions import torch_rules

    name = _C.own_name(row)
    operator = _added.get(name) or own.RowOperator(own.rows()[name])
    return torch_rules.recorded(operator, packet(name))


def install() -> None:
    """Puts a namespace at `torch.ops.flag_gems` that defines operators as they are asked for."""
    import torch

    class Namespace(torch._ops._OpNamespace):  # type: ignore[misc]
        """`torch.ops.flag_gems`."""

        __module__ = torch._ops._OpNamespace.__module__  # operators say by it where they are found

        def __getattr__(self, name: str) -> Callable[..., Any]:
            if name.startswith("__"):
                raise AttributeError(f"'_OpNamespace' 'flag_gems' object has no attribute '{name}'")
            return packet(name)

        def __dir__(self) -> list[str]:
            return names()

    space = Namespace("flag_gems")
    torch.ops.flag_gems = space  # type: ignore[attr-defined]
    _C.set_hooks(own_operator=_own_operator)
