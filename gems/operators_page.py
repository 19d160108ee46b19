"""The operator table as text and as the page docs/operators.md; both derive from the rows alone."""

from __future__ import annotations

from pathlib import PurePath

from flag_gems import _C
from flag_gems.rows import Row, aligned, functions_of, name_of, others_of

HEAD = """# Operators

Generated from `csrc/operators.def` by `make docs`; do not edit. {count} rows in {families} families.

A row covers an overload and, where named, its in-place, out and alias overloads; its functions are those of
`flag_gems.ops`, and of `flag_gems.fused` where the operator is one of `flag_gems::`. Dtypes are those that the kernels
compute in; any other runs ATen's kernel. Gradients: *formula* means that torch's own derivative applies, or that of the
row in `flag_gems::` with `_backward` behind its name; *none* that the operator is not differentiable.

Below each family stand the reasons for which its code leaves a call to ATen's kernel (`stats()` counts them, `explain`
and the log name them), and at the end those of code that several families share.
"""

SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
    "uint8": "u8",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
}
GROUPS = (
    ("floats", ("float16", "bfloat16", "float32", "float64")),
    ("ints", ("uint8", "int8", "int16", "int32", "int64")),
    ("complex", ("complex64", "complex128")),
)


def dtypes_text(names: list[str]) -> str:
    """A list of dtypes, whole groups by their name."""
    left = list(names)
    parts = []
    for group, members in GROUPS:
        if all(name in left for name in members):
            parts.append(group)
            left = [name for name in left if name not in members]
    return ", ".join(parts + [SHORT.get(name, name) for name in left])


def table(rows: list[Row]) -> str:
    """The rows as aligned lines: operator, family, dtypes, what it does."""
    cells = [("operator", "family", "dtypes", "what")]
    cells += [(name_of(row), row["family"], dtypes_text(row["dtypes"]), row["doc"] or "") for row in rows]
    return aligned(cells)


def declines(families: list[str]) -> dict[str, list[str]]:
    """The reasons in the source, by the family whose name a file of families/ begins with; of other files by ""."""
    found: dict[str, list[str]] = {}
    for file, reason in _C.declines():
        path = PurePath(file)
        own = [name for name in families if path.parent.name == "families" and path.stem.startswith(name)]
        reasons = found.setdefault(max(own, key=len, default=""), [])
        if reason not in reasons:
            reasons.append(reason)
    return {family: sorted(reasons) for family, reasons in found.items()}


def markdown(rows: list[Row]) -> str:
    """The page docs/operators.md."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    parts = [HEAD.format(count=len(rows), families=len(families))]
    reasons = declines(list(families))
    for family in sorted(families):
        parts.append(f"\n## {family}\n\n| operator | also | functions | dtypes | gradient | what |\n")
        parts.append("| --- | --- | --- | --- | --- | --- |\n")
        for row in sorted(families[family], key=name_of):
            others = " ".join(f"`{name}`" for name in others_of(row))
            functions = " ".join(f"`{name}`" for name in functions_of(row))
            what = (row["doc"] or "").replace("|", "\\|")
            dtypes = dtypes_text(row["dtypes"])
            parts.append(f"| `{name_of(row)}` | {others} | {functions} | {dtypes} | {row['gradient']} | {what} |\n")
        if family in reasons:
            parts.append(f"\nLeft to ATen: {'; '.join(reasons[family])}.\n")
    parts.append(f"\n## Every family\n\nLeft to ATen: {'; '.join(reasons.get('', []))}.\n")
    return "".join(parts)
