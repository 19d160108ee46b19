"""Fused functions along rows: norms with what stands before or after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import _C, library, ops, own

_skip_layer_norm = own.function("skip_layer_norm")
_fused_add_rms_norm = own.function("fused_add_rms_norm")
_rwkv_ka_fusion = own.function("rwkv_ka_fusion")
_HAS_TORCH: bool = _C.has_torch()  # not asked in a call, which torch.compile may trace


def _wants_gradient(*args: Any) -> bool:
    """True when autograd is to record what is made of these."""
    if not _HAS_TORCH:
        return False
    import torch

    return torch.is_grad_enabled() and any(getattr(a, "requires_grad", False) for a in args)


def _forced(function: Callable[..., Any], *parts: str) -> Callable[..., Any]:
    """A function of torch with our kernels for the aten operators `parts`, whether they are enabled or not."""
    registered: list[bool] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not registered:
            from . import overrides

            overrides.register_for_good([e["index"] for e in _C.entries() if e["name"].split(".")[0] in parts])
            registered.append(True)
        return _C.forced(function, *args, **kwargs)

    return call


# ---- the sum of two tensors, normalised ----


def _composed_skip_layer_norm(
    x: Any, residual: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float = 1e-05
) -> Any:
    return _layer_norm(x + residual, list(normalized_shape), weight, bias, eps)


def _layer_norm(*args: Any) -> Any:
    import torch

    return torch.nn.functional.layer_norm(*args)


def _composed_fused_add_rms_norm(input: Any, residual: Any, weight: Any, epsilon: float) -> None:
    import torch

    total = input + residual
    input.copy_(torch.nn.functional.rms_norm(total, tuple(weight.shape), weight, epsilon))
    residual.copy_(total)


def _composed_rms_norm(input: Any, weight: Any, epsilon: float) -> Any:
    import torch

    wide = torch.promote_types(input.dtype, torch.float32)
    x = input.to(wide)
    square = x.square().mean([*range(-weight.ndim, 0)], keepdim=True)
    return (x * torch.rsqrt(square + epsilon) * weight).to(input.dtype)


def _gradients(composed: Callable[..., Any], grads: Sequence[Any], tensors: Sequence[Any], rest: Sequence[Any]) -> Any:
    """The gradients of composed(*tensors, *rest) in its tensors, as operators that autograd records; None of None."""
    import torch

    with torch.enable_grad():
        inputs = [t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]
        made = composed(*inputs, *rest)
        given = [t for t in inputs if t is not None]
        made = (made,) if isinstance(made, torch.Tensor) else made
        found = iter(torch.autograd.grad(made, given, grads, create_graph=True))
        return tuple(None if t is None else next(found) for t in inputs)


def _composed_skip_layer_norm_backward(
    grad: Any,
    x: Any,
    residual: Any,
    weight: Any,
    bias: Any,
    normalized_shape: Sequence[int],
    eps: float = 1e-05,
) -> Any:
    def forward(x: Any, residual: Any, weight: Any, bias: Any) -> Any:
        return _composed_skip_layer_norm(x, residual, normalized_shape, weight, bias, eps)

    return _gradients(forward, [grad], [x, residual, weight, bias], [])


def _composed_rms_norm_backward(grad: Any, input: Any, weight: Any, epsilon: float) -> Any:
    return _gradients(_composed_rms_norm, [grad], [input, weight], [epsilon])


def _like(t: Any) -> Any:
    import torch

    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


own.COMPOSED["skip_layer_norm"] = _composed_skip_layer_norm
own.COMPOSED["rms_norm"] = _composed_rms_norm
own.COMPOSED["skip_layer_norm_backward"] = _composed_skip_layer_norm_backward
own.COMPOSED["rms_norm_backward"] = _composed_rms_norm_backward
library.SHAPES["skip_layer_norm_backward"] = lambda grad, x, residual, weight, bias, *_, **__: tuple(
    None if t is None else _like(t) for t in (x, residual, weight, bias)
)
library.SHAPES["rms_norm_backward"] = lambda grad, input, weight, *_, **__: (_like(input), _like(weight))
library.SHAPES["rms_norm"] = lambda input, *_, **__: _like(input)
own.COMPOSED["fused_add_rms_norm"] = _composed_fused_add_rms_norm
library.SHAPES["skip_layer_norm"] = lambda x, *_, **__: _like(x)


def skip_layer_norm(
    x: Any, residual: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float = 1e-05
) -> Any:
    """layer_norm(x + residual) in one kernel; the sum is rounded to the dtype of x.

    Parameters
    ----------
    x, residual : Tensor or ndarray
        Floating point, of one shape.
    normalized_shape : sequence of int
        The last dimensions of x, over which is normalised.
    weight, bias : Tensor of shape normalized_shape, or None
    eps : float
        Is added to the variance.
    """
    return _skip_layer_norm(x, residual, list(normalized_shape), weight, bias, eps)


def fused_add_rms_norm(
    x: Any, residual: Any, normalized_shape: Sequence[int], weight: Any, eps: float = 1e-05
) -> tuple[Any, Any]:
    """In place and in one kernel: residual becomes x + residual, then x becomes rms_norm(residual) * weight.

    The sum is rounded to the dtype of x; mean squares are taken in float32, of float64 in that. Where a gradient is
    wanted, the same is done by operators that autograd records.

    Parameters
    ----------
    x, residual : Tensor or ndarray
        Floating point, of one shape.
    normalized_shape : sequence of int
        The last dimensions of x, over which is normalised.
    weight : Tensor of shape normalized_shape
    eps : float
        Is added to the mean square.

    Returns
    -------
    x, residual : the tensors that were given

    Raises
    ------
    ValueError
        When the weight has another shape than normalized_shape.
    """
    if tuple(weight.shape) != tuple(normalized_shape):
        raise ValueError(f"fused_add_rms_norm: a weight of shape {tuple(weight.shape)} for {tuple(normalized_shape)}")
    if _wants_gradient(x, residual, weight):
        total = ops.add(x, residual)
        normed = ops.rms_norm(total, list(normalized_shape), weight, eps)
        residual.copy_(total)
        x.copy_(normed)
    else:
        _fused_add_rms_norm(x, residual, weight, eps)
    return x, residual


# ---- norms over channels, of weights, of running sums ----


def instance_norm(
    input: Any,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
    cudnn_enable: bool = False,
) -> Any:
    """Normalisation of each channel of each sample.

    Without running statistics it is group_norm with a group for each channel; with them, and with input statistics, it
    is what torch makes of it: batch_norm of samples and channels as one dimension, so that running statistics move by
    the mean over samples. By running statistics alone it is batch_norm.

    Parameters
    ----------
    input : Tensor of shape [N, C, ...]
    weight, bias, running_mean, running_var : Tensor of shape [C], or None
    use_input_stats : bool
        Whether mean and variance are those of the input.
    momentum : float
        The part of the new statistics in the running ones.
    eps : float
        Is added to the variance.
    cudnn_enable : bool
        Is not used.

    Returns
    -------
    Tensor of the input's shape, contiguous

    Raises
    ------
    RuntimeError
        As torch.instance_norm does.
    """
    import torch

    if running_mean is None and running_var is None and use_input_stats and input.ndim >= 3 and input.numel():
        return _group_norm(input.contiguous(), input.shape[1], weight, bias, eps, False)
    if not use_input_stats and running_mean is not None and running_var is not None and input.ndim >= 2:
        args = (input.contiguous(), weight, bias, running_mean, running_var, False, momentum, eps, False)
        return _batch_norm(*args)
    if not _instance_norm_of_torch:
        _instance_norm_of_torch.append(_forced(torch.instance_norm, *_BATCH_NORM))
    args = (input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, False)
    return _instance_norm_of_torch[0](*args)


_BATCH_NORM = (
    "native_batch_norm",
    "native_batch_norm_backward",
    "_native_batch_norm_legit",
    "repeat",
    "mean",
    "copy_",
)
_instance_norm_of_torch: list[Callable[..., Any]] = []


def _group_norm(*args: Any) -> Any:
    import torch

    return _GROUP(torch.group_norm, *args)


def _batch_norm(*args: Any) -> Any:
    import torch

    return _BATCH(torch.batch_norm, *args)


_GROUP = _forced(lambda function, *args: function(*args), "native_group_norm", "native_group_norm_backward")
_BATCH = _forced(lambda function, *args: function(*args), *_BATCH_NORM)


def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    """v over its length, times g, as torch.nn.utils.parametrizations.weight_norm has it.

    Parameters
    ----------
    v : Tensor
    g : Tensor
        Of the shape of v where the dimension `dim` is, and 1 elsewhere.
    dim : int
        The dimension that is kept; -1: none, the length is that of all of v.
    """
    import torch

    return _WEIGHT(torch._weight_norm, v, g, dim)


_WEIGHT = _forced(
    lambda function, *args: function(*args),
    "_weight_norm_interface",
    "_weight_norm_interface_backward",
    "norm",
    "linalg_vector_norm",
    "div",
    "mul",
)


def normed_cumsum(inp: Any, dim: int = -1) -> Any:
    """The running sum along a dimension over the sum of it, as of probabilities that do not add up to one.

    It is summed in float32, of float64 in that, and rounded once.

    Parameters
    ----------
    inp : Tensor
    dim : int

    Returns
    -------
    Tensor of the same shape; of integers in the default dtype
    """
    import torch

    wide = torch.float32 if inp.dtype in (torch.float16, torch.bfloat16) else None
    running = ops.cumsum(inp, dim, dtype=wide)
    if inp.ndim == 0 or not inp.numel():
        return ops.div(running, running).to(inp.dtype) if wide else ops.div(running, running)
    result = ops.div(running, running.narrow(dim, inp.shape[dim] - 1, 1))
    return ops._to_copy(result, dtype=inp.dtype) if wide else result


def _composed_rwkv_ka_fusion(k: Any, kk: Any, a: Any, ka: Any, H: int, N: int) -> tuple[Any, Any, Any]:
    import torch

    normed = torch.nn.functional.normalize((k * kk).unflatten(-1, (H, N)), dim=-1, p=2.0).flatten(-2)
    return k * (1 + (a - 1) * ka), normed, normed * a


def _composed_rwkv_ka_fusion_backward(
    grad0: Any, grad1: Any, grad2: Any, k: Any, kk: Any, a: Any, ka: Any, H: int, N: int
) -> Any:
    return _gradients(_composed_rwkv_ka_fusion, [grad0, grad1, grad2], [k, kk, a, ka], [H, N])


own.COMPOSED["rwkv_ka_fusion"] = _composed_rwkv_ka_fusion
own.COMPOSED["rwkv_ka_fusion_backward"] = _composed_rwkv_ka_fusion_backward
library.SHAPES["rwkv_ka_fusion_backward"] = lambda grad0, grad1, grad2, k, kk, a, ka, *_, **__: tuple(
    _like(t) for t in (k, kk, a, ka)
)
library.SHAPES["rwkv_ka_fusion"] = lambda k, *_, **__: (_like(k), _like(k), _like(k))


def rwkv_ka_fusion(k: Any, kk: Any, a: Any, ka: Any, H: int, N: int) -> tuple[Any, Any, Any]:
    """The keys of RWKV-7's channel mixing in one kernel.

    Parameters
    ----------
    k, a : Tensor of shape [..., C]
        Keys and learning rates, C = H * N.
    kk, ka : Tensor of shape [C]
    H, N : int
        Heads, and channels of each.

    Returns
    -------
    o_k : Tensor of the shape of k
        k * (1 + (a - 1) * ka).
    o_kk : Tensor of the shape of k
        k * kk, over its length in each head.
    o_kka : Tensor of the shape of k
        o_kk * a.
    """
    return _rwkv_ka_fusion(k, kk, a, ka, H, N)


__all__ = ["fused_add_rms_norm", "instance_norm", "normed_cumsum", "rwkv_ka_fusion", "skip_layer_norm", "weight_norm"]
