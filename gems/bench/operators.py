"""Each row of the operator table against ATen and against torch.clone of the same bytes, by size and dtype."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flag_gems
import torch
from flag_gems import _C
from flag_gems.bench import harness
from flag_gems.bench.cases import Case, Maker, bytes_of, clone_source, overload_of, schema_of
from flag_gems.rows import Row, aligned, select
from flag_gems.warm import dtypes_of

Result = dict[str, Any]

SIZES = {  # elements, columns
    ("cpu", "quick"): [(1 << 20, 1024)],
    ("cpu", "core"): [(1 << 14, 1024), (1 << 20, 1024)],
    ("cpu", "full"): [(1 << 12, 64), (1 << 16, 1024), (1 << 20, 1024), (1 << 20, 50_000), (1 << 23, 4096)],
    ("cuda", "quick"): [(1 << 26, 4096)],
    ("cuda", "core"): [(1 << 20, 1024), (1 << 24, 4096), (1 << 26, 4096)],
    ("cuda", "full"): [(1 << 16, 1024), (1 << 20, 1024), (1 << 24, 1024), (1 << 26, 4096), (1 << 26, 131_072)],
}


LARGE = 1 << 22  # elements from which on memory is given back after a case
KEPT = 512 << 20  # most bytes that the process keeps touched on a CPU
COLUMNS = 4096  # of rows where sizes are given by their elements


def sizes_of(args: argparse.Namespace, device: str) -> list[tuple[int, int]]:
    """Elements and columns of each size: those asked for, else those of the level."""
    if args.sizes:
        return [(n, min(n, COLUMNS)) for n in args.sizes]
    return SIZES[device, args.level]


def free_bytes(device: str) -> int:
    """Memory that tensors can have now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # a container's limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(limit - used)
    return min(found)


def bytes_wanted(row: Row, dtype: torch.dtype, n: int) -> int:
    """About what a case takes at its largest: arguments, results of both, what is cloned and its copy; an argument is
    drawn in another dtype first."""
    tensors = sum("Tensor" in str(argument.type) for argument in schema_of(row).arguments)
    return n * (dtype.itemsize * (tensors + 2 * len(schema_of(row).returns) + tensors + 1) + 8)


def let_go(device: str) -> None:
    """Gives back what the last case held."""
    clone_source.cache_clear()
    if device == "cuda":
        torch.cuda.empty_cache()


