"""vLLM's operators by functions of this package, which are looked up when they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .vllm_methods import function


@dataclass(frozen=True)
class Operator:
    """An operator of vLLM's.

    Attributes
    ----------
    schema : str
        With its namespace.
    function : callable
        Does a call.
    needs : tuple of str
        The functions of flag_gems that it calls.
    shapes : callable or None
        The fake kernel: results without values.
    """

    schema: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    shapes: Callable[..., Any] | None = lambda *args, **kwargs: None

    @property
    def namespace(self) -> str:
        return self.schema.split("::")[0]

    @property
    def name(self) -> str:
        return self.schema.split("::")[1].split("(")[0]

    @property
    def title(self) -> str:
        return f"torch.ops.{self.namespace}.{self.name}"


# The extensions that define vLLM's operators, by namespace.
EXTENSIONS = {
    "_C": ("vllm._C", "vllm._C_stable_libtorch"),
    "_moe_C": ("vllm._moe_C", "vllm._moe_C_stable_libtorch"),
    "_C_cache_ops": ("vllm._C", "vllm._C_stable_libtorch"),
    "_vllm_fa3_C": ("vllm.vllm_flash_attn._vllm_fa3_C",),
}


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _silu_and_mul(out: Tensor, input: Tensor) -> None:
    function("silu_and_mul_out")(*_halves(input), out)


def _silu_and_mul_with_clamp(out: Tensor, input: Tensor, limit: float) -> None:
    function("silu_and_mul_with_clamp_out")(*_halves(input), out, limit)


def _rms_norm(result: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> None:
    made = function("rms_norm")(input, list(weight.shape), weight, epsilon)
    function("copy_")(result, made)


def _passed_on(name: str) -> Callable[..., None]:
    """What takes the operator's arguments and writes its results as the operator does."""

    def call(*args: Any, **kwargs: Any) -> None:
        function(name)(*args, **kwargs)

    return call


