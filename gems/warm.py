"""Compiling programs ahead of time: which there are, all of them through a thread pool, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from flag_gems import _C
from flag_gems.rows import Row, aligned, all_rows, select

MAIN_DTYPES = ("float32", "float16", "bfloat16")
FACTS = ("registers", "spill_bytes", "shared_bytes", "instructions", "instructions_per_element", "milliseconds")
COLUMNS = ("op", "program", "dtypes", "arch", *FACTS)

Report = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A row in one dtype for one arch: several programs, one for each of its main shape classes."""

    backend: str
    arch: str
    row: str
    dtype: str


def backend_of(arch: str) -> str:
    """The backend that compiles for an arch: "sm_90a" -> "cuda"."""
    return "cuda" if arch.startswith(("sm_", "compute_")) else "cpu"


def default_archs() -> list[str]:
    """The archs of the devices that are here ("sm_90"; the backend knows as what it is compiled); the CPU's when there
    is no GPU."""
    try:
        import torch
    except ImportError:
        return ["cpu"]
    if not torch.cuda.is_available():
        return ["cpu"]
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return [f"sm_{a}{b}" for a, b in sorted(capabilities)]


def dtypes_of(row: Row, wanted: list[str] | None) -> list[str]:
    """The dtypes to compile a row in: those wanted that it has; by default float32, float16, bfloat16, or all it has
    when it has none of these."""
    if wanted is not None:
        return [name for name in wanted if name in row["dtypes"]]
    return [name for name in MAIN_DTYPES if name in row["dtypes"]] or list(row["dtypes"])


def plan(archs: list[str] | None, ops: Iterable[str], dtypes: list[str] | None) -> list[Item]:
    """What warmup has to do.

    Raises
    ------
    ValueError
        When an operator or dtype is not known.
    """
    rows = all_rows()
    known = {name for row in rows for name in row["dtypes"]}
    unknown = [name for name in dtypes or () if name not in known]
    if unknown:
        raise ValueError(f"no operator has the dtype {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = select(rows, ops)
    return [
        Item(backend_of(arch), arch, row["id"], dtype)
        for arch in archs or default_archs()
        for row in chosen
        for dtype in dtypes_of(row, dtypes)
    ]


def compile_item(item: Item) -> list[Report]:
    """Compiles one item; the report of a program that failed says why under "error", which is None in the others."""
    try:
        return [
            {**report, "program": report["program"] or report["op"]}
            for report in _C.warm(item.backend, item.arch, item.row, item.dtype)
        ]
    except Exception as error:  # nothing could be compiled: an arch or a compiler that is not there
        failed: Report = dict.fromkeys(COLUMNS)
        failed.update(op=item.row, program=item.row, dtypes=item.dtype, arch=item.arch, cached=False, error=str(error))
        return [failed]


def run(work: list[Item], jobs: int, progress: bool) -> list[Report]:
    """Compiles all items, at most `jobs` at a time, with a progress bar on standard error when that is a terminal.

    Returns
    -------
    list of dict
        A report for each program, in the order of `work`: op, program, dtypes, arch, registers, spill_bytes,
        shared_bytes, instructions (-1 where the compiler does not say), instructions_per_element (those of the whole
        kernel, its ends included, over the elements that a thread makes at once; None where a thread's work is not so
        told), milliseconds, cached, error (None where all went well).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: dict[Item, list[Report]] = {}
    with (
        Progress(*columns, console=console, disable=not progress or not console.is_terminal) as bar,
        ThreadPoolExecutor(max(1, jobs)) as pool,
    ):
        task = bar.add_task("compiling", total=len(work))
        futures = {pool.submit(compile_item, item): item for item in work}
        for future in as_completed(futures):
            item = futures[future]
            found[item] = future.result()
            bar.update(task, advance=1, description=f"{item.arch} {item.row} {item.dtype}")
    return [report for item in work for report in found[item]]


def failed(report: Report) -> bool:
    return bool(report.get("error"))


def spilled(report: Report) -> bool:
    return (report["spill_bytes"] or 0) > 0


def table(reports: list[Report]) -> str:
    """The reports as lines of text, a program a line; the text of each failure after them."""
    cells = [list(COLUMNS)]
    for report in reports:
        row = ["" if report[name] in (None, -1) else str(report[name]) for name in COLUMNS]
        if report["instructions_per_element"]:
            row[COLUMNS.index("instructions_per_element")] = f"{report['instructions_per_element']:.1f}"
        if failed(report):
            row[-1] = "failed"
        else:
            row[-1] = "cached" if report["cached"] else f"{report['milliseconds']:.0f}"
        cells.append(row)
    lines = [aligned(cells, right=range(4, len(COLUMNS)))]
    lines += [f"\n{r['op']} {r['dtypes']} {r['arch']} failed:\n{r['error']}" for r in reports if failed(r)]
    return "\n".join(lines)


def summary(reports: list[Report]) -> tuple[str, bool]:
    """One line about all reports, and whether nothing failed or spilled."""
    failures = sum(map(failed, reports))
    spills = sum(map(spilled, reports))
    cached = sum(1 for report in reports if report["cached"])
    compiled = len(reports) - cached - failures
    text = f"{len(reports)} programs: {compiled} compiled, {cached} in the cache, {failures} failed, {spills} spill"
    return text, not failures and not spills
