"""Fused functions: what has no aten operator of its own. Each is built from the rows that the table marks so."""

from __future__ import annotations

__all__: list[str] = []
