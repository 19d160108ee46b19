"""Norms as modules."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import fused, ops


def gems_rms_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float = 1e-6, normalized_shape: Sequence[int] = ()
) -> Tensor | tuple[Tensor, Tensor]:
    """rms_norm of x over the dimensions of the weight; with a residual both are written as fused_add_rms_norm does.

    Parameters
    ----------
    x : Tensor
    residual : Tensor of the shape of x, or None
    weight : Tensor of the shape of the last dimensions of x, or None
    eps : float
    normalized_shape : sequence of int
        The last dimensions of x, where there is no weight.

    Returns
    -------
    The normed tensor; with a residual (x, residual), the same tensors.
    """
    shape = list(normalized_shape if weight is None else weight.shape)
    if residual is None:
        return ops.rms_norm(x, shape, weight, eps)
    if weight is None:
        weight = torch.ones(shape, dtype=x.dtype, device=x.device)
    return fused.fused_add_rms_norm(x, residual, shape, weight, eps)


class GemsRMSNorm(nn.Module):
    """rms_norm over the last dimensions, with a weight.

    Parameters
    ----------
    normalized_shape : int or sequence of int
    eps : float
        Is added to the mean square.
    elementwise_affine : bool
        Whether there is a weight.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, numbers.Integral) else normalized_shape
        self.normalized_shape: tuple[int, ...] = tuple(shape)  # type: ignore[arg-type]
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(self.normalized_shape, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The normed x; with a residual, which is added in place, (x, residual)."""
        return gems_rms_forward(x, residual, self.weight, self.eps, self.normalized_shape)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
