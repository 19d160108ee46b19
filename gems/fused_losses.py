"""Losses that are one kernel each way."""

from __future__ import annotations

from typing import Any

from . import library, own

_cross_entropy = own.function("cross_entropy")
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def _loss_of_torch(*args: Any) -> Any:
    import torch

    self, target, weight, reduction, ignore_index, label_smoothing = args
    return torch.ops.aten.cross_entropy_loss(self, target, weight, reduction, ignore_index, label_smoothing)


def _composed(
    self: Any,
    target: Any,
    weight: Any = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    import torch

    loss = _loss_of_torch(self, target, weight, reduction, ignore_index, label_smoothing)
    return loss, loss.detach().new_empty(0, dtype=torch.promote_types(self.dtype, torch.float32))


def _composed_backward(
    grad0: Any,
    self: Any,
    target: Any,
    weight: Any,
    saved: Any,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    import torch

    with torch.enable_grad():
        logits = self.view_as(self) if self.requires_grad else self.detach().requires_grad_()
        loss = _loss_of_torch(logits, target, weight, reduction, ignore_index, label_smoothing)
        return torch.autograd.grad(loss, logits, grad0, create_graph=True)[0]


def _shapes(self: Any, target: Any, weight: Any = None, reduction: int = 1, *_: Any, **__: Any) -> Any:
    import torch

    axis = int(self.dim() > 1)
    sizes = [n for d, n in enumerate(self.shape) if d != axis]
    rows = 1
    for n in sizes:
        rows = rows * n
    wide = torch.promote_types(self.dtype, torch.float32)
    return self.new_empty(sizes if reduction == 0 else []), self.new_empty([2 * rows + 1], dtype=wide)


def _backward_shapes(grad0: Any, self: Any, target: Any, *_: Any, **__: Any) -> Any:
    import torch

    plain = torch.empty(self.shape, dtype=self.dtype, device=self.device)
    if self.dim() < 3 or (self.is_contiguous() and (target.dim() < self.dim() or target.is_contiguous())):
        return plain
    turned = self.movedim(1, -1)
    if not turned.is_contiguous():
        return plain
    return torch.empty(turned.shape, dtype=self.dtype, device=self.device).movedim(-1, 1)


own.COMPOSED["cross_entropy"] = _composed
own.COMPOSED["cross_entropy_backward"] = _composed_backward
library.SHAPES["cross_entropy"] = _shapes
library.SHAPES["cross_entropy_backward"] = _backward_shapes


def cross_entropy_loss(
    inp: Any,
    target: Any,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """The cross entropy of logits, as torch.nn.functional.cross_entropy: one kernel each way.

    Logits are read once, and once more for the gradient; of each row two numbers are kept. Rows that are ignored are
    not read, and their gradient is zero.

    Parameters
    ----------
    inp : Tensor of shape [C], [N, C] or [N, C, d1, ...]
        Logits, floating point.
    target : Tensor
        Classes as int64, of the shape of inp without C; or distributions, of the shape and dtype of inp.
    weight : Tensor of shape [C], or None
        Of each class.
    reduction : str
        "none", "mean" (by the weights of the targets) or "sum".
    ignore_index : int
        A class that counts for nothing.
    label_smoothing : float
        From 0 to 1: how much of the target is spread evenly over the classes.

    Raises
    ------
    ValueError
        For another reduction.
    IndexError, RuntimeError
        As torch raises them.

    Returns
    -------
    Tensor : a number, or without a reduction the shape of inp without C
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return _cross_entropy(inp, target, weight, _REDUCTIONS[reduction], ignore_index, label_smoothing)[0]


__all__ = ["cross_entropy_loss"]
