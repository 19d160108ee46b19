"""Elementwise operators from expressions: the language, its derivatives, and the operators made of it.

`flag_gems.pointwise` is the way in; `docs/pointwise.md` describes the language.
"""

from __future__ import annotations

from .language import ExpressionError
from .operator import Operator, pointwise

__all__ = ["ExpressionError", "Operator", "pointwise"]
