"""The operators of `torch.ops.flag_gems` that stand for aten's: each calls the explicit function of flag_gems.ops.

They are composite: fake tensors, gradients, torch.compile and transforms see the aten operator inside, and a call runs
this package's kernel whether operators are enabled or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import attention, ops
from .expressions.torch_rules import seen_by_modes


def _same(name: str) -> Callable[..., Any]:
    """The explicit function of a name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(ops, name)(*args, **kwargs)

    call.__name__ = name
    return call


def _fill(self: Tensor, value: Any) -> Tensor:
    return ops.fill_(torch.empty_like(self), value)


def _max_dim_max(self: Tensor, dim: int, keepdim: bool = False, *, max: Tensor, max_values: Tensor) -> Any:
    values, indices = ops.max(self, dim, keepdim)
    for out, result in ((max, values), (max_values, indices)):
        if out.shape != result.shape:
            out.resize_(result.shape)
        ops.copy_(out, result)
    return max, max_values


def _exponential_(x: Tensor, lambd: float = 1.0, *, gen: Any = None) -> Tensor:
    if gen is None and seen_by_modes([x]):  # the numbers of a compiled program are this kernel's too
        return x.copy_(torch.ops.flag_gems.exponential(x.detach(), lambd))
    return ops.exponential_(x, lambd, generator=gen)


def _exponential(x: Tensor, lambd: float = 1.0) -> Tensor:
    return ops.exponential_(torch.empty_like(x), lambd)


def _zeros(
    size: list[int], dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: bool | None = None
) -> Tensor:
    return ops.zeros(size, dtype=dtype, layout=layout, device=device, pin_memory=pin_memory)


