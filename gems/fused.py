"""Fused functions: what has no aten operator of its own. Each is built from the rows that the table has in flag_gems::.

They take tensors of torch or NumPy arrays, keep gradients, are single operators to torch.compile, and broadcast and
promote dtypes as torch's elementwise operators do.
"""

from __future__ import annotations

from typing import Any

from . import attention, experts, fused_losses, fused_norms, ops, own, tokens
from .attention import *  # noqa: F403
from .experts import *  # noqa: F403
from .fused_losses import *  # noqa: F403
from .fused_norms import *  # noqa: F403
from .tokens import *  # noqa: F403

_silu_and_mul = own.function("silu_and_mul")
_gelu_and_mul = own.function("gelu_and_mul")


def silu_and_mul(A: Any, B: Any) -> Any:
    """silu(A) * B in one kernel.

    Parameters
    ----------
    A, B : Tensor or ndarray
        Floating point, of shapes that broadcast.
    """
    return _silu_and_mul(A, B)


def silu_and_mul_out(A: Any, B: Any, out: Any) -> Any:
    """silu(A) * B, written to `out`, which is given back. Keeps no gradient."""
    return _silu_and_mul(A, B, out=out)


def gelu_and_mul(x: Any, y: Any, approximate: str = "none") -> Any:
    """gelu(x) * y in one kernel.

    Parameters
    ----------
    x, y : Tensor or ndarray
        Floating point, of shapes that broadcast.
    approximate : str
        "none" for x * Phi(x), or "tanh".

    Raises
    ------
    RuntimeError
        For another word.
    """
    return _gelu_and_mul(x, y, approximate)


def outer(inp: Any, weight: Any) -> Any:
    """The outer product of two vectors: the elementwise product of a column and a row.

    Parameters
    ----------
    inp : Tensor of shape [n]
    weight : Tensor of shape [m]

    Returns
    -------
    Tensor of shape [n, m]

    Raises
    ------
    ValueError
        When one is no vector.
    """
    if inp.ndim != 1 or weight.ndim != 1:
        raise ValueError(f"outer takes two vectors, not {inp.ndim} and {weight.ndim} dimensions")
    return ops.mul(inp[:, None], weight[None, :])


def rwkv_mm_sparsity(k: Any, v: Any) -> Any:
    """A vector times a matrix: the second product of RWKV's channel mixing, where squared relu left most of k at 0.

    Parameters
    ----------
    k : Tensor of shape [n]
    v : Tensor of shape [n, m]

    Returns
    -------
    Tensor of shape [m]

    Raises
    ------
    RuntimeError
        ATen's, where sizes or dtypes do not fit.
    """
    return ops.mv(v.T, k)


__all__ = ["gelu_and_mul", "outer", "rwkv_mm_sparsity", "silu_and_mul", "silu_and_mul_out"]
__all__ += [*attention.__all__, *experts.__all__, *fused_losses.__all__]
__all__ += [*fused_norms.__all__, *tokens.__all__]
