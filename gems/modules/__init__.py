"""Modules of torch over the fused functions."""

from .activation import GemsSiluAndMul, gems_silu_and_mul
from .rotary_embedding import GemsDeepseekYarnRoPE, GemsRope, gems_rope_forward

__all__ = ["GemsDeepseekYarnRoPE", "GemsRope", "GemsSiluAndMul", "gems_rope_forward", "gems_silu_and_mul"]
