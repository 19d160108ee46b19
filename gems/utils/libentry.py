"""The decorators of Triton kernels, which this package has none of: they say what to write instead."""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"{name} wraps a Triton kernel, and this package runs none: its kernels are CUDA C++ text. Write an "
        'elementwise operator as an expression, such as "x * sigmoid(y)": one row of the table, docs/contributing.md.'
    )


def libentry(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises NotImplementedError, which names the form that operators have here."""
    _refuse("libentry")


def libtuner(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises NotImplementedError, which names the form that operators have here."""
    _refuse("libtuner")
