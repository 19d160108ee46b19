"""Modules of torch over the fused functions."""

from .activation import GemsSiluAndMul, gems_silu_and_mul
from .norm import GemsRMSNorm, gems_rms_forward
from .rotary_embedding import GemsDeepseekYarnRoPE, GemsRope, gems_rope_forward

__all__ = [
    "GemsDeepseekYarnRoPE",
    "GemsRMSNorm",
    "GemsRope",
    "GemsSiluAndMul",
    "gems_rms_forward",
    "gems_rope_forward",
    "gems_silu_and_mul",
]
