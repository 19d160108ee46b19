"""Curves over sizes: products of matrices, attention over the length of the sequence, bandwidth of rows over elements.

    python benchmarks/curves.py                        # measures all, writes a CSV and pictures to benchmarks/results
    python benchmarks/curves.py --subjects matmul,rows --csv - --no-pictures
    python benchmarks/curves.py --from-csv FILE        # draws what was measured elsewhere

Every figure of a point is measured in interleaved rounds beside the others of that point. On a GPU what autograd does
not record is timed as a graph, so that the host's work is not in it. Without a GPU the sizes are smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import flag_gems
import torch
import torch.nn.functional as F
from flag_gems.bench import harness
from flag_gems.bench.cases import clone_source
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

RESULTS = Path(__file__).resolve().parent / "results"
OURS, ATEN, CLONE = "flag_gems", "ATen", "torch.clone"
GPU = flag_gems.device == "cuda"
K, M, G = 1 << 10, 1 << 20, 1 << 30
SUBJECTS = ("matmul", "attention", "rows")
MATMUL = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384) if GPU else (64, 128, 256, 512)
TOKENS = (512, 1 * K, 2 * K, 4 * K, 8 * K, 16 * K) if GPU else (64, 128, 256)
ELEMENTS = (1 * K, 8 * K, 32 * K, 128 * K, 512 * K, 1 * M, 4 * M, 16 * M, 64 * M, 256 * M, 1 * G)
ELEMENTS = ELEMENTS if GPU else ELEMENTS[:8:2]
COLUMNS = 4096


@dataclass(frozen=True)
class Point:
    """One figure: `value` in `unit` at `size`, which counts what the subject's axis says."""

    chip: str
    torch: str
    subject: str
    case: str
    size: int
    who: str
    value: float
    unit: str
    path: str  # "kernel", or "fallback" where ours was ATen's kernel


Call = Callable[[], Any]
Scope = Callable[[], AbstractContextManager]


def draw(*size: int, dtype: torch.dtype, grad: bool = False) -> Tensor:
    return torch.empty(*size, dtype=dtype, device=flag_gems.device).normal_().requires_grad_(grad)


@dataclass(frozen=True)
class Prepared:
    """A candidate that makes `calls` calls at a time."""

    candidate: harness.Candidate
    calls: int = 1


def calls_of(call: Call) -> int:
    """How many calls of a GPU are to be one graph: as many as take about half a millisecond; 0: longer ones, which hide
    what the host does, are timed as they are (a graph copies memory in another way). To be asked once for all that are
    compared: what launching a graph costs is shared by its calls."""
    if not GPU:
        return 0
    call()
    seconds = harness.chunk_seconds(call, 10, "cuda") / 10
    return min(64, int(5e-4 / seconds)) if seconds < 1e-4 else 0


def prepared(call: Call, scope: Scope = contextlib.nullcontext, count: int = 0) -> Prepared:
    """A candidate whose calls come `count` in a graph; 0: no graph."""
    if not count:
        return Prepared(harness.Candidate(call, scope))
    with scope():
        call()
        made = torch.cuda.CUDAGraph()
        with torch.cuda.graph(made):
            for _ in range(count):
                call()
    return Prepared(harness.Candidate(made.replay), count)


def seconds_of(them: dict[str, Prepared], budget: float) -> dict[str, float]:
    """Seconds of one call of each: the median round, or on a CPU with one thread the fastest."""
    candidates = {name: one.candidate for name, one in them.items()}
    timing = harness.compare(candidates, flag_gems.device, rounds=9, chunk=2e-3, budget=budget)
    best = timing.fastest if not GPU and torch.get_num_threads() == 1 else timing.median
    return {name: best(name) / one.calls for name, one in them.items()}


def taken(call: Call, scope: Scope = contextlib.nullcontext) -> str:
    """Whether a call of ours ran in our kernels."""
    flag_gems.reset_stats()
    with scope():
        call()
    counts = flag_gems.stats().values()
    ours, others = (sum(count.get(kind, 0) for count in counts) for kind in ("kernel", "fallback"))
    return "kernel" if ours and not others else "fallback"


Row = tuple[str, int, str, float, str, str]  # case, size, who, value, unit, path


def matmul(budget: float) -> Iterator[Row]:
    """bfloat16 (float32 on a CPU), square, of two layouts."""
    dtype = torch.bfloat16 if GPU else torch.float32
    for layout in ("nn", "nt"):
        for n in MATMUL:
            a, b = (draw(n, n, dtype=dtype) for _ in range(2))
            b = b.mT if layout == "nt" else b

            def ours(a: Tensor = a, b: Tensor = b) -> Tensor:
                return flag_gems.ops.mm(a, b)

            def aten(a: Tensor = a, b: Tensor = b) -> Tensor:
                return torch.mm(a, b)

            path = taken(ours)
            count = calls_of(aten)
            seconds = seconds_of({OURS: prepared(ours, count=count), ATEN: prepared(aten, count=count)}, budget)
            name = f"{str(dtype).removeprefix('torch.')} {layout}"
            for who, one in seconds.items():
                yield name, n, who, 2.0 * n**3 / one / 1e12, "TFLOP/s", path if who == OURS else ""


