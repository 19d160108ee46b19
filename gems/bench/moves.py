"""Arguments for the benchmarks of operators that only move elements: their shapes have to fit each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def arguments(name: str, tensor: Callable[..., Tensor], n: int, columns: int) -> list[Any]:
    """The arguments of one call.

    Parameters
    ----------
    name : an aten name, "constant_pad_nd"
    tensor : makes a tensor of a size
    n : about how many elements the result has
    columns : of its last dim

    Raises
    ------
    KeyError
        When the name is none that is known here.
    """
    rows = max(2, n // columns)
    half = max(1, rows // 2)
    side = max(8, round((n / 16) ** 0.5) // 4 * 4)
    matrix, image = (rows, columns), (4, 4, side, side)
    volume = (1, 16, max(4, side // 8), 8, side)
    grown = (1, 16, volume[2] + 2, volume[3] + 4, volume[4] + 2)
    made: dict[str, Callable[[], list[Any]]] = {
        "constant_pad_nd": lambda: [tensor(*image), [1, 1, 1, 1], 0],
        "reflection_pad1d": lambda: [tensor(*matrix), [3, 2]],
        "replication_pad1d": lambda: [tensor(*matrix), [3, 2]],
        "reflection_pad2d": lambda: [tensor(*image), [1, 1, 2, 2]],
        "replication_pad2d": lambda: [tensor(*image), [1, 1, 2, 2]],
        "reflection_pad3d": lambda: [tensor(*volume), [1, 1, 2, 2, 1, 1]],
        "replication_pad3d": lambda: [tensor(*volume), [1, 1, 2, 2, 1, 1]],
        "reflection_pad1d_backward": lambda: [tensor(rows, columns + 5), tensor(*matrix), [3, 2]],
        "replication_pad1d_backward": lambda: [tensor(rows, columns + 5), tensor(*matrix), [3, 2]],
        "reflection_pad2d_backward": lambda: [tensor(4, 4, side + 4, side + 2), tensor(*image), [1, 1, 2, 2]],
        "replication_pad2d_backward": lambda: [tensor(4, 4, side + 4, side + 2), tensor(*image), [1, 1, 2, 2]],
        "reflection_pad3d_backward": lambda: [tensor(*grown), tensor(*volume), [1, 1, 2, 2, 1, 1]],
        "replication_pad3d_backward": lambda: [tensor(*grown), tensor(*volume), [1, 1, 2, 2, 1, 1]],
        "flip": lambda: [tensor(*matrix), [0, 1]],
        "rot90": lambda: [tensor(*matrix), 1, [0, 1]],
        "roll": lambda: [tensor(*matrix), [3, 5], [0, 1]],
        "triu": lambda: [tensor(*matrix), 0],
        "tril": lambda: [tensor(*matrix), 0],
        "diag_embed": lambda: [tensor(max(1, n // 64 // 64), 64), 0],
        "diagonal_backward": lambda: [tensor(min(matrix)), list(matrix), 0, 0, 1],
        "select_backward": lambda: [tensor(half, columns), [2, half, columns], 0, 1],
        "slice_backward": lambda: [tensor(rows, columns // 2), list(matrix), 1, 0, columns // 2, 1],
        "select_scatter": lambda: [tensor(*matrix), tensor(columns), 0, 1],
        "slice_scatter": lambda: [tensor(*matrix), tensor(rows, columns // 2), 1, 0, columns // 2, 1],
        "diagonal_scatter": lambda: [tensor(*matrix), tensor(min(matrix)), 0, 0, 1],
        "repeat": lambda: [tensor(half, columns // 2), [2, 2]],
        "pixel_shuffle": lambda: [tensor(4, 16, side // 2, side // 2), 2],
        "pixel_unshuffle": lambda: [tensor(*image), 2],
        "channel_shuffle": lambda: [tensor(*image), 2],
        "as_strided_copy": lambda: [tensor(*matrix), [columns, rows], [1, columns]],
        "expand_copy": lambda: [tensor(1, columns), list(matrix)],
        "narrow_copy": lambda: [tensor(*matrix), 1, 1, columns // 2],
        "permute_copy": lambda: [tensor(*matrix), [1, 0]],
        "select_copy.int": lambda: [tensor(half, 2, columns), 1, 1],
        "slice_copy.Tensor": lambda: [tensor(*matrix), 1, 1, columns // 2, 1],
        "squeeze_copy.dim": lambda: [tensor(*matrix), 0],
        "squeeze_copy.dims": lambda: [tensor(*matrix), [0, 1]],
        "transpose_copy.int": lambda: [tensor(*matrix), 0, 1],
        "unfold_copy": lambda: [tensor(rows, columns // 2), 1, 2, 1],
        "unsqueeze_copy": lambda: [tensor(*matrix), 0],
        "view_copy": lambda: [tensor(*matrix), [columns, rows]],
    }
    return made[name]() if name in made else [tensor(*matrix)]
