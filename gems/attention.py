"""Attention: of heads with gradients, of packed sequences and pages of keys, and over a latent cache.

The kernels are the rows `attention_*` of the table; these functions have the names and arguments under which programs
call them.
"""

from __future__ import annotations

import math
from typing import Any

from . import own

try:
    import torch
    from torch.autograd.function import once_differentiable
except ImportError:  # NumPy arrays alone
    torch = None  # type: ignore[assignment]

_forward = own.function("attention_forward")
_varlen = own.function("attention_varlen")


def _signed(number: int) -> int:
    """The bits of an unsigned 64-bit number as a signed one."""
    return number - 2**64 if number >= 2**63 else number


def _draw(query: Any, key: Any, dropout_p: float) -> tuple[int, int]:
    """Seed and offset of the numbers that dropout needs."""
    if not dropout_p:
        return 0, 0
    from .utils.random_utils import philox_backend_seed_offset

    generator = torch.default_generator if query.device.type == "cpu" else None
    seed, offset = philox_backend_seed_offset(-(-key.shape[-2] // 4) * 4, generator)
    return _signed(seed), offset


def _composed_backward(
    grad: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    logsumexp: Any,
    mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *drawn: int,
) -> tuple[Any, Any, Any]:
    """Gradients by matrix products, for head dimensions whose tiles no block has room for."""
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // key.shape[1]
    q, k, v, g = (t.to(wide) for t in (query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), grad))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = q @ k.transpose(-1, -2) * factor
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if is_causal:
        hidden = scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    softmax = torch.exp(scores - logsumexp.to(wide).unsqueeze(-1)).nan_to_num(0.0)
    weights = softmax
    if dropout_p:  # the forward kernel over the identity's columns shows what it took
        keys = key.shape[-2]
        columns = torch.eye(keys, dtype=query.dtype, device=query.device).expand(*key.shape[:2], keys, keys)
        options = (mask, dropout_p, is_causal, scale, enable_gqa, *drawn)
        parts = [_forward(query, key, part.contiguous(), *options)[0] for part in columns.split(64, -1)]
        weights = softmax * (torch.cat(parts, -1) != 0) / (1 - dropout_p)
    of_scores = factor * (weights * (g @ v.transpose(-1, -2)) - softmax * (g * out.to(wide)).sum(-1, keepdim=True))
    shared = (of_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ g)
    grads = (of_scores @ k, *(t.unflatten(1, (-1, group)).sum(2) for t in shared))
    return tuple(made.to(t.dtype) for made, t in zip(grads, (query, key, value), strict=True))  # type: ignore[return-value]


own.COMPOSED["attention_backward"] = _composed_backward
_backward = own.function("attention_backward")


def _refuse_mask_gradient(attn_mask: Any) -> None:
    if attn_mask is not None and attn_mask.requires_grad:
        raise NotImplementedError("scaled_dot_product_attention gives no gradient of attn_mask: detach it")


def _attend(query: Any, key: Any, value: Any, mask: Any, dropout_p: float, *rest: Any) -> tuple[Any, Any, int, int]:
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if dropout_p == 1:
        raise NotImplementedError("scaled_dot_product_attention with dropout_p=1, which leaves nothing")
    seed, offset = _draw(query, key, dropout_p)
    return (*_forward(query, key, value, mask, dropout_p, *rest, seed, offset), seed, offset)


if torch is not None:

    class ScaleDotProductAttention(torch.autograd.Function):
        """softmax(scale * Q K^T + mask) V, which saves the logsumexp of each row for its backward pass."""

        @staticmethod
        def forward(
            ctx: Any,
            query: Any,
            key: Any,
            value: Any,
            attn_mask: Any = None,
            dropout_p: float = 0.0,
            is_causal: bool = False,
            scale: float | None = None,
            enable_gqa: bool = False,
        ) -> Any:
            _refuse_mask_gradient(attn_mask)
            out, lse, *ctx.drawn = _attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
            ctx.save_for_backward(query, key, value, out, lse, attn_mask)
            ctx.options = (dropout_p, is_causal, scale, enable_gqa)
            return out

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Any) -> Any:
            query, key, value, out, lse, mask = ctx.saved_tensors
            grads = _backward(grad, query, key, value, out, lse, mask, *ctx.options, *ctx.drawn)
            return (*grads, *(None,) * (len(ctx.needs_input_grad) - 3))


