"""Moves on a GPU that only records: where ATen's GPU kernels give other layouts, or errors, than its CPU kernels."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence

import pytest
import torch

from native import DECLINE, OK
from test_base import Value, longs, value
from test_elementwise_engine import gpu, library, output, own_cache, run

__all__ = ["own_cache"]  # a fixture of every test here
KIND_INTS = 7
SHAPE = (2, 8, 5, 6)


class Ints(C.Structure):
    _fields_ = [("v", C.c_void_p), ("n", C.c_int32)]


def ints(items: C.Array[C.c_int64]) -> Value:
    """A list of ints, which the caller keeps."""
    made = Value(KIND_INTS)
    place = Ints.from_buffer(made, Value.content.offset)
    place.v, place.n = C.addressof(items), len(items)
    return made


def laid_out(shape: Sequence[int], order: Sequence[int]) -> list[int]:
    """Strides of a dense tensor whose dims lie in `order`, the outermost first."""
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= shape[d]
    return strides


CHANNELS_LAST, TRANSPOSED = laid_out(SHAPE, (0, 2, 3, 1)), laid_out(SHAPE, (0, 1, 3, 2))


def strides_of_output() -> tuple[int, ...]:
    made = output()
    return tuple(made.strides[d] for d in range(made.ndim))


@pytest.mark.parametrize("name", ["reflection_pad2d", "replication_pad2d"])
def test_edge_pads_of_channels_last_are_contiguous(name: str) -> None:
    pads = longs([1, 2, 0, 1])
    assert run(name, gpu(SHAPE, CHANNELS_LAST), ints(pads)) == OK, library().gems_reason()
    assert strides_of_output() == torch.empty(2, 8, 6, 9).stride()


def test_channel_shuffle_needs_a_view() -> None:
    """ATen views the dims behind the channels as one, and gives a view back where nothing moves."""
    for strides in (laid_out(SHAPE, range(4)), CHANNELS_LAST, [1000, 100, 6, 1]):
        assert run("channel_shuffle", gpu(SHAPE, strides), value(2)) == OK, library().gems_reason()
        assert strides_of_output() == torch.empty(SHAPE).stride()
    assert run("channel_shuffle", gpu(SHAPE, TRANSPOSED), value(2)) == DECLINE
    for groups in (1, 8):
        assert run("channel_shuffle", gpu(SHAPE, laid_out(SHAPE, range(4))), value(groups)) == DECLINE
    thin = (2, 8, 5, 1)
    assert run("channel_shuffle", gpu(thin, [80, 10, 2, 7]), value(4)) == OK, library().gems_reason()
