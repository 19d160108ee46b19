"""The operators of `torch.ops.flag_gems` that stand for aten's."""

from __future__ import annotations

from typing import Any

OPERATORS: dict[str, tuple[str, Any]] = {}
