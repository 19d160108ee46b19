"""Functions of rows of tokens: rotary embeddings, caches of keys and values."""

from __future__ import annotations

from typing import Any

from . import library, own

try:
    import torch
except ImportError:  # NumPy alone
    torch = None  # type: ignore[assignment]

_rotary = own.function("rotary_embedding")
_rotary_inplace = own.function("rotary_embedding_inplace")
_cache = own.function("reshape_and_cache")
_cache_flash = own.function("reshape_and_cache_flash")
_cache_mla = own.function("concat_and_cache_mla")
_group_quant = own.function("per_token_group_quant_fp8")


def _like(*tensors: Any) -> Any:
    return tuple(torch.empty_like(t) for t in tensors)


library.SHAPES["rotary_embedding"] = lambda q, k, *rest, **named: _like(q, k)
library.SHAPES["rotary_embedding_backward"] = lambda grad0, grad1, *rest, **named: _like(grad0, grad1)


def _quant_shapes(
    x: Any,
    group_size: int,
    eps: float = 1e-10,
    dtype: Any = None,
    column_major_scales: bool = False,
    scale_ue8m0: bool = False,
) -> Any:
    lead, groups = x.shape[:-1], x.shape[-1] // group_size
    made = torch.empty(x.shape, dtype=dtype or torch.float8_e4m3fn, device=x.device)
    if column_major_scales:
        return made, torch.empty((groups, *lead), dtype=torch.float32, device=x.device).movedim(0, -1)
    return made, torch.empty((*lead, groups), dtype=torch.float32, device=x.device)


library.SHAPES["per_token_group_quant_fp8"] = _quant_shapes


def _turn_back(operator: own.RowOperator) -> list[own.Step]:
    """The gradient of turning back is turning."""
    grads = own.grad_names(2, ("grad0", "grad1"))
    return [own.Step(_rotary, (*grads, "cos", "sin", "position_ids"), ("rotary_interleaved",), ("grad0", "grad1"))]


own.STEPS["rotary_embedding_backward"] = _turn_back


def _wants_gradient(*tensors: Any) -> bool:
    if torch is None or not torch.is_grad_enabled():
        return False
    return any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)


