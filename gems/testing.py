"""Comparisons with tolerances by dtype, under the names that FlagGems' users know."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative tolerance by dtype of a result.
RESOLUTION: dict[torch.dtype, float] = {
    torch.bool: 0,
    torch.uint8: 0,
    torch.int8: 0,
    torch.int16: 0,
    torch.int32: 0,
    torch.int64: 0,
    torch.float8_e4m3fn: 1e-3,
    torch.float8_e5m2: 1e-3,
    torch.float8_e4m3fnuz: 1e-3,
    torch.float8_e5m2fnuz: 1e-3,
    torch.float16: 1e-3,
    torch.bfloat16: 0.016,
    torch.float32: 1.3e-6,
    torch.float64: 1e-7,
    torch.complex32: 1e-3,
    torch.complex64: 1.3e-6,
}


def assert_close(
    res: Tensor, ref: Tensor, dtype: torch.dtype, equal_nan: bool = False, reduce_dim: int = 1, atol: float = 1e-4
) -> None:
    """Fails unless `res` is within the tolerance of its dtype from `ref`.

    Parameters
    ----------
    res : Tensor
        The result; its dtype must be `dtype`.
    ref : Tensor, same shape
        The reference, of any dtype; it is cast to `dtype`.
    dtype : torch.dtype
        Chooses the relative tolerance (`RESOLUTION`).
    equal_nan : bool
        Whether NaN equals NaN.
    reduce_dim : int
        How many elements were summed up for one of the result: `atol` is multiplied by it.
    atol : float
        Absolute tolerance of one element.

    Raises
    ------
    AssertionError
        On another dtype, shape or value.
    """
    assert res.dtype == dtype, f"the result is {res.dtype}, not {dtype}"
    torch.testing.assert_close(
        res, ref.to(dtype), atol=atol * reduce_dim, rtol=RESOLUTION[dtype], equal_nan=equal_nan, check_device=False
    )


def assert_equal(res: Tensor, ref: Tensor, equal_nan: bool = False) -> None:
    """Fails unless both have the same dtype, shape and values."""
    torch.testing.assert_close(res, ref, atol=0, rtol=0, equal_nan=equal_nan, check_device=False)
