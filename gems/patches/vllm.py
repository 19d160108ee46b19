"""vLLM with this package's kernels: methods of its layers and its operators, or its operators where it is absent."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

from ..observe import DeclinedError
from . import vllm_methods, vllm_operators
from .vllm_methods import METHODS, Method
from .vllm_operators import OPERATORS, Operator
from .vllm_versions import UnfitError, adapted, takes

_libraries: dict[str, Any] = {}
_defined: set[str] = set()
_replaced: set[str] = set()

DONE = "replaced"


def _library(namespace: str, kind: str) -> Any:
    key = f"{namespace} {kind}"
    if key not in _libraries:
        _libraries[key] = torch.library.Library(namespace, kind)
    return _libraries[key]


# ---- methods ----


def _module_of(method: Method) -> Any:
    """The first of the modules that has what is to be replaced; None."""
    for name in method.modules:
        try:
            module = importlib.import_module(name)
        except Exception:  # a backend that cannot be imported here has nothing to replace
            continue
        owner = getattr(module, method.owner, None) if method.owner else module
        if owner is not None and hasattr(owner, method.name):
            return owner
    return None


def _with_original(method: Method, original: Callable[..., Any]) -> Callable[..., Any]:
    """The replacement, and vLLM's own where that gives NotImplemented or no kernel takes the call."""

    fits = takes(method.function, original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if fits is not None and not fits(*args, **kwargs):
            return original(*args, **kwargs)
        try:
            result = method.function(*args, **kwargs)
        except DeclinedError as error:
            if "GEMS_STRICT" in str(error):
                raise
            result = NotImplemented
        return original(*args, **kwargs) if result is NotImplemented else result

    call.flag_gems_original = original  # type: ignore[attr-defined]
    return call


def _replace_method(method: Method) -> str:
    missing = vllm_methods.missing(method.needs)
    if missing:
        return f"flag_gems has no {', '.join(missing)}"
    owner = _module_of(method)
    if owner is None:
        return "this vLLM has none"
    held = vars(owner)[method.name] if method.name in vars(owner) else getattr(owner, method.name)
    original = getattr(owner, method.name)
    if hasattr(original, "flag_gems_original"):
        return DONE
    made: Any = _with_original(method, original)
    if isinstance(held, staticmethod):
        made = staticmethod(made)
    setattr(owner, method.name, made)
    return DONE


# ---- operators ----


def _schema(operator: Operator) -> Any:
    """The schema that torch has for it; None."""
    try:
        return torch._C._get_schema(f"{operator.namespace}::{operator.name}", "")
    except RuntimeError:
        return None


def _replace_operator(operator: Operator) -> str:
    from ..runtime import device

    schema = _schema(operator)
    if schema is None:
        return "this vLLM has none"
    missing = vllm_methods.missing(operator.needs)
    if missing:
        return f"flag_gems has no {', '.join(missing)}"
    full = f"{operator.namespace}::{operator.name}"
    if full in _replaced:
        return DONE
    try:
        ours = adapted(operator.schema, schema, operator.function)
    except UnfitError as error:
        return f"this vLLM's differs: {error}"
    try:
        original = torch.library.get_kernel(full, device.dispatch_key)
    except (AttributeError, RuntimeError):  # an older torch, or no kernel on this device
        original = None

    def call(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            done, result = ours(*args, **kwargs)
        except DeclinedError as error:
            if original is None or "GEMS_STRICT" in str(error):
                raise
            done = False
        if done:
            return result
        if original is None:
            raise NotImplementedError(f"{full}: flag_gems does not do what these arguments ask for")
        return original.call_boxed(keyset, *args, **kwargs)

    library = _library(operator.namespace, "IMPL")
    # What torch does where the kernel that is there comes from Python too depends on its version.
    options = {"allow_override": True} if "allow_override" in inspect.signature(library.impl).parameters else {}
    try:
        library.impl(operator.name, call, device.dispatch_key, with_keyset=True, **options)
    except RuntimeError as error:
        return f"torch does not let it be replaced: {error}"
    _replaced.add(full)
    return DONE


def apply_gems_patches_to_vllm(verbose: bool = True) -> dict[str, str]:
    """Replaces methods of vLLM's layers and vLLM's operators by functions of this package.

    A call that a kernel of this package does not take runs what was replaced. A second call changes nothing.

    Parameters
    ----------
    verbose : bool
        Prints what was replaced and what was not, with the reason.

    Returns
    -------
    dict
        "replaced", or why not, by name. Empty where vLLM is not importable, and under VLLM_BATCH_INVARIANT.
    """
    say = print if verbose else lambda *_: None
    if "vllm" not in sys.modules and importlib.util.find_spec("vllm") is None:
        say("flag_gems: vLLM is not importable, nothing was replaced")
        return {}
    if vllm_methods.wants_one_order():
        say("flag_gems: vLLM is asked for results that do not depend on the batch, nothing was replaced")
        return {}
    found = {method.title: _replace_method(method) for method in METHODS}
    for namespace in {operator.namespace for operator in OPERATORS}:
        for module in vllm_operators.EXTENSIONS.get(namespace, ()):
            try:
                importlib.import_module(module)
            except Exception:  # not built here: its operators are reported
                continue
    found |= {operator.title: _replace_operator(operator) for operator in OPERATORS}
    done = [name for name, what in found.items() if what == DONE]
    say(f"flag_gems: {len(done)} of {len(found)} replaced in vLLM: {', '.join(done) or 'none'}")
    for name, what in found.items():
        if what != DONE:
            say(f"flag_gems: {name} was not replaced: {what}")
    return found


# ---- operators where there is no vLLM ----


def _define(operator: Operator) -> str:
    full = f"{operator.namespace}::{operator.name}"
    if full in _defined or _schema(operator) is not None:
        return "was there" if full not in _defined else "defined"

    def call(*args: Any, **kwargs: Any) -> Any:
        missing = vllm_methods.missing(operator.needs)
        if missing:
            raise NotImplementedError(f"{full}: flag_gems has no {', '.join(missing)}")
        return operator.function(*args, **kwargs)

    library = _library(operator.namespace, "FRAGMENT")
    library.define(operator.schema.removeprefix(f"{operator.namespace}::"))
    for key in ("CPU", "CUDA"):
        library.impl(operator.name, call, key)
    if operator.shapes is not None:
        torch.library.register_fake(full, operator.shapes, lib=library)
    _defined.add(full)
    return "defined"


def patch_empty_vllm() -> dict[str, str]:
    """Defines vLLM's operators, `torch.ops._C.*` and its like, by functions of this package where vLLM has not.

    What is defined already stays as it is, so that a second call changes nothing. An operator that this package has no
    function for is defined too, and raises NotImplementedError when it is called.

    Returns
    -------
    dict
        "defined" or "was there", by name.
    """
    return {operator.title: _define(operator) for operator in OPERATORS}