def attention(budget: float) -> Iterator[Row]:
    """Causal, as many tokens in all at every length; forward, and forward with backward."""
    dtype = torch.bfloat16 if GPU else torch.float32
    total, width = (16 * K, 2048) if GPU else (256, 128)
    others = {"torch flash": SDPBackend.FLASH_ATTENTION, "torch cuDNN": SDPBackend.CUDNN_ATTENTION}
    for d in (64, 128) if GPU else (32,):
        for length in TOKENS:
            q, k, v = (draw(total // length, width // d, length, d, dtype=dtype, grad=True) for _ in range(3))
            grad = draw(*q.shape, dtype=dtype)
            flops = 4.0 * total * length * width / 2
            for backward in (False, True):

                def call(function: Callable[..., Tensor], back: bool = backward, x: tuple = (q, k, v, grad)) -> Any:
                    if back:
                        return torch.autograd.grad(function(*x[:3], is_causal=True), x[:3], x[3])
                    with torch.no_grad():
                        return function(*x[:3], is_causal=True)

                mine = prepared(lambda c=call: c(flag_gems.scaled_dot_product_attention))
                candidates = {OURS: mine}
                for who, kind in others.items():
                    made = harness.Candidate(
                        lambda c=call: c(F.scaled_dot_product_attention), lambda kind=kind: sdpa_kernel(kind)
                    )
                    with contextlib.suppress(RuntimeError), made.scope(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        made.call()
                        candidates[who] = Prepared(made)
                path = taken(mine.candidate.call)
                name = f"{str(dtype).removeprefix('torch.')} d={d} {'forward and backward' if backward else 'forward'}"
                for who, one in seconds_of(candidates, budget).items():
                    rate = flops * (3.5 if backward else 1) / one / 1e12
                    yield name, length, who, rate, "TFLOP/s", path if who == OURS else ""


def rows_cases(n: int, dtype: torch.dtype) -> dict[str, tuple[Call, int]]:
    """Calls on n elements, and how many tensors of n elements each moves."""
    columns = min(COLUMNS, n)
    x, y = draw(n, dtype=dtype), draw(n, dtype=dtype)
    w = draw(columns, dtype=dtype)
    rows = x.view(-1, columns)
    return {
        "add": (lambda: torch.add(x, y), 3),
        "gelu": (lambda: F.gelu(x), 2),
        "sum of rows": (lambda: torch.sum(rows, -1), 1),
        "softmax": (lambda: torch.softmax(rows, -1), 2),
        "layer_norm": (lambda: F.layer_norm(rows, (columns,), w, w), 2),
        "cumsum": (lambda: torch.cumsum(rows, -1), 2),
    }


def rows(budget: float) -> Iterator[Row]:
    """Elementwise and row operators beside torch.clone of as many bytes; rows have 4096 columns."""
    for dtype in (torch.bfloat16, torch.float32):
        for n in ELEMENTS:
            with torch.no_grad():
                cases = rows_cases(n, dtype)
                clones: dict[int, float] = {}
                for name, (call, tensors) in cases.items():
                    moved = tensors * n * dtype.itemsize
                    path = taken(call, flag_gems.use_gems)
                    count = calls_of(call)
                    candidates = {OURS: prepared(call, flag_gems.use_gems, count), ATEN: prepared(call, count=count)}
                    if moved not in clones:
                        source = clone_source(moved // 2, flag_gems.device)
                        candidates[CLONE] = prepared(lambda source=source: torch.clone(source), count=count)
                    seconds = seconds_of(candidates, budget)
                    clones[moved] = seconds.get(CLONE, clones.get(moved, 0.0))
                    for who, one in (seconds | {CLONE: clones[moved]}).items():
                        title = f"{name} {str(dtype).removeprefix('torch.')}"
                        yield title, n, who, moved / one / 1e9, "GB/s", path if who == OURS else ""
            del cases, candidates
            clone_source.cache_clear()
            if GPU:
                torch.cuda.empty_cache()


def measure(subjects: list[str], budget: float) -> Iterator[Point]:
    chip = harness.chip(flag_gems.device)
    measured = {"matmul": matmul, "attention": attention, "rows": rows}
    for subject in subjects:
        for case, size, who, value, unit, path in measured[subject](budget):
            yield Point(chip, torch.__version__, subject, case, size, who, float(f"{value:.4g}"), unit, path)


def read(path: Path) -> list[Point]:
    """The points of a CSV; lines that are none (what else a program printed) are passed over."""
    names = [field.name for field in fields(Point)]
    lines = [line for line in path.read_text().splitlines() if line.count(",") >= len(names) - 1]
    points = []
    for row in csv.reader(lines):
        if len(row) == len(names) and row != names and row[2] in SUBJECTS:
            made = dict(zip(names, row, strict=True))
            points.append(Point(**{**made, "size": int(made["size"]), "value": float(made["value"])}))
    return points


class Writer:
    """Points to a CSV, each as soon as it is there."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.rows = csv.DictWriter(file, [field.name for field in fields(Point)], lineterminator="\n")
        self.rows.writeheader()

    def write(self, point: Point) -> None:
        self.rows.writerow(asdict(point))
        self.file.flush()


STYLES = {
    OURS: ("tab:green", "o"),
    ATEN: ("tab:blue", "s"),
    "torch flash": ("tab:blue", "s"),
    "torch cuDNN": ("tab:orange", "^"),
    CLONE: ("0.55", ""),
}
AXES = {
    "matmul": "rows, columns and depth",
    "attention": "length of the sequence",
    "rows": "elements",
}


def size_text(size: float) -> str:
    for unit, name in ((G, "G"), (M, "M"), (K, "K")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def picture(points: list[Point], subject: str) -> Any:
    """A figure with a panel for each case; a hollow mark is a point at which ours was ATen's kernel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(p.case for p in points))
    across = min(4 if len(cases) > 4 else 2, len(cases))
    down = -(-len(cases) // across)
    figure, axes = pyplot.subplots(down, across, figsize=(4.4 * across, 3.3 * down), squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.remove()
    for axis, case in zip(axes.flat, cases, strict=False):
        mine = [p for p in points if p.case == case]
        for who in dict.fromkeys(p.who for p in mine):
            line = sorted((p for p in mine if p.who == who), key=lambda p: p.size)
            colour, mark = STYLES[who]
            x, y = [p.size for p in line], [p.value for p in line]
            axis.plot(x, y, color=colour, linewidth=1.4, label=who, linestyle="-" if mark else "--")
            for kind, filled in (("fallback", "none"), ("kernel", colour), ("", colour)):
                at = [(p.size, p.value) for p in line if p.path == kind]
                if at and mark:
                    axis.scatter(*zip(*at, strict=True), s=18, marker=mark, fc=filled, ec=colour, zorder=3)
        axis.set_xscale("log", base=2)
        ticks = sorted({p.size for p in mine})[:: 2 if len({p.size for p in mine}) > 7 else 1]
        axis.set_xticks(ticks, [size_text(t) for t in ticks], fontsize=8)
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_title(case, fontsize=10)
        axis.set_ylabel(mine[0].unit)
        axis.set_xlabel(AXES[subject], fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    figure.suptitle(f"{points[0].chip}, torch {points[0].torch}")
    figure.tight_layout()
    return figure


def slug(chip: str) -> str:
    """ "NVIDIA H200" -> "nvidia_h200"; a CPU's model says little in a virtual machine."""
    return re.sub(r"\W+", "_", chip.lower()).strip("_") if "nvidia" in chip.lower() else "cpu"


def draw_all(points: list[Point], directory: Path) -> list[Path]:
    """Writes a PNG and an SVG for each subject that has points."""
    from matplotlib import pyplot

    written = []
    for subject in SUBJECTS:
        mine = [p for p in points if p.subject == subject]
        if not mine:
            continue
        figure = picture(mine, subject)
        for suffix in ("png", "svg"):
            path = directory / f"{slug(mine[0].chip)}_curves_{subject}.{suffix}"
            figure.savefig(path, dpi=110, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
        pyplot.close(figure)
    return written


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="matmul,attention,rows")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds for each point (default 0.3)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU (default 1)")
    parser.add_argument("--csv", help="where to write the figures; - for standard output")
    parser.add_argument("--from-csv", type=Path, help="draw this and measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the pictures")
    parser.add_argument("--no-pictures", action="store_true")
    args = parser.parse_args(argv)
    subjects = args.subjects.split(",")
    if set(subjects) - set(SUBJECTS):
        parser.error(f"subjects are {', '.join(SUBJECTS)}")
    if args.from_csv:
        points = [p for p in read(args.from_csv) if p.subject in subjects]
    else:
        name = args.csv or args.out / f"{slug(harness.chip(flag_gems.device))}_curves.csv"
        with contextlib.ExitStack() as stack:
            file = sys.stdout if name == "-" else stack.enter_context(Path(name).open("w"))
            writer = Writer(file)
            points = []
            stack.enter_context(harness.threads(args.threads))
            for point in measure(subjects, args.budget):
                points.append(point)
                writer.write(point)
    if not points:
        print("there are no points", file=sys.stderr)
        return 1
    if not args.no_pictures:
        for path in draw_all(points, args.out):
            print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
