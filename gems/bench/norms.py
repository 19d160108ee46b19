"""Arguments of the norms over channels and groups, by their names in the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

CHANNELS, GROUPS = 64, 8


def arguments(names: list[str], tensor: Callable[..., Tensor], n: int, columns: int) -> tuple[str, list[Any]]:
    """The shape, and a value for each argument: about n elements in planes of `columns`."""
    samples = max(1, n // (CHANNELS * columns))
    shape = (samples, CHANNELS, columns)

    def positive(*size: int) -> Tensor:
        return tensor(*size).abs() + 0.5

    made: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(("input", "grad_out"), lambda: tensor(*shape)),
        **dict.fromkeys(("weight", "bias", "running_mean", "save_mean"), lambda: tensor(CHANNELS)),
        **dict.fromkeys(("running_var", "save_invstd"), lambda: positive(CHANNELS)),
        "mean": lambda: tensor(samples, GROUPS),
        "rstd": lambda: positive(samples, GROUPS),
        "N": lambda: samples,
        "C": lambda: CHANNELS,
        "HxW": lambda: columns,
        "group": lambda: GROUPS,
        **dict.fromkeys(("training", "train"), lambda: True),
        "momentum": lambda: 0.1,
        "eps": lambda: 1e-5,
        "output_mask": lambda: [True] * 3,
    }
    return "x".join(map(str, shape)), [made[name]() for name in names]