def _given_back(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(name)(*args, **kwargs)

    return call


def _repetition_penalties(
    logits: Tensor, prompt_mask: Tensor, output_mask: Tensor, repetition_penalties: Tensor
) -> Tensor:
    made = function("apply_repetition_penalties")(logits, prompt_mask, output_mask, repetition_penalties)
    if made is not None and made is not logits and made.data_ptr() != logits.data_ptr():
        logits.copy_(made)
    return logits.clone()  # a result of torch's operator is none of its arguments


def _group_quant(
    input: Tensor,
    output_q: Tensor,
    output_s: Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool = False,
) -> None:
    limits = torch.finfo(output_q.dtype)
    if (fp8_min, fp8_max) != (limits.min, limits.max):
        raise NotImplementedError(f"limits of {fp8_min} and {fp8_max} for {output_q.dtype}")
    values, scales = function("per_token_group_quant_fp8")(input, group_size, eps, output_q.dtype, False, scale_ue8m0)
    output_q.view(torch.uint8).copy_(values.view(torch.uint8))
    output_s.copy_(scales)


def _grouped_topk_shapes(
    gating_output: Tensor, n_group: int, topk_group: int, topk: int, *rest: Any, **named: Any
) -> Any:
    rows = gating_output.shape[0]
    return (
        gating_output.new_empty((rows, topk), dtype=torch.float32),
        gating_output.new_empty((rows, topk), dtype=torch.int32),
        torch.empty_like(gating_output),
    )


OPERATORS = (
    Operator("_C::silu_and_mul(Tensor(a!) out, Tensor input) -> ()", _silu_and_mul, ("silu_and_mul_out",)),
    Operator(
        "_C::silu_and_mul_with_clamp(Tensor(a!) out, Tensor input, float limit) -> ()",
        _silu_and_mul_with_clamp,
        ("silu_and_mul_with_clamp_out",),
    ),
    Operator(
        "_C::rms_norm(Tensor(a!) result, Tensor input, Tensor weight, float epsilon) -> ()",
        _rms_norm,
        ("rms_norm", "copy_"),
    ),
    Operator(
        "_C::hc_head_fused_kernel(Tensor hs_flat, Tensor fn, Tensor hc_scale, Tensor hc_base, Tensor(a!) out, "
        "int hidden_size, float rms_eps, float hc_eps, int hc_mult) -> ()",
        _passed_on("hc_head_fused_kernel"),
        ("hc_head_fused_kernel",),
    ),
    Operator(
        "_C::cutlass_scaled_mm(Tensor(a!) out, Tensor input, Tensor weight, Tensor scale_a, Tensor scale_b, "
        "Tensor? bias=None) -> ()",
        _passed_on("cutlass_scaled_mm"),
        ("cutlass_scaled_mm",),
    ),
    Operator(
        "_C::per_token_group_fp8_quant(Tensor input, Tensor(a!) output_q, Tensor(b!) output_s, int group_size, "
        "float eps, float fp8_min, float fp8_max, bool scale_ue8m0=False) -> ()",
        _group_quant,
        ("per_token_group_quant_fp8",),
    ),
    Operator(
        "_C::apply_repetition_penalties_(Tensor(a!) logits, Tensor prompt_mask, Tensor output_mask, "
        "Tensor repetition_penalties) -> Tensor",
        _repetition_penalties,
        ("apply_repetition_penalties",),
        lambda logits, *rest, **named: torch.empty_like(logits),
    ),
    Operator(
        "_C::top_k_per_row_prefill(Tensor logits, Tensor row_starts, Tensor row_ends, Tensor(a!) indices, "
        "int num_rows, int stride0, int stride1, int top_k) -> ()",
        _passed_on("top_k_per_row_prefill"),
        ("top_k_per_row_prefill",),
    ),
    Operator(
        "_moe_C::moe_align_block_size(Tensor topk_ids, int num_experts, int block_size, Tensor(a!) sorted_token_ids, "
        "Tensor(b!) experts_ids, Tensor(c!) num_tokens_post_pad) -> ()",
        _passed_on("moe_align_block_size_triton"),
        ("moe_align_block_size_triton",),
    ),
    Operator(
        "_moe_C::topk_softmax(Tensor(a!) topk_weights, Tensor(b!) topk_indices, Tensor(c!) token_expert_indices, "
        "Tensor gating_output) -> ()",
        _passed_on("topk_softmax"),
        ("topk_softmax",),
    ),
    Operator(
        "_moe_C::grouped_topk(Tensor gating_output, int n_group, int topk_group, int topk, bool renormalize, "
        "float routed_scaling_factor, Tensor? bias, int scoring_func=0) -> (Tensor, Tensor, Tensor)",
        _given_back("grouped_topk"),
        ("grouped_topk",),
        _grouped_topk_shapes,
    ),
    Operator("_moe_C::moe_sum(Tensor input, Tensor(a!) output) -> ()", _passed_on("moe_sum"), ("moe_sum",)),
    Operator(
        "_C_cache_ops::concat_and_cache_mla(Tensor kv_c, Tensor k_pe, Tensor(a!) kv_cache, Tensor slot_mapping, "
        "str kv_cache_dtype, Tensor scale) -> ()",
        _passed_on("concat_and_cache_mla"),
        ("concat_and_cache_mla",),
    ),
    Operator(
        "_vllm_fa3_C::get_scheduler_metadata(int batch_size, int max_seqlen_q, int max_seqlen_k, int num_heads, "
        "int num_heads_k, int headdim, int headdim_v, ScalarType qkv_dtype, Tensor seqused_k, "
        "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, Tensor? cu_seqlens_k_new=None, "
        "Tensor? seqused_q=None, Tensor? leftpad_k=None, "
        "int? page_size=None, int max_seqlen_k_new=0, bool is_causal=False, int window_size_left=-1, "
        "int window_size_right=-1, bool has_softcap=False, int num_splits=0, bool? pack_gqa=None, int sm_margin=0) "
        "-> Tensor",
        _given_back("get_scheduler_metadata"),
        ("get_scheduler_metadata",),
        None,
    ),
)
