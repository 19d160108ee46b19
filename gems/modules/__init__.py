"""Modules of torch over the fused functions."""

from .activation import GemsSiluAndMul, gems_silu_and_mul
from .norm import GemsRMSNorm, gems_rms_forward

__all__ = ["GemsRMSNorm", "GemsSiluAndMul", "gems_rms_forward", "gems_silu_and_mul"]
