"""Shapes and strides as plain Python, under the names that FlagGems' users know. Strides count elements."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]
Stride = tuple[int, ...]


def volume(shape: Iterable[int]) -> int:
    """Number of elements of a shape; 1 for the empty shape."""
    return functools.reduce(operator.mul, shape, 1)


def size_in_bytes(t: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return t.numel() * t.element_size()


def c_contiguous_stride(shape: Sequence[int]) -> Stride:
    """Strides of a row-major tensor; a size of 0 counts as 1."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def f_contiguous_stride(shape: Sequence[int]) -> Stride:
    """Strides of a column-major tensor; a size of 0 counts as 1."""
    return tuple(reversed(c_contiguous_stride(tuple(reversed(shape)))))


def ordered_stride(shape: Sequence[int], order: Sequence[int]) -> Stride:
    """Dense strides whose dims are laid out in `order`, innermost first."""
    strides, step = [0] * len(shape), 1
    for dim in order:
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def stride_order(strides: Sequence[int]) -> list[int]:
    """Dims from the innermost to the outermost: by absolute stride, stable."""
    return sorted(range(len(strides)), key=lambda dim: abs(strides[dim]))


def all_the_same_shape(tensors: Sequence[Tensor]) -> bool:
    """True when all have the first one's shape; also for none."""
    return all(t.shape == tensors[0].shape for t in tensors[1:])


def all_the_same_stride(tensors: Sequence[Tensor]) -> bool:
    """True when all have the first one's strides; also for none."""
    return all(t.stride() == tensors[0].stride() for t in tensors[1:])


def all_c_contiguous(tensors: Sequence[Tensor]) -> bool:
    """True when all are row-major without gaps; also for none."""
    return all(t.is_contiguous() for t in tensors)


def broadcast_shapes(shapes: Iterable[Sequence[int]]) -> Shape:
    """The shape that all broadcast to.

    Raises
    ------
    RuntimeError
        When they do not fit, in torch's words.
    """
    return tuple(torch.broadcast_shapes(*(tuple(s) for s in shapes)))


def heuristics_for_tile_size(max_tile_size: int, *sizes: int) -> Shape:
    """Powers of two, one a dim, of at most `max_tile_size` elements together; inner dims are served first."""
    tile, room = [], max_tile_size
    for size in reversed(sizes):
        side = max(1, min(1 << (max(size, 1) - 1).bit_length(), room))
        tile.append(side)
        room //= side
    return tuple(reversed(tile))


def heuristics_for_num_warps(tile_size: int) -> int:
    """Warps for a tile: 4 below 2,048 elements, 8 below 4,096, else 16."""
    return 4 if tile_size < 2048 else 8 if tile_size < 4096 else 16


def dim_compress(t: Tensor, dims: int | Sequence[int]) -> Tensor:
    """A contiguous tensor whose `dims` stand last, in their order; the others keep theirs."""
    chosen = [d % t.ndim for d in ([dims] if isinstance(dims, int) else dims)]
    kept = [d for d in range(t.ndim) if d not in chosen]
    return t.permute(kept + chosen).contiguous()


def restride_dim(
    src: Tensor, dim: int, shape: Sequence[int], step: int = 0, storage_offset: int | None = None
) -> Tensor:
    """A view of `shape` with the strides of `src`, that of `dim` multiplied by `step`."""
    strides = list(src.stride())
    strides[dim] *= step
    offset = src.storage_offset() if storage_offset is None else storage_offset
    return src.as_strided(tuple(shape), tuple(strides), offset)
