"""The command line: `python -m flag_gems info | ops | warmup | cache | tune | bench`, also installed as `flag-gems`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_gems
from flag_gems import _C, operators_page, warm
from flag_gems.rows import all_rows

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size_of(text: str) -> int:
    """Bytes of "512M", "1.5G", "100000"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (such as 512M or 2G)")
    return int(float(match[1]) * UNITS[match[2].upper()])


def size_text(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"
        value /= 1024
    raise AssertionError


def names_of(text: str) -> list[str]:
    """ "a,b" -> ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def lines_of(value: Any, indent: str = "") -> list[str]:
    """A nested dict as indented lines."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *lines_of(item, indent + "  ")]
        elif isinstance(item, str) and "\n" in item.strip():
            lines += [f"{indent}{key}:", *(f"{indent}  {line}" for line in item.strip().splitlines())]
        elif isinstance(item, (list, tuple)):
            lines.append(f"{indent}{key}: {', '.join(map(str, item))}")
        else:
            lines.append(f"{indent}{key}: {item.strip() if isinstance(item, str) else item}")
    return lines


def command_info(args: argparse.Namespace) -> int:
    found = flag_gems.info()
    if args.json:
        print(json.dumps(found, indent=2, default=str))
    else:
        print("\n".join(lines_of(found)) if isinstance(found, dict) else found)
    return 0


def command_ops(args: argparse.Namespace) -> int:
    rows = all_rows()
    if args.family:
        families = sorted({row["family"] for row in rows})
        if args.family not in families:
            print(f"no family {args.family!r}; there are {', '.join(families)}", file=sys.stderr)
            return 2
        rows = [row for row in rows if row["family"] == args.family]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not args.markdown:
        print(operators_page.table(rows))
        return 0
    page = operators_page.markdown(rows)
    if args.check:
        path = Path(args.check)
        if not path.exists() or path.read_text() != page:
            print(f"{path} is stale: write it anew with `make docs`", file=sys.stderr)
            return 1
    elif args.output:
        Path(args.output).write_text(page)
    else:
        print(page, end="")
    return 0


def command_warmup(args: argparse.Namespace) -> int:
    try:
        work = warm.plan(args.arch, args.ops, args.dtypes)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    reports = warm.run(work, jobs=args.jobs, progress=not args.quiet)
    if args.json:
        print(json.dumps(reports, indent=1))
    else:
        print(warm.table(reports))
    summary, good = warm.summary(reports)
    print(summary, file=sys.stderr)
    return 0 if good else 1


def command_cache(args: argparse.Namespace) -> int:
    if args.action == "clear":
        print(f"{_C.cache_clear()} entries removed")
    elif args.action == "prune":
        print(f"{_C.cache_prune(args.keep)} entries removed")
    directory = _C.cache_directory()
    entries, size = _C.cache_measure()
    print(f"directory: {directory or 'none (compiled kernels are kept in memory only)'}")
    print(f"entries: {entries}\nsize: {size_text(size)}")
    return 0


def command_tune(args: argparse.Namespace) -> int:
    if args.list:
        versions = _C.tuned_versions()
        for key, value, shipped in _C.tuned_entries():
            stale = "" if key.split()[1:2] and key.split()[1] in versions else " (of other configurations)"
            print(f"{key} = {value}{' (shipped)' if shipped else ''}{stale}")
        return 0
    from flag_gems import tune

    try:
        work = tune.plan(args.ops, args.shapes, args.dtypes, args.layouts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results = []
    try:
        for result in tune.run(work, args.least_gain / 100, args.budget, args.jobs, not args.quiet):
            results.append(result)
    except KeyboardInterrupt:
        print("interrupted: what was measured until then", file=sys.stderr)
    lines = list(dict.fromkeys(line for result in results for line in result.lines))
    if args.json:
        print(json.dumps([{**vars(r), "product": str(r.product)} for r in results], indent=1))
    else:
        print("\n".join([tune.table(results), *lines]))
    if lines and not args.dry_run:
        path = tune.store(lines)
        print(f"{len(lines)} entries: {path or 'no cache directory, nothing was stored'}", file=sys.stderr)
    return 1 if any(result.wrong for result in results) else 0


def command_bench(args: argparse.Namespace) -> int:
    from flag_gems.bench import operators

    return operators.run(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="flag-gems", description="PyTorch operators compiled at run time.")
    top.add_argument("--version", action="version", version=flag_gems.__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="info|ops|warmup|cache|tune|bench")

    info = commands.add_parser("info", help="versions, backends found, cache directory")
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=command_info)

    ops = commands.add_parser("ops", help="the operator table")
    ops.add_argument("--family", metavar="F", help="only the operators of a family")
    form = ops.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the page docs/operators.md")
    where = ops.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="FILE", help="write the page to a file")
    where.add_argument("--check", metavar="FILE", help="exit code 1 when the file is not what the table says")
    ops.set_defaults(run=command_ops)

    warmup = commands.add_parser("warmup", help="compile ahead of time; needs no GPU")
    warmup.add_argument(
        "--arch",
        type=names_of,
        metavar="A,B",
        help='such as "sm_80,sm_90a", or "cpu"; without it that of the device here',
    )
    warmup.add_argument("--ops", type=names_of, default=["all"], metavar="all|X,Y", help="operators or rows")
    warmup.add_argument("--dtypes", type=names_of, metavar="D,E", help="default: float32, float16 and bfloat16")
    warmup.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="compilers at a time")
    warmup.add_argument("--json", action="store_true", help="one array, an object for each program")
    warmup.add_argument("--quiet", action="store_true", help="no progress bar")
    warmup.set_defaults(run=command_warmup)

    cache = commands.add_parser("cache", help="the compiled kernels on disk")
    cache.add_argument("action", choices=("info", "clear", "prune"))
    cache.add_argument("--keep", type=size_of, default=1 << 30, metavar="SIZE", help="prune to this (default 1G)")
    cache.set_defaults(run=command_cache)

    tune = commands.add_parser("tune", help="measure configurations of matrix products and keep what beats the model")
    tune.add_argument("--ops", type=names_of, default=["mm"], metavar="X,Y", help="mm, addmm, bmm, baddbmm")
    tune.add_argument(
        "--shapes",
        type=names_of,
        metavar="S,T",
        help="rows x columns x depth, such as 16x4096x4096, or squares, layers, decode, small (default: all but small;"
        " on a CPU small)",
    )
    tune.add_argument("--dtypes", type=names_of, metavar="D,E", help="default: bfloat16; float32 on a CPU")
    tune.add_argument(
        "--layouts", type=names_of, default=["nn", "nt"], metavar="L,M", help="nn, nt, tn, tt (default nn,nt)"
    )
    tune.add_argument("--least-gain", type=float, default=3.0, metavar="P", help="percent that an entry must gain")
    tune.add_argument("--budget", type=float, default=0.5, metavar="S", help="seconds to compare the best of a product")
    tune.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="compilers at a time")
    tune.add_argument("--dry-run", action="store_true", help="store nothing")
    tune.add_argument("--list", action="store_true", help="only print the entries that there are")
    tune.add_argument("--json", action="store_true", help="one array, an object for each product")
    tune.add_argument("--quiet", action="store_true", help="no progress bar")
    tune.set_defaults(run=command_tune)

    bench = commands.add_parser("bench", help="each operator beside ATen's")
    bench.add_argument("--ops", type=names_of, default=["all"], metavar="all|X,Y")
    bench.add_argument("--families", type=names_of, metavar="F,G", help="only the operators of these families")
    bench.add_argument("--dtypes", type=names_of, metavar="D,E")
    bench.add_argument("--level", choices=("quick", "core", "full"), default="core", help="how many sizes")
    bench.add_argument(
        "--sizes",
        type=lambda text: [size_of(size) for size in names_of(text)],
        metavar="N,M",
        help="elements instead of a level, such as 1K,32K,1M,16M,256M,1G; then also what is slower than ATen, by size",
    )
    bench.add_argument("--slower", type=float, default=0.97, metavar="R", help="ratio below which that is so")
    bench.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where a GPU is")
    bench.add_argument("--threads", type=int, default=1, metavar="N", help="of torch on a CPU (default 1)")
    bench.add_argument("--budget", type=float, default=1.0, metavar="S", help="seconds for each case (default 1)")
    bench.add_argument("--json", metavar="OUT", help="write the figures to a file")
    bench.add_argument("--plot", metavar="OUT.png", help="draw the ratios")
    bench.set_defaults(run=command_bench)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Parameters
    ----------
    argv : arguments without the program's name; the process's own when None

    Returns
    -------
    int
        The exit code: 0 when all went well, 1 when a program failed, spilled, or a page is stale; 2 for a wrong
        argument.
    """
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
