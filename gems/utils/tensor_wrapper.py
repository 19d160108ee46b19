"""Memory seen in another dtype, shape or with other strides, without a new tensor's checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TypedPtr:
    """An address and the dtype of what lies there. It keeps no memory alive.

    Parameters
    ----------
    ptr : int
        Address in bytes.
    dtype : torch.dtype
    """

    def __init__(self, ptr: int, dtype: torch.dtype) -> None:
        self.ptr, self.dtype = ptr, dtype

    def data_ptr(self) -> int:
        """The address in bytes."""
        return self.ptr

    @classmethod
    def from_tensor(cls, tensor: Tensor, offset: int = 0) -> TypedPtr:
        """The address of a tensor's first element, `offset` elements further."""
        return cls(tensor.data_ptr() + offset * tensor.element_size(), tensor.dtype)

    @classmethod
    def reinterpret_tensor(cls, tensor: Tensor, dtype: torch.dtype, offset: int = 0) -> TypedPtr:
        """The address of a tensor's first element read as `dtype`, `offset` elements of that dtype further."""
        return cls(tensor.data_ptr() + offset * dtype.itemsize, dtype)

    def __repr__(self) -> str:
        return f"TypedPtr({self.ptr:#x}, {self.dtype})"


class StridedBuffer:
    """A tensor's memory with a shape, strides and dtype of its own.

    Parameters
    ----------
    base : Tensor
        The memory; kept alive.
    shape, strides : sequence of int
        Those of `base` when None. Strides count elements of `dtype` and may be negative or overlap.
    dtype : torch.dtype
        That of `base` when None; bytes are read as they are.
    offset : int
        Elements of `dtype` from the first element of `base` to the first of this.
    """

    def __init__(
        self,
        base: Tensor,
        shape: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        offset: int = 0,
    ) -> None:
        self._base = base
        self.dtype = dtype or base.dtype
        self.shape = torch.Size(base.shape if shape is None else shape)
        self._strides = tuple(base.stride() if strides is None else strides)
        self._offset = offset
        self.device = base.device
        if len(self.shape) != len(self._strides):
            raise ValueError(f"{len(self.shape)} sizes and {len(self._strides)} strides")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def stride(self, dim: int | None = None) -> tuple[int, ...] | int:
        """The strides, or that of one dimension, in elements."""
        return self._strides if dim is None else self._strides[dim]

    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    def element_size(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    def offset(self) -> int:
        """Elements from the first of the base to the first of this."""
        return self._offset

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self._base.data_ptr() + self._offset * self.dtype.itemsize

    def untyped_storage(self) -> torch.UntypedStorage:
        """The storage of the base."""
        return self._base.untyped_storage()

    def unwrap(self) -> Tensor:
        """The base."""
        return self._base

    def __repr__(self) -> str:
        place = f"strides={self._strides}, offset={self._offset}"
        return f"StridedBuffer({tuple(self.shape)}, {place}, dtype={self.dtype})"
