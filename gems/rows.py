"""What the command line, the documents and the benchmarks ask of the operator table, and tables as text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from . import _C

Row = dict[str, Any]


def all_rows() -> list[Row]:
    """All rows of operators.def: those of aten operators, composite ones, then this package's own in flag_gems::."""
    return [*_C.rows(), *_C.composite_rows(), *(row for row in _C.own_rows() if not row["added"])]


def name_of(row: Row) -> str:
    """ "add.Tensor" of "add.Tensor(Tensor self, ...) -> Tensor"."""
    return row["schema"].split("(")[0]


def others_of(row: Row) -> list[str]:
    """The further overloads that a row covers: in-place, out, aliases."""
    return [entry["name"] for entry in row["entries"] if entry["name"] != name_of(row)]


def functions_of(row: Row) -> list[str]:
    """The row's explicit functions, `flag_gems.ops.X`; of a row in flag_gems:: those of `flag_gems.fused`."""
    if row["schema"].startswith("flag_gems::"):
        from . import fused

        return [name for name in (row["id"], f"{row['id']}_out") if name in fused.__all__]
    if not row["entries"]:
        return sorted(row["functions"] or [name_of(row).split(".")[0]])
    return sorted({name for entry in row["entries"] for name in entry["functions"]})


def names_of(row: Row) -> set[str]:
    """All names by which a user may mean a row: "add", "add.Tensor", "aten::add.Tensor", "add_.Tensor" ..."""
    names = {name_of(row), *others_of(row)}
    names |= {name.split(".")[0] for name in names}
    names |= {name.removeprefix("flag_gems::") for name in names}
    return names | {f"aten::{name}" for name in names} | {row["id"], *functions_of(row)}


def select(rows: list[Row], wanted: Iterable[str]) -> list[Row]:
    """The rows that a list of names means; ["all"] means all.

    Raises
    ------
    ValueError
        When a name means no row.
    """
    wanted = list(wanted)
    if wanted == ["all"]:
        return rows
    names = [names_of(row) for row in rows]
    unknown = [name for name in wanted if not any(name in known for known in names)]
    if unknown:
        raise ValueError(f"no such operator: {', '.join(unknown)} (`flag-gems ops` lists them)")
    return [row for row, known in zip(rows, names, strict=True) if known & set(wanted)]


def aligned(cells: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells as lines with aligned columns; those in `right` end together."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, cells))