def _softmax(input: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return ops._softmax(input, dim, half_to_float)


def _softmax_backward(grad_output: Tensor, output: Tensor, dim: int, input_dtype: Any) -> Tensor:
    return ops._softmax_backward_data(grad_output, output, dim, input_dtype)


def _embedding_backward(
    grad_outputs: Tensor,
    indices: Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> Tensor:
    if sparse:
        raise NotImplementedError("flag_gems::embedding_backward gives no sparse gradients")
    return ops.embedding_dense_backward(grad_outputs, indices, num_weights, padding_idx, scale_grad_by_freq)


def _contiguous(self: Tensor, *, memory_format: Any = torch.contiguous_format) -> Tensor:
    if self.is_contiguous(memory_format=memory_format):
        return self.view_as(self)
    return ops.clone(self, memory_format=memory_format)


def _flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, max_seqlen_q: int, cu_seqlens_q: Tensor, max_seqlen_k: int,
    cu_seqlens_k: Any = None, seqused_k: Any = None, q_v: Any = None, dropout_p: float = 0.0,
    softmax_scale: float | None = None, causal: bool = False, window_size: Any = None, softcap: float = 0.0,
    alibi_slopes: Any = None, deterministic: bool = False, return_attn_probs: bool = False, block_table: Any = None,
    return_softmax_lse: bool = False, out: Any = None, scheduler_metadata: Any = None, q_descale: Any = None,
    k_descale: Any = None, v_descale: Any = None, s_aux: Any = None, num_splits: int = 0, cp_world_size: int = 1,
    cp_rank: int = 0, cp_tot_seqused_k: Any = None, fa_version: int = 2,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    refused = {
        "q_v": q_v, "dropout_p": dropout_p, "return_attn_probs": return_attn_probs, "s_aux": s_aux,
        "cp_world_size": cp_world_size - 1,
    }  # fmt: skip
    return attention._flash(
        q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k, seqused_k, softmax_scale, causal, window_size,
        softcap, alibi_slopes, block_table, True, out, num_splits, refused,
    )  # fmt: skip


_BINARY = "(Tensor self, Tensor other) -> Tensor"
_BINARY_ = "(Tensor(a!) self, Tensor other) -> Tensor(a!)"
_MODE = "(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor"
_MODE_ = "(Tensor(a!) self, Tensor other, *, str? rounding_mode) -> Tensor(a!)"

# Operators that torch does not see through, for those that stand for random ones: schema, kernel, fake kernel.
OPAQUE: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "exponential": (
        "(Tensor x, float lambd=1.0) -> Tensor",
        _exponential,
        lambda x, lambd=1.0: torch.empty_like(x),
    ),
}

OPERATORS: dict[str, tuple[str, Callable[..., Any]]] = {
    "add_tensor": ("(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor", _same("add")),
    "add_tensor_inplace": ("(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)", _same("add_")),
    "add_scalar": ("(Tensor self, Scalar other, Scalar alpha=1) -> Tensor", _same("add")),
    "add_scalar_inplace": ("(Tensor(a!) self, Scalar other, Scalar alpha=1) -> Tensor(a!)", _same("add_")),
    "div.Tensor": (_BINARY, _same("div")),
    "div_.Tensor": (_BINARY_, _same("div_")),
    "div.Tensor_mode": (_MODE, _same("div")),
    "div_.Tensor_mode": (_MODE_, _same("div_")),
    "divide.Tensor": (_BINARY, _same("div")),
    "divide_.Tensor": (_BINARY_, _same("div_")),
    "divide.Tensor_mode": (_MODE, _same("div")),
    "divide_.Tensor_mode": (_MODE_, _same("div_")),
    "true_divide.Tensor": (_BINARY, _same("div")),
    "true_divide_.Tensor": (_BINARY_, _same("div_")),
    "floor_divide": (_BINARY, _same("floor_divide")),
    "floor_divide_.Tensor": (_BINARY_, _same("floor_divide_")),
    "remainder.Tensor": (_BINARY, _same("remainder")),
    "remainder_.Tensor": (_BINARY_, _same("remainder_")),
    "mm": ("(Tensor self, Tensor mat2) -> Tensor", _same("mm")),
    "bmm": ("(Tensor self, Tensor mat2) -> Tensor", _same("bmm")),
    "rwkv_mm_sparsity": ("(Tensor k, Tensor v) -> Tensor", lambda k, v: ops.mv(v.t(), k)),
    "addmm": (
        "(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
        _same("addmm"),
    ),
    "zeros": (
        "(SymInt[] size, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) "
        "-> Tensor",
        _zeros,
    ),
    "sum": ("(Tensor self, *, ScalarType? dtype=None) -> Tensor", _same("sum")),
    "sum.dim_IntList": (
        "(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor",
        _same("sum"),
    ),
    "max": ("(Tensor self) -> Tensor", _same("max")),
    "max.dim": ("(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", _same("max")),
    "max.dim_max": (
        "(Tensor self, int dim, bool keepdim=False, *, Tensor(a!) max, Tensor(b!) max_values) -> "
        "(Tensor(a!) values, Tensor(b!) indices)",
        _max_dim_max,
    ),
    "argmax": ("(Tensor self, int? dim=None, bool keepdim=False) -> Tensor", _same("argmax")),
    "fill.Scalar": ("(Tensor self, Scalar value) -> Tensor", _fill),
    "fill.Tensor": ("(Tensor self, Tensor value) -> Tensor", _fill),
    "fill_.Scalar": ("(Tensor(a!) self, Scalar value) -> Tensor(a!)", _same("fill_")),
    "fill_.Tensor": ("(Tensor(a!) self, Tensor value) -> Tensor(a!)", _same("fill_")),
    "copy_": ("(Tensor(a!) dst, Tensor src, bool non_blocking=False) -> Tensor(a!)", _same("copy_")),
    "to_copy": (
        "(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, "
        "bool non_blocking=False, MemoryFormat? memory_format=None) -> Tensor",
        _same("_to_copy"),
    ),
    "cat": ("(Tensor[] tensors, int dim=0) -> Tensor", _same("cat")),
    "contiguous": (
        "(Tensor(a) self, *, MemoryFormat memory_format=contiguous_format) -> Tensor(a)",
        _contiguous,
    ),
    "softmax": ("(Tensor input, int dim, bool half_to_float=False) -> Tensor", _softmax),
    "softmax_backward": (
        "(Tensor grad_output, Tensor output, int dim, ScalarType input_dtype) -> Tensor",
        _softmax_backward,
    ),
    "embedding": (
        "(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False) "
        "-> Tensor",
        _same("embedding"),
    ),
    "embedding_backward": (
        "(Tensor grad_outputs, Tensor indices, SymInt num_weights, SymInt padding_idx, bool scale_grad_by_freq, "
        "bool sparse) -> Tensor",
        _embedding_backward,
    ),
    "exponential_": (
        "(Tensor(a!) x, float lambd=1.0, *, Generator? gen=None) -> Tensor(a!)",
        _exponential_,
    ),
    "flash_attn_varlen_func": (
        "(Tensor q, Tensor k, Tensor v, SymInt max_seqlen_q, Tensor cu_seqlens_q, SymInt max_seqlen_k, "
        "Tensor? cu_seqlens_k=None, Tensor? seqused_k=None, Tensor? q_v=None, float dropout_p=0.0, "
        "float? softmax_scale=None, bool causal=False, SymInt[]? window_size=None, float softcap=0.0, "
        "Tensor? alibi_slopes=None, bool deterministic=False, bool return_attn_probs=False, "
        "Tensor? block_table=None, bool return_softmax_lse=False, Tensor? out=None, "
        "Tensor? scheduler_metadata=None, Tensor? q_descale=None, Tensor? k_descale=None, Tensor? v_descale=None, "
        "Tensor? s_aux=None, SymInt num_splits=0, SymInt cp_world_size=1, SymInt cp_rank=0, "
        "Tensor? cp_tot_seqused_k=None, SymInt fa_version=2) -> (Tensor, Tensor)",
        _flash_attn_varlen_func,
    ),
    "nonzero": ("(Tensor self) -> Tensor", _same("nonzero")),
    "topk": ("(Tensor x, SymInt k, int dim, bool largest, bool sorted) -> (Tensor, Tensor)", _same("topk")),
    "sort": ("(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)", _same("sort")),
    "sort.stable": (
        "(Tensor self, *, bool? stable, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)",
        _same("sort"),
    ),
}
