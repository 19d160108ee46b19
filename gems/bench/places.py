"""Arguments for the benchmarks of operators that read and write at places given by an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def arguments(
    name: str, tensor: Callable[..., Tensor], index: Callable[..., Tensor], rows: int, columns: int
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of one call, by position and by keyword: as many places as the tensor has rows or elements.

    Parameters
    ----------
    name : an aten name, "index_add"
    tensor : makes a tensor of a size
    index : makes places of a size, `below` a number
    rows, columns : of the tensor that is read or written

    Raises
    ------
    KeyError
        When the name is none that is known here.
    """
    size, count = (rows, columns), rows * columns

    def lines() -> Tensor:
        return index(rows, below=rows)

    def everywhere() -> Tensor:
        return index(rows, columns, below=rows)

    made: dict[str, Callable[[], tuple[list[Any], dict[str, Any]]]] = {
        "index.Tensor": lambda: ([tensor(*size), [lines()]], {}),
        "take": lambda: ([tensor(*size), index(*size, below=count)], {}),
        "put": lambda: ([tensor(*size), index(*size, below=count), tensor(*size)], {}),
        "index_put": lambda: ([tensor(*size), [lines()], tensor(*size)], {}),
        "_index_put_impl": lambda: ([tensor(*size), [lines()], tensor(*size)], {}),
        "index_add": lambda: ([tensor(*size), 0, lines(), tensor(*size)], {}),
        "index_copy": lambda: ([tensor(*size), 0, lines(), tensor(*size)], {}),
        "index_reduce": lambda: ([tensor(*size), 0, lines(), tensor(*size), "amax"], {}),
        "index_fill.int_Scalar": lambda: ([tensor(*size), 0, lines(), 1], {}),
        "index_fill.int_Tensor": lambda: ([tensor(*size), 0, lines(), tensor(1).reshape(())], {}),
        "scatter.src": lambda: ([tensor(*size), 0, everywhere(), tensor(*size)], {}),
        "scatter.value": lambda: ([tensor(*size), 0, everywhere(), 1], {}),
        "scatter.reduce": lambda: ([tensor(*size), 0, everywhere(), tensor(*size)], {"reduce": "add"}),
        "scatter.value_reduce": lambda: ([tensor(*size), 0, everywhere(), 1], {"reduce": "add"}),
        "scatter_reduce.two": lambda: ([tensor(*size), 0, everywhere(), tensor(*size), "amax"], {}),
    }
    return made[name]()
