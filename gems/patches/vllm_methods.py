"""Methods of vLLM's layers by functions of this package. One gives NotImplemented where vLLM's own is to run."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import flag_gems
import torch
from torch import Tensor


@dataclass(frozen=True)
class Method:
    """What is replaced: an attribute of a class, or of a module where owner is empty.

    Attributes
    ----------
    modules : tuple of str
        Where it may be, by the version of vLLM; the first that has it is meant.
    function : callable
        Takes what the method takes.
    needs : tuple of str
        The functions of flag_gems that it calls.
    """

    modules: tuple[str, ...]
    owner: str
    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.owner or self.modules[0].rpartition('.')[2]}.{self.name}"


def function(name: str) -> Callable[..., Any]:
    """A function of this package: of its top level, or of its modules."""
    found = getattr(flag_gems, name, None) or getattr(flag_gems.modules, name, None)
    if found is None:
        raise NotImplementedError(f"flag_gems has no {name}")
    return found


def missing(needs: Collection[str]) -> list[str]:
    """The functions that this package does not have."""
    return [name for name in needs if not (hasattr(flag_gems, name) or hasattr(flag_gems.modules, name))]


def wants_one_order() -> bool:
    """vLLM is asked for the same bits whatever is in a batch, for which it has kernels of its own."""
    try:
        return bool(importlib.import_module("vllm.envs").VLLM_BATCH_INVARIANT)
    except (ImportError, AttributeError):
        return False


# ---- layers ----


def _rms_norm(self: Any, x: Tensor, residual: Tensor | None = None) -> Any:
    if getattr(self, "variance_size_override", None) is not None or not getattr(self, "has_weight", True):
        return NotImplemented
    return function("gems_rms_forward")(x, residual, self.weight.data, self.variance_epsilon)


def _headed(x: Tensor, positions: Tensor, head_size: int) -> Tensor:
    """[..., heads * head size] as [..., heads, head size]."""
    return x if x.dim() == positions.dim() + 2 else x.unflatten(-1, (-1, head_size))


def _rotary_embedding(
    self: Any, positions: Tensor, query: Tensor, key: Tensor | None = None, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    if offsets is not None:
        positions = positions + offsets.view_as(positions)
    if positions.dim() > 2 or query.shape[: positions.dim()] != positions.shape:
        return NotImplemented
    table = self.cos_sin_cache
    if table.device != query.device:
        self.cos_sin_cache = table = table.to(query.device)
    cos, sin = table.chunk(2, -1)
    q = _headed(query, positions, self.head_size)
    k = q[..., :0, :] if key is None else _headed(key, positions, self.head_size)
    function("apply_rotary_pos_emb")(q, k, cos, sin, positions, not self.is_neox_style, True)
    return query, key


def _silu_and_mul(self: Any, x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return function("silu_and_mul")(x[..., :half], x[..., half:])


# ---- attention ----


def _write_to_paged_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Any,
    v_scale: Any,
    interleaved_v: bool = False,
) -> Any:
    if interleaved_v:
        return NotImplemented
    function("reshape_and_cache")(
        key, value, key_cache, value_cache, slot_mapping.flatten(), kv_cache_dtype, k_scale, v_scale
    )
    return None


# What metadata says of masks that a decoder's plain attention has not.
_SPECIAL = ("use_cascade", "cascade", "common_prefix_len")
_MASKS = ("mm_prefix_query_range_tensor", "rswa_prefix_lens")


def _is_plain(layer: Any, metadata: Any, output_scales: Collection[Any]) -> bool:
    """Decoder attention of a layer with a cache of its own that is not quantised, without a shared prefix."""
    kind = str(getattr(layer, "attn_type", "decoder")).lower()
    return (
        kind.endswith("decoder")
        and "encoder" not in kind
        and getattr(layer, "kv_cache_dtype", "auto") == "auto"
        and getattr(layer, "kv_sharing_target_layer_name", None) is None
        and getattr(layer, "sinks", None) is None
        and not getattr(layer, "dcp_world_size", 1) > 1
        and getattr(metadata, "causal", True) is True
        and not any(getattr(metadata, name, None) for name in _SPECIAL)
        and all(getattr(metadata, name, None) is None for name in _MASKS)
        and all(scale is None for scale in output_scales)
    )


def _flash_attention(
    self: Any,
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_cache: Tensor,
    attn_metadata: Any,
    output: Tensor | None = None,
    output_scale: Tensor | None = None,
    output_block_scale: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    if output is None or attn_metadata is None or kwargs or not isinstance(kv_cache, Tensor):
        return NotImplemented
    if not _is_plain(self, attn_metadata, (output_scale, output_block_scale)):
        return NotImplemented
    tokens = attn_metadata.num_actual_tokens
    if kv_cache.dim() == 5 and kv_cache.shape[0] == 2:  # [keys and values, blocks, block size, heads, size]
        key_cache, value_cache = kv_cache.unbind(0)
        function("reshape_and_cache_flash")(
            key[:tokens],
            value[:tokens],
            key_cache,
            value_cache,
            attn_metadata.slot_mapping[:tokens],
            self.kv_cache_dtype,
            getattr(layer, "_k_scale", None),
            getattr(layer, "_v_scale", None),
        )
    elif kv_cache.dim() == 4 and kv_cache.shape[-1] == 2 * query.shape[-1]:
        # A later vLLM: [blocks, heads, block size, keys and values], which another of its methods writes.
        key_cache, value_cache = kv_cache.transpose(1, 2).split(query.shape[-1], dim=-1)
    else:
        return NotImplemented
    made = function("flash_attn_varlen_func")(
        query[:tokens],
        key_cache,
        value_cache,
        attn_metadata.max_query_len,
        attn_metadata.query_start_loc,
        attn_metadata.max_seq_len,
        seqused_k=attn_metadata.seq_lens,
        softmax_scale=self.scale,
        causal=True,
        window_size=list(self.sliding_window or (-1, -1)),
        softcap=getattr(self, "logits_soft_cap", 0.0) or 0.0,
        alibi_slopes=self.alibi_slopes,
        block_table=attn_metadata.block_table,
    )
    made = made[0] if isinstance(made, tuple) else made
    output[:tokens].view_as(made).copy_(made)
    return output


def _latent(self: Any, q: Tensor, cache: Tensor, metadata: Any) -> Any:
    """Attention of one token each over a cache of latent rows: [tokens, heads, latent size]."""
    decode = metadata.decode
    tokens, heads, size = q.shape
    wide = int(self.kv_lora_rank)
    q = q * (self.scale * math.sqrt(size))  # flash_mla divides by the root of the size
    most = decode.block_table.shape[1] * cache.shape[1]
    made = function("flash_mla")(
        q.unsqueeze(1),
        decode.block_table,
        cache.unsqueeze(2),
        most,
        cache.shape[1],
        tokens,
        1,
        decode.seq_lens,
        heads,
        1,
        size,
        wide,
        True,
    )
    made = made[0] if isinstance(made, tuple) else made
    return made.reshape(tokens, heads, wide)


def _latent_plain(self: Any) -> bool:
    quantised = getattr(self, "kv_cache_dtype", "auto") != "auto"
    return not quantised and not getattr(self, "need_to_return_lse_for_decode", False)


def _triton_mla(self: Any, q_nope: Tensor, q_pe: Tensor, kv_c_and_k_pe_cache: Tensor, attn_metadata: Any) -> Any:
    if not isinstance(q_pe, Tensor) or not isinstance(kv_c_and_k_pe_cache, Tensor):
        return NotImplemented  # a later vLLM, with other parameters
    finish = getattr(self, "_v_up_proj_and_o_proj", None) or getattr(self, "_v_up_proj", None)
    if finish is None or not _latent_plain(self) or kv_c_and_k_pe_cache.numel() == 0:
        return NotImplemented
    return finish(_latent(self, torch.cat((q_nope, q_pe), -1), kv_c_and_k_pe_cache, attn_metadata))


def _latent_decode(self: Any, q: Any, kv_c_and_k_pe_cache: Tensor, attn_metadata: Any, layer: Any) -> Any:
    decode = attn_metadata.decode
    if isinstance(q, tuple):
        q = torch.cat(q, -1)
    one_each = getattr(decode, "max_query_len", 1) == 1 and q.shape[0] == decode.block_table.shape[0]
    if not one_each or not _latent_plain(self):
        return NotImplemented
    return _latent(self, q, kv_c_and_k_pe_cache, attn_metadata), None


def _vit_attention(q: Tensor, k: Tensor, v: Tensor, seqlens: Any) -> Tensor:
    """Attention within each picture: [1, tokens, heads, size] to [tokens, 1, heads * size]."""
    if q.dim() != 4 or q.shape[0] != 1:
        return NotImplemented
    lengths = seqlens.tolist() if isinstance(seqlens, Tensor) else list(seqlens)
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=q.device)
    most = max(lengths, default=0)
    made = function("flash_attn_varlen_func")(q[0], k[0], v[0], most, starts, most, cu_seqlens_k=starts, causal=False)
    made = made[0] if isinstance(made, tuple) else made
    return made.reshape(q.shape[1], 1, -1)


_LAYERS = "vllm.model_executor.layers"
_BACKENDS = "vllm.v1.attention.backends"

METHODS = (
    Method((f"{_LAYERS}.layernorm",), "RMSNorm", "forward_cuda", _rms_norm, ("gems_rms_forward",)),
    Method(
        (f"{_LAYERS}.rotary_embedding", f"{_LAYERS}.rotary_embedding.base"),
        "RotaryEmbedding",
        "forward_cuda",
        _rotary_embedding,
        ("apply_rotary_pos_emb",),
    ),
    Method(
        ("vllm.attention.ops.paged_attn", "vllm.v1.attention.ops.paged_attn"),
        "PagedAttention",
        "write_to_paged_cache",
        _write_to_paged_cache,
        ("reshape_and_cache",),
    ),
    Method((f"{_LAYERS}.activation",), "SiluAndMul", "forward_cuda", _silu_and_mul, ("silu_and_mul",)),
    Method(
        (f"{_BACKENDS}.mla.triton_mla", "vllm.attention.backends.triton_mla"),
        "TritonMLAImpl",
        "_forward_decode",
        _triton_mla,
        ("flash_mla",),
    ),
    Method(
        (f"{_BACKENDS}.flash_attn",),
        "FlashAttentionImpl",
        "forward",
        _flash_attention,
        ("reshape_and_cache_flash", "flash_attn_varlen_func"),
    ),
    Method((f"{_BACKENDS}.mla.flashattn_mla",), "FlashAttnMLAImpl", "_forward_decode", _latent_decode, ("flash_mla",)),
    # Later names of the two.
    Method((f"{_BACKENDS}.mla.triton_mla",), "TritonMLAImpl", "forward_mqa", _latent_decode, ("flash_mla",)),
    Method((f"{_BACKENDS}.mla.flashattn_mla",), "FlashAttnMLAImpl", "forward_mqa", _latent_decode, ("flash_mla",)),
    Method(
        ("vllm.attention.ops.vit_attn_wrappers", "vllm.v1.attention.ops.vit_attn_wrappers"),
        "",
        "vit_xformers_attn_wrapper",
        _vit_attention,
        ("flash_attn_varlen_func",),
    ),
)
