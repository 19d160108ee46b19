"""This package's kernels in other programs: vLLM's layers and operators."""

from .vllm import apply_gems_patches_to_vllm, patch_empty_vllm

__all__ = ["apply_gems_patches_to_vllm", "patch_empty_vllm"]