def clone_seconds(moved: int, device: str) -> harness.Candidate:
    """torch.clone that reads and writes `moved` bytes in all."""
    source = clone_source(moved // 2, device)
    return harness.Candidate(lambda: torch.clone(source))


def measure(row: Row, case: Case, device: str, budget: float) -> Result:
    """Times one case.

    Returns
    -------
    dict
        op, family, dtype (filled in by the caller), shape, aten_us, gems_us, ratio (of ATen's time to ours),
        clone_us, of_limit (clone's time over ours; None for work that is not bound by memory), gbps, tflops, and path:
        "kernel", or "fallback" when the operator declined.
    """
    call = overload_of(case.op)
    args, kwargs = case.args, case.kwargs

    def run() -> Any:
        return call(*args, **kwargs)

    def scope() -> Any:
        return flag_gems.use_gems(include=[case.op])

    moved = bytes_of(args) + bytes_of(kwargs) + bytes_of(run()) - case.untouched
    flag_gems.reset_stats()
    with scope():
        run()
    counted = flag_gems.stats().get(case.op, {})
    if device == "cpu":
        harness.keep_pages(min(16 * moved, KEPT))
    candidates = {"aten": harness.Candidate(run), "gems": harness.Candidate(run, scope)}
    candidates["clone"] = clone_seconds(moved, device)
    timing = harness.compare(candidates, device, budget=budget)
    if device == "cpu" and torch.get_num_threads() == 1:
        seconds = timing.fastest
    else:
        seconds = timing.median

    def ratio(slow: str, fast: str) -> float:
        return seconds(slow) / seconds(fast) if seconds == timing.fastest else timing.ratio(slow, fast)

    ours = seconds("gems")
    return {
        "op": case.op,
        "family": row["family"],
        "shape": case.shape,
        "aten_us": seconds("aten") * 1e6,
        "gems_us": ours * 1e6,
        "ratio": ratio("aten", "gems"),
        "clone_us": seconds("clone") * 1e6,
        "of_limit": None if case.flops else ratio("clone", "gems"),
        "gbps": moved / ours / 1e9,
        "tflops": case.flops / ours / 1e12 if case.flops else None,
        "path": "kernel" if counted.get("kernel") else "fallback",
    }


def results(args: argparse.Namespace, device: str) -> Iterator[Result]:
    """A result for each row, dtype and size; a case that ATen itself refuses is left out."""
    for row in select(_C.rows(), args.ops):
        if args.families and row["family"] not in args.families:
            continue
        for name in dtypes_of(row, args.dtypes):
            dtype = getattr(torch, name)
            for n, columns in sizes_of(args, device):
                if bytes_wanted(row, dtype, n) > 0.8 * free_bytes(device):
                    print(f"{row['id']} {name} {n}: left out, it takes more memory than is free", file=sys.stderr)
                    continue
                case = Maker(row, dtype, n, columns, device).make()
                try:
                    overload_of(case.op)(*case.args, **case.kwargs)
                    yield {"dtype": name, "elements": n, **measure(row, case, device, args.budget)}
                except (RuntimeError, NotImplementedError) as error:
                    print(f"{case.op} {name}: ATen says {str(error).splitlines()[0]}", file=sys.stderr)
                if n >= LARGE:
                    del case
                    let_go(device)


def line(result: Result) -> list[str]:
    limit = "" if result["of_limit"] is None else f"{100 * result['of_limit']:.0f}%"
    work = f"{result['tflops']:.2f} TF/s" if result["tflops"] else f"{result['gbps']:.1f} GB/s"
    path = "" if result["path"] == "kernel" else "declined"
    times = [f"{result['aten_us']:.1f}", f"{result['gems_us']:.1f}", f"{result['ratio']:.2f}"]
    return [result["op"], result["dtype"], result["shape"], *times, limit, work, path]


def table(found: list[Result]) -> str:
    """Results as lines of text, and the geometric mean of the ratios of those that ran in our kernels."""
    head = ["operator", "dtype", "shape", "ATen us", "gems us", "ratio", "of clone", "rate", ""]
    ran = [r["ratio"] for r in found if r["path"] == "kernel"]
    text = aligned([head, *map(line, found)], right=range(3, 8))
    mean = f"geometric mean {harness.geometric_mean(ran):.2f} times ATen's speed" if ran else "none ran in our kernels"
    return f"{text}\n{len(ran)} of {len(found)} cases in our kernels; {mean}"


def size_text(n: int) -> str:
    """1048576 -> "1M"."""
    for unit, name in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if n >= unit and n % unit == 0:
            return f"{n // unit}{name}"
    return str(n)


def slower(found: list[Result], below: float) -> str:
    """The rows whose kernels are slower than ATen at some size, a column a size, those that are marked with "<"; a
    size at which a row was left to ATen has "-"."""
    sizes = sorted({r["elements"] for r in found})
    by_case: dict[tuple[str, str], dict[int, Result]] = {}
    for r in found:
        by_case.setdefault((r["op"], r["dtype"]), {})[r["elements"]] = r

    def cell(r: Result | None) -> str:
        if r is None or r["path"] != "kernel":
            return "" if r is None else "-"
        return f"{r['ratio']:.2f}{'<' if r['ratio'] < below else ' '}"

    def is_slower(r: Result) -> bool:
        return r["path"] == "kernel" and r["ratio"] < below

    lines = [["slower than ATen", "dtype", *map(size_text, sizes)]]
    for (op, dtype), results in by_case.items():
        if any(map(is_slower, results.values())):
            lines.append([op, dtype, *(cell(results.get(n)) for n in sizes)])
    at = {n: [r for r in found if r["elements"] == n and r["path"] == "kernel"] for n in sizes}
    lines.append(["slower, of cases in our kernels", ""])
    lines[-1] += [f"{sum(map(is_slower, at[n]))} of {len(at[n])}" for n in sizes]
    means = [harness.geometric_mean([r["ratio"] for r in at[n]]) for n in sizes]
    lines.append(["geometric mean", "", *(f"{mean:.2f} " for mean in means)])
    return aligned(lines, right=range(2, 2 + len(sizes)))


def plot(found: list[Result], title: str, path: str) -> None:
    """Draws the ratios, one bar a case, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in found if r["path"] == "kernel"]
    labels = [f"{r['op']} {r['dtype']} {r['shape']}" for r in shown]
    figure, axis = pyplot.subplots(figsize=(9, 1.5 + 0.22 * max(1, len(shown))))
    colours = ["tab:green" if r["ratio"] >= 1 else "tab:red" for r in shown]
    axis.barh(range(len(shown)), [r["ratio"] - 1 for r in shown], left=1, color=colours)
    axis.margins(y=0.5 / max(1, len(shown)))
    axis.set_yticks(range(len(shown)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_xlabel("ATen's time / ours (more is better)")
    axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def run(args: argparse.Namespace) -> int:
    """The command `bench`: measures, prints, and writes the files that were asked for."""
    device = args.device or flag_gems.device
    if device != flag_gems.device:  # operators are registered for one kind of device
        print(f"operators run on {flag_gems.device} here; GEMS_VENDOR chooses another device", file=sys.stderr)
        return 2
    head = {
        "chip": harness.chip(device),
        "device": device,
        "torch": torch.__version__,
        "flag_gems": flag_gems.__version__,
        "threads": args.threads if device == "cpu" else None,
        "level": None if args.sizes else args.level,
    }
    title = f"{head['chip']}, torch {head['torch']}" + (f", {args.threads} thread(s)" if device == "cpu" else "")
    found: list[Result] = []
    with harness.threads(args.threads), torch.no_grad():
        try:
            for result in results(args, device):
                found.append(result)
                print(f"  {' '.join(line(result))}", file=sys.stderr)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted: what was measured until then", file=sys.stderr)
    print(f"{title}\n{table(found)}")
    if args.sizes and found:
        print(f"\n{slower(found, args.slower)}")
    if args.json:
        Path(args.json).write_text(json.dumps({**head, "results": found}, indent=1) + "\n")
    if args.plot:
        plot(found, title, args.plot)
    return 0
