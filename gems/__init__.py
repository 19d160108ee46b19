"""flag_gems: an operator library for PyTorch in C, with CUDA kernels compiled while the program runs.

Three ways to use it: `flag_gems.enable()` puts the kernels behind `torch.*`; `with flag_gems.use_gems():` does so for a
scope; `flag_gems.ops.mm(a, b)` calls one directly, with tensors of torch or arrays of NumPy. Without torch the explicit
functions take NumPy arrays only.
"""

from __future__ import annotations

from typing import Any

from . import _C
from .observe import DeclinedError, explain, info, reset_stats, stats

__version__ = "0.1.0"


def _attach() -> bool:
    """Ties the extension to NumPy and torch, as far as they are installed; True with torch."""
    import contextlib

    from . import observe

    _C.set_hooks(declined_error=DeclinedError, record=observe.record)
    with contextlib.suppress(ImportError):
        _C.attach_numpy()
    try:
        import torch
    except ImportError:
        return False
    _C.attach_torch(torch)
    return True


has_torch = _attach()

from . import fused, library, logging_utils, ops  # noqa: E402
from .fused import *  # noqa: E402, F403
from .ops import *  # noqa: E402, F403

if has_torch:
    from . import compiled, shared
    from .overrides import (
        all_ops,
        all_registered_keys,
        all_registered_ops,
        current_work_registrar,
        disable,
        enable,
        only_enable,
        use_gems,
    )
    from .runtime import device as _device

    library.install()
    compiled.install()
    shared.install()
    device: str = _device.name
    vendor_name: str = _device.vendor_name

_EXPRESSIONS = ("ExpressionError", "pointwise")
_SUBMODULES = ("config", "modules", "patches", "runtime", "testing", "utils")


def __getattr__(name: str) -> Any:
    """Submodules are imported when they are first asked for, and what needs them."""
    import importlib

    if name in _EXPRESSIONS:
        return getattr(importlib.import_module(f"{__name__}.expressions"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "apply_gems_patches_to_vllm":
        return importlib.import_module(f"{__name__}.patches").apply_gems_patches_to_vllm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DeclinedError",
    "__version__",
    "explain",
    "fused",
    "info",
    "logging_utils",
    "ops",
    "reset_stats",
    "stats",
    *_EXPRESSIONS,
]
if has_torch:
    __all__ += [
        "all_ops",
        "all_registered_keys",
        "all_registered_ops",
        "current_work_registrar",
        "device",
        "disable",
        "enable",
        "only_enable",
        "use_gems",
        "vendor_name",
    ]