def scaled_dot_product_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any]:
    """The result of `scaled_dot_product_attention`, and the natural logarithm of the sum of each row's exponentials.

    Parameters
    ----------
    query, key, value : Tensor
        [batch, heads, length, dim].
    attn_mask, dropout_p, is_causal, scale, enable_gqa
        As for `scaled_dot_product_attention`.

    Returns
    -------
    tuple of Tensor
        The result, and [batch, heads, length] in float32 (float64 for float64); -inf where a row sees no key. Keeps no
        gradient.
    """
    return _attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[:2]


def scaled_dot_product_attention_backward(
    do: Any,
    query: Any,
    key: Any,
    value: Any,
    o: Any,
    M: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, Any, Any]:
    """Gradients of query, key and value. Two calls give the same bits.

    Parameters
    ----------
    do, o : Tensor
        Gradient of the result, and the result.
    M : Tensor
        The logsumexp that `scaled_dot_product_attention_forward` gave.
    query, key, value, attn_mask, is_causal, scale, enable_gqa
        As they were.

    Raises
    ------
    NotImplementedError
        With dropout, whose places only `ScaleDotProductAttention` knows.
    """
    if dropout_p:
        raise NotImplementedError(
            "scaled_dot_product_attention_backward does not know what dropout took: use ScaleDotProductAttention"
        )
    return _backward(do, query, key, value, o, M, attn_mask, 0.0, is_causal, scale, enable_gqa)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(scale * Q K^T + mask) V in one kernel, with gradients. A row that sees no key is 0.

    Parameters
    ----------
    query, key, value : Tensor
        [..., length, dim], floating point, of one dtype; key and value of one length, value of any dim. Dimensions
        before them fit those of query or are 1.
    attn_mask : Tensor
        bool (True: is seen) or added to the scores; expands to [..., query length, key length]. Has no gradient.
    dropout_p : float
        Probability with which a weight becomes 0, below 1.
    is_causal : bool
        Position i sees the keys 0 to i. Not together with attn_mask.
    scale : float
        1 / sqrt(dim) when None.
    enable_gqa : bool
        The heads of query are a multiple of those of key and value, which are shared.

    Raises
    ------
    RuntimeError
        When shapes or dtypes do not fit.
    """
    if attn_mask is not None and is_causal:
        raise RuntimeError("scaled_dot_product_attention: attn_mask and is_causal exclude each other")
    if torch is None or not isinstance(query, torch.Tensor):
        return _forward(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]
    shape = query.shape
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4 or not query.shape[0] == key.shape[0] == value.shape[0]:
        query, key, value, attn_mask = _four(query, key, value, attn_mask, enable_gqa)
    options = (dropout_p, is_causal, scale, enable_gqa)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        out = ScaleDotProductAttention.apply(query, key, value, attn_mask, *options)
    else:
        out = _attend(query, key, value, attn_mask, *options)[0]
    return out if len(shape) == 4 else out.reshape(*shape[:-1], out.shape[-1])


def _four(query: Any, key: Any, value: Any, mask: Any, gqa: bool) -> tuple[Any, Any, Any, Any]:
    """Query, key, value and mask with four dimensions, and with the same ones before the heads."""
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise RuntimeError("scaled_dot_product_attention takes tensors of at least two dimensions")
    lead = 3 if gqa else 2
    outer = torch.broadcast_shapes(*(t.shape[:-lead] for t in (query, key, value)))
    query, key, value = (t.expand(*outer, *t.shape[-lead:]) for t in (query, key, value))
    if query.dim() > 4:
        if mask is not None and mask.dim() > 2:
            mask = mask.expand(*query.shape[:-2], *mask.shape[-2:]).reshape(-1, query.shape[-3], *mask.shape[-2:])
        query, key, value = (t.reshape(-1, *t.shape[-3:]) for t in (query, key, value))
    while query.dim() < 4:
        query, key, value = query[None], key[None], value[None]
    return query, key, value, mask


def flash_attn_varlen_func(
    q: Any,
    k: Any,
    v: Any,
    max_seqlen_q: int,
    cu_seqlens_q: Any,
    max_seqlen_k: int,
    cu_seqlens_k: Any = None,
    seqused_k: Any = None,
    q_v: Any = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Any = None,
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Any = None,
    return_softmax_lse: bool = False,
    out: Any = None,
    scheduler_metadata: Any = None,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    num_splits: int = 0,
    fa_version: int = 2,
) -> Any:
    """Attention of packed sequences. Keeps no gradient.

    Parameters
    ----------
    q : Tensor
        [total, heads, dim]; sequence i has the rows from cu_seqlens_q[i] on, up to cu_seqlens_q[i + 1].
    k, v : Tensor
        The same with cu_seqlens_k; or, with block_table, pages: [pages, page size, kv heads, dim]. The heads of q are a
        multiple of theirs.
    max_seqlen_q, max_seqlen_k : int
        No sequence is longer.
    seqused_k : Tensor
        int32: keys of each sequence that are seen, in place of what cu_seqlens_k says; pages need it.
    softmax_scale : float
        1 / sqrt(dim) when None.
    causal : bool
        The last query sees the last key, the one before it one less.
    window_size : (int, int)
        Keys that are seen to the left and to the right of a query's own place; -1: all.
    softcap : float
        Scores become softcap * tanh(score / softcap); 0: they stay.
    alibi_slopes : Tensor
        float32, [heads] or [batch, heads]: what is taken from a score for each place between query and key.
    block_table : Tensor
        int32, [batch, most pages]: the pages of each sequence in their order.
    return_softmax_lse : bool
        Gives the logsumexp too: [heads, total], inf where a row sees no key.
    out : Tensor
        Where the result is written.
    num_splits : int
        Parts of the keys; 0: as many as fill the device.
    deterministic, scheduler_metadata, q_descale, k_descale, v_descale, fa_version
        Accepted. Results are the same bits in every call; descales belong to 8-bit tensors, which are not taken.

    Raises
    ------
    NotImplementedError
        For q_v, dropout_p and return_attn_probs.
    RuntimeError
        When shapes or dtypes do not fit.
    """
    return _flash(
        q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k, seqused_k, softmax_scale, causal, window_size,
        softcap, alibi_slopes, block_table, return_softmax_lse, out, num_splits,
        {"q_v": q_v, "dropout_p": dropout_p, "return_attn_probs": return_attn_probs},
    )  # fmt: skip


def _flash(
    q: Any, k: Any, v: Any, max_seqlen_q: int, cu_seqlens_q: Any, max_seqlen_k: int, cu_seqlens_k: Any, seqused_k: Any,
    scale: float | None, causal: bool, window_size: Any, softcap: float, alibi_slopes: Any, block_table: Any, lse: bool,
    out: Any, num_splits: int, refused: dict[str, Any],
) -> Any:  # fmt: skip
    for name, value in refused.items():
        if value is not None and (not isinstance(value, (bool, int, float)) or value):
            raise NotImplementedError(f"flash_attn_varlen_func: {name} is not supported")
    if cu_seqlens_q is None:
        raise ValueError("flash_attn_varlen_func: cu_seqlens_q must be given")
    if cu_seqlens_k is None and seqused_k is None:
        raise ValueError("flash_attn_varlen_func: cu_seqlens_k or seqused_k must be given")
    if block_table is not None and seqused_k is None:
        raise ValueError("flash_attn_varlen_func: block_table needs seqused_k")
    left, right = (-1, -1) if window_size is None else window_size
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    args = (
        q, k, v, cu_seqlens_q, None if block_table is not None else cu_seqlens_k, seqused_k, block_table, alibi_slopes,
        max_seqlen_q, max_seqlen_k, scale, causal, left, right, softcap, num_splits,
    )  # fmt: skip
    if out is None:
        made = _varlen(*args)
    else:
        logs = torch.empty((q.shape[1], q.shape[0]), dtype=_log_dtype(q), device=q.device)
        made = _varlen(*args, out=out, lse=logs)
    return made if lse else made[0]


def flash_mla(
    q: Any,
    block_table: Any,
    blocked_k: Any,
    max_seqlen_pad: int,
    block_size: int,
    b: int,
    s_q: int,
    cache_seqlens: Any,
    h_q: int,
    h_kv: int,
    d: int,
    dv: int,
    causal: bool,
) -> Any:
    """Attention over a latent cache in pages, whose values are the first columns of its keys.

    Parameters
    ----------
    q : Tensor
        [b, s_q, h_q, d].
    block_table : Tensor
        int32, [b, pages of a sequence].
    blocked_k : Tensor
        [pages, block_size, h_kv, d].
    max_seqlen_pad : int
        No sequence is longer.
    cache_seqlens : Tensor
        int32, [b]: keys of each sequence.
    causal : bool
        The last query sees the last key.

    Returns
    -------
    Tensor of shape [b, s_q, h_q, dv]
    """
    pages = blocked_k.reshape(-1, block_size, h_kv, d)
    return _varlen(
        q.reshape(b, s_q, h_q, d), pages, pages[..., :dv], None, None, cache_seqlens, block_table, None, s_q,
        max_seqlen_pad, 1 / math.sqrt(d), causal, -1, -1,
    )[0]  # fmt: skip


def get_scheduler_metadata(
    batch_size: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_heads: int,
    num_heads_k: int,
    headdim: int,
    headdim_v: int,
    qkv_dtype: Any,
    seqused_k: Any,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    cu_seqlens_k_new: Any = None,
    seqused_q: Any = None,
    leftpad_k: Any = None,
    page_size: int | None = None,
    max_seqlen_k_new: int = 0,
    is_causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
    has_softcap: bool = False,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
) -> Any:
    """What a scheduler of `flash_attn_varlen_func` may know beforehand: int32, on the device of seqused_k.

    Element 0 is a counter, 0; element 1 + i the number of parts of sequence i's keys: at most num_splits where that is
    given, and no part of less than 256 keys. It is made for programs that hand it back as scheduler_metadata; the
    kernels here part the keys by themselves.
    """
    keys = seqused_k.to(torch.int32)
    most = num_splits if num_splits > 0 else 32
    metadata = torch.zeros(1 + batch_size, dtype=torch.int32, device=keys.device)
    metadata[1:] = ((keys + 255) // 256).clamp(min=1, max=most)
    return metadata


def _shape_forward(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    perm = torch._prims_common.compute_elementwise_output_logical_to_physical_perm(query)
    order = perm[0] if isinstance(perm, tuple) else perm
    if order[-1] != 3:
        order = (0, 1, 2, 3)
    out = torch.empty_permuted((*query.shape[:3], value.shape[3]), order, dtype=query.dtype, device=query.device)
    return out, query.new_empty(query.shape[:3], dtype=_log_dtype(query))


def _shape_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _shape_varlen(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
    *lead, length, heads, _ = q.shape
    lse = (*lead, heads, length)
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(lse, dtype=_log_dtype(q))


def _log_dtype(t: Any) -> Any:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


SHAPES = {
    "attention_forward": _shape_forward,
    "attention_backward": _shape_backward,
    "attention_varlen": _shape_varlen,
}

__all__ = [
    "flash_attn_varlen_func",
    "flash_mla",
    "get_scheduler_metadata",
    "scaled_dot_product_attention",
    "scaled_dot_product_attention_backward",
    "scaled_dot_product_attention_forward",
]
if torch is not None:
    __all__ += ["ScaleDotProductAttention"]