def _turned(x: Any, cos: Any, sin: Any, position_ids: Any, interleaved: bool) -> Any:
    """One of q and k by operators of torch: where cos or sin want a gradient."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if position_ids is None:
        cos, sin = cos[: x.shape[-3]], sin[: x.shape[-3]]
    else:
        tokens = x.shape[:-2]
        places = position_ids.long()
        places = places.reshape(tokens) if places.numel() == tokens.numel() else places.expand(tokens)
        cos, sin = cos[places], sin[places]
    cos, sin = cos.to(wide).unsqueeze(-2), sin.to(wide).unsqueeze(-2)
    turning = 2 * cos.shape[-1]
    head, rest = x[..., :turning].to(wide), x[..., turning:]
    if interleaved:
        a, b = head[..., 0::2], head[..., 1::2]
        made = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = head.chunk(2, -1)
        made = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((made.to(x.dtype), rest), -1)


def apply_rotary_pos_emb(
    q: Any,
    k: Any,
    cos: Any,
    sin: Any,
    position_ids: Any = None,
    rotary_interleaved: bool = False,
    inplace: bool = False,
) -> Any:
    """Rotary position embedding of q and k in one kernel.

    Parameters
    ----------
    q, k : Tensor [batch, sequence, heads, dim] or [tokens, heads, dim]
        Of one dtype; the number of heads may differ. What lies beyond the rotary dim is kept.
    cos, sin : Tensor [positions, rotary dim / 2]
    position_ids : Tensor of int32 or int64, [batch, sequence] or [tokens]
        The rows of cos and sin; without them the places in the sequence.
    rotary_interleaved : bool
        Pairs are neighbours instead of an element of either half.
    inplace : bool
        Writes to q and k, which are given back.

    Returns
    -------
    (Tensor, Tensor)
        q and k, turned. Computed in float32, or float64 where they are.

    Raises
    ------
    IndexError
        When a position is out of range, on a CPU; a GPU stops with a device-side assertion.
    RuntimeError
        For shapes or dtypes that do not fit.
    """
    lead = q.ndim - 4
    if lead > 0 and not inplace:
        flat = [t.reshape(-1, *t.shape[-3:]) for t in (q, k)]
        places = None if position_ids is None else position_ids.reshape(-1, position_ids.shape[-1])
        made = apply_rotary_pos_emb(*flat, cos, sin, places, rotary_interleaved)
        return tuple(new.reshape(old.shape) for new, old in zip(made, (q, k), strict=True))
    if inplace and not _wants_gradient(q, k, cos, sin):
        _rotary_inplace(q, k, cos, sin, position_ids, rotary_interleaved)
        return q, k
    if _wants_gradient(cos, sin):
        made = tuple(_turned(x, cos, sin, position_ids, rotary_interleaved) for x in (q, k))
    else:
        made = _rotary(q, k, cos, sin, position_ids, rotary_interleaved)
    return tuple(old.copy_(new) for old, new in zip((q, k), made, strict=True)) if inplace else made


def _as_scale(scale: Any) -> Any:
    """A scale given as a number, as the kernel takes it."""
    return torch.tensor(float(scale)) if isinstance(scale, (int, float)) and torch is not None else scale


def reshape_and_cache(
    key: Any,
    value: Any,
    key_cache: Any,
    value_cache: Any,
    slot_mapping: Any,
    kv_cache_dtype: str,
    k_scale: Any,
    v_scale: Any,
) -> None:
    """Writes keys and values to the slots of a paged cache, in one kernel.

    Parameters
    ----------
    key, value : Tensor [tokens, heads, head size]
    key_cache : Tensor [blocks, heads, head size / x, block size, x], written
    value_cache : Tensor [blocks, heads, head size, block size], written
    slot_mapping : Tensor [tokens] of int32 or int64
        A token's slot, counted through all blocks; a token whose slot is below 0 is not written. It may be shorter than
        key: padding behind it is not written either.
    kv_cache_dtype : str
        "auto": as they are. "fp8", "fp8_e4m3", "fp8_e5m2": divided by the scale, saturated, rounded to nearest even;
        the caches are of uint8, or of the dtype itself.
    k_scale, v_scale : Tensor of one float32 element, or float, or None for 1
        Read for fp8 alone.

    Raises
    ------
    IndexError
        When a slot is beyond the cache, on a CPU; a GPU stops with a device-side assertion.
    RuntimeError
        For shapes, dtypes or words that do not fit.
    """
    _cache(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, _as_scale(k_scale), _as_scale(v_scale))


def reshape_and_cache_flash(
    key: Any,
    value: Any,
    key_cache: Any,
    value_cache: Any,
    slot_mapping: Any,
    kv_cache_dtype: str,
    k_scale: Any,
    v_scale: Any,
) -> None:
    """Writes keys and values to the slots of caches [blocks, block size, heads, head size]; the rest is as in
    `reshape_and_cache`."""
    _cache_flash(
        key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, _as_scale(k_scale), _as_scale(v_scale)
    )


def concat_and_cache_mla(
    kv_c: Any, k_pe: Any, kv_cache: Any, slot_mapping: Any, kv_cache_dtype: str, scale: Any
) -> None:
    """Writes latent rows and their rotary parts side by side to the slots of a cache, in one kernel.

    Parameters
    ----------
    kv_c : Tensor [tokens, latent size]
    k_pe : Tensor [tokens, rotary size]
    kv_cache : Tensor [blocks, block size, latent size + rotary size], written
    slot_mapping, kv_cache_dtype, scale
        As in `reshape_and_cache`.
    """
    _cache_mla(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, _as_scale(1 if scale is None else scale))


def per_token_group_quant_fp8(
    x: Any,
    group_size: int,
    eps: float = 1e-10,
    dtype: Any = None,
    column_major_scales: bool = False,
    scale_ue8m0: bool = False,
) -> Any:
    """Rounds groups of neighbouring elements to fp8, with a scale each, in one kernel. Keeps no gradient.

    Parameters
    ----------
    x : Tensor [..., n] of float16, bfloat16 or float32
    group_size : int
        Divides n.
    eps : float
        The least magnitude that a group's largest element counts for.
    dtype : torch.dtype
        float8_e4m3fn, which None stands for, or float8_e5m2.
    column_major_scales : bool
        The scales of all rows lie one behind another, group by group.
    scale_ue8m0 : bool
        Scales are rounded up to powers of two.

    Returns
    -------
    (Tensor [..., n], Tensor [..., n / group_size] of float32)
        What x is divided by its scale, saturated and rounded to nearest even; the scales.

    Raises
    ------
    RuntimeError
        For sizes or dtypes that do not fit.
    """
    if torch is not None and isinstance(x, torch.Tensor):
        x = x.detach()
    return _group_quant(x, group_size, eps, dtype, column_major_scales, scale_ue8m0)


__all__ = [
    "apply_rotary_pos_emb",
    "concat_and_cache_mla",
    "per_token_group_quant_fp8",
    "reshape_and_cache",
    "reshape_and_cache_flash",
]
