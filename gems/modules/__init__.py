"""Modules of torch over the fused functions."""

from .activation import GemsSiluAndMul, gems_silu_and_mul

__all__ = ["GemsSiluAndMul", "gems_silu_and_mul"]
