"""Tuning, where it is asked for: measures what a matrix product may be computed with, and keeps what beats the model.

Every product has a configuration without this, from a model of the device. `python -m flag_gems tune` times the others
on operands of its own, and writes those that are faster to a table in the cache directory, which later processes read.
A program that runs never measures anything.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import flag_gems
import torch
from flag_gems import _C, ops
from flag_gems.bench import harness
from flag_gems.rows import aligned
from torch import Tensor

OPS = ("mm", "addmm", "bmm", "baddbmm")
LAYOUTS = ("nn", "nt", "tn", "tt")
# Rows, columns, depth.
SHAPES: dict[str, list[tuple[int, int, int]]] = {
    "squares": [(n, n, n) for n in (1024, 2048, 4096, 8192)],
    "layers": [
        (m, n, k) for m in (256, 2048, 8192) for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096))
    ],
    "decode": [
        (m, n, k)
        for m in (1, 16, 32, 64)
        for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (1024, 8192), (128256, 4096))
    ],
    "small": [(64, 64, 64), (128, 256, 512), (512, 512, 512)],
}
CACHE = 128 << 20  # operands of a shape are taken in turn from copies that are larger than this on a GPU
FINALISTS = 4


@dataclass(frozen=True)
class Product:
    """A product to be tuned: [batch] rows x columns x depth; n: rows of an operand are contiguous, t: its columns."""

    op: str
    dtype: str
    sizes: tuple[int, ...]
    layout: str

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {'x'.join(map(str, self.sizes))} {self.layout}"


class Choice(NamedTuple):
    """A configuration for each of those who may have to choose one; "": the model's."""

    tiles: str
    hopper: str

    def __str__(self) -> str:
        return self.hopper if self.hopper not in ("", "other") else self.tiles or self.hopper or "the model's"


MODEL = Choice("", "")


@dataclass
class Result:
    """What came of one product: seconds of the model's configuration, of the best one, and of ATen."""

    product: Product
    reason: str = ""  # why there was nothing to measure
    tried: int = 0
    wrong: list[str] = field(default_factory=list)  # configurations whose result was not the model's
    model: str = ""
    winner: str = ""
    model_s: float = float("nan")
    best_s: float = float("nan")
    aten_s: float = float("nan")
    gain: float = 1.0  # how many times as fast the winner is as the model, round by round
    beside_aten: float = float("nan")
    times: dict[str, float] = field(default_factory=dict)  # of each configuration, in the first and short round
    lines: list[str] = field(default_factory=list)  # of the table, where the winner is worth it


def sizes_of(text: str, batched: bool) -> list[tuple[int, ...]]:
    """The shapes that a name ("decode") or a text ("16x4096x4096", "8x512x512x512") means.

    Raises
    ------
    ValueError
        When it means none.
    """
    if text in SHAPES:
        return [(16, *sizes) if batched else sizes for sizes in SHAPES[text]]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,3}", text):
        raise ValueError(f"not a shape: {text!r} (such as 16x4096x4096, or {', '.join(SHAPES)})")
    sizes = tuple(map(int, text.split("x")))
    if len(sizes) == 4 and not batched:
        raise ValueError(f"{text}: a batch is for bmm and baddbmm")
    return [sizes if len(sizes) == 4 or not batched else (1, *sizes)]


def plan(operators: list[str], shapes: list[str] | None, dtypes: list[str] | None, layouts: list[str]) -> list[Product]:
    """The products to be tuned.

    Raises
    ------
    ValueError
        When a name is not known.
    """
    shapes = shapes or (["squares", "layers", "decode"] if flag_gems.device == "cuda" else ["small"])
    dtypes = dtypes or (["bfloat16"] if flag_gems.device == "cuda" else ["float32"])
    for kind, wanted, known in (
        ("operator that can be tuned", operators, OPS),
        ("dtype", dtypes, ("float32", "float64", "float16", "bfloat16")),
        ("layout", layouts, LAYOUTS),
    ):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(f"no {kind}: {', '.join(unknown)}; there are {', '.join(known)}")
    found = [
        Product(op, dtype, sizes, layout)
        for op in operators
        for dtype in dtypes
        for text in shapes
        for sizes in sizes_of(text, "bmm" in op)
        for layout in layouts
    ]
    return list(dict.fromkeys(found))


def operands(product: Product, most: int = 8) -> list[tuple[Tensor, ...]]:
    """Scratch operands, in as many sets as it takes to exceed a GPU's cache, at most so many."""
    *batch, m, n, k = product.sizes
    dtype = getattr(torch, product.dtype)

    def random(rows: int, columns: int, layout: str) -> Tensor:
        if layout == "t":
            return torch.randn(*batch, columns, rows, device=flag_gems.device).to(dtype).mT
        return torch.randn(*batch, rows, columns, device=flag_gems.device).to(dtype)

    def one() -> tuple[Tensor, ...]:
        pair = random(m, k, product.layout[0]), random(k, n, product.layout[1])
        return (random(m, n, "n"), *pair) if "add" in product.op else pair

    first = one()
    moved = sum(t.numel() * t.element_size() for t in first)
    count = min(most, CACHE // moved + 1) if flag_gems.device == "cuda" else 1
    return [first, *(one() for _ in range(count - 1))]


@contextlib.contextmanager
def forced(choice: Choice) -> Iterator[None]:
    """This thread's products have a configuration inside, where they may."""
    _C.tuning_watch(True)
    try:
        _C.tuning_force(*choice)
        yield
    finally:
        _C.tuning_watch(False)


def ran(product: Product, choice: Choice, arguments: tuple[Tensor, ...]) -> tuple[Tensor | None, dict[str, Any]]:
    """The result of a call in a configuration, and what was asked for; None where our kernel did not run."""
    with forced(choice):
        before = flag_gems.stats().get(product.op, {}).get("kernel", 0)
        result = getattr(ops, product.op)(*arguments)
        taken = flag_gems.stats().get(product.op, {}).get("kernel", 0) > before
        return (result if taken else None), _C.tuning_asked()


def choices(product: Product, arguments: tuple[Tensor, ...]) -> tuple[list[Choice], dict[str, Any]]:
    """All configurations of a product, the model's first; empty where no kernel of ours takes it. Then by route (who
    chooses): its key of the table, and its options, of which the first is the model's."""
    result, asked = ran(product, MODEL, arguments)
    if result is None or not asked:
        return [], {}
    if "hopper" not in asked:
        return [MODEL, *(Choice(text, "") for text in asked["tiles"][1][1:])], asked
    found = [MODEL, *(Choice("", text) for text in asked["hopper"][1][1:] if text != "other")]
    _, others = ran(product, Choice("", "other"), arguments)
    asked = others | asked
    return [*found, *(Choice(text, "other") for text in asked.get("tiles", ("", []))[1])], asked


def compile_all(work: list[Product], jobs: int, step: Callable[[int, str], None]) -> None:
    """The first call of each configuration of some products, in threads: compilers run side by side. step is told how
    many there are, and of each one."""
    first: dict[str, tuple[Product, Choice, tuple[Tensor, ...]]] = {}

    def look(product: Product) -> tuple[Product, tuple[Tensor, ...], list[Choice]]:
        with torch.no_grad():
            arguments = operands(product, 1)[0]
            return product, arguments, choices(product, arguments)[0]

    def call(item: tuple[Product, Choice, tuple[Tensor, ...]]) -> None:
        product, choice, arguments = item
        with torch.no_grad():
            ran(product, choice, arguments)
        step(len(first), f"compiling {choice}")

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for product, arguments, every in pool.map(look, work):
            for choice in every:
                # Parts of k and the order of tiles are no part of a program.
                program = re.sub(r" (split|group|rows|depth) \d+", "", f"{choice.tiles};{choice.hopper}")
                key = f"{product.op} {product.dtype} {product.layout} {program}"
                first.setdefault(key, (product, choice, arguments))
        list(pool.map(call, first.values()))


def candidate(
    product: Product, choice: Choice | None, sets: list[tuple[Tensor, ...]], repeat: int
) -> harness.Candidate:
    """Calls with each set, `repeat` times, as a graph on a GPU; choice None: ATen's."""
    call = getattr(torch, product.op) if choice is None else getattr(ops, product.op)
    scope = (lambda: contextlib.nullcontext()) if choice is None else (lambda: forced(choice))

    def run() -> None:
        for _ in range(repeat):
            for arguments in sets:
                call(*arguments)

    if flag_gems.device != "cuda":
        return harness.Candidate(run, scope)
    with scope():
        for arguments in sets:
            call(*arguments)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return harness.Candidate(graph.replay)


def rough(made: harness.Candidate) -> float:
    """Seconds of a candidate, as far as a few calls say."""
    with made.scope():
        harness.chunk_seconds(made.call, 1, flag_gems.device)
        return min(harness.chunk_seconds(made.call, 1, flag_gems.device) for _ in range(3))


def tune(product: Product, least_gain: float, budget: float, step: Callable[[str], None]) -> Result:
    """Measures one product.

    Parameters
    ----------
    product : what is tuned
    least_gain : the part by which a configuration must be faster than the model's to be worth an entry, 0.03
    budget : seconds for the rounds in which the best few are compared
    step : is told of each configuration that was tried

    Returns
    -------
    Result
    """
    sets = operands(product)
    result = Result(product)
    every, asked = choices(product, sets[0])
    if not every:
        result.reason = "ATen's kernel runs here"
        return result
    route = "hopper" if "hopper" in asked else "tiles"
    result.model = asked[route][1][0]
    expected, _ = ran(product, MODEL, sets[0])
    assert expected is not None
    # Sums in another order: a rounding of the result, and of the sums where these are no wider.
    roundings = 2.0 if expected.element_size() == 2 else 2.0 * product.sizes[-1] ** 0.5
    room = roundings * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    alone = rough(candidate(product, MODEL, sets, 1)) / len(sets)
    repeat = max(1, min(20, int(1e-3 / max(alone, 1e-6) / len(sets))))
    times: dict[Choice, float] = {}
    for choice in every:
        got, _ = ran(product, choice, sets[0])
        if got is None or not bool(((got - expected).abs() <= room).all()):
            result.wrong.append(str(choice))
        else:
            times[choice] = rough(candidate(product, choice, sets, repeat))
        step(f"{product}: {choice}")
    result.tried = len(every)
    result.times = {str(choice): one / (repeat * len(sets)) for choice, one in times.items()}
    best = sorted((choice for choice in times if choice != MODEL), key=times.__getitem__)[:FINALISTS]
    candidates = {str(i): candidate(product, choice, sets, repeat) for i, choice in enumerate([MODEL, *best])}
    candidates["aten"] = candidate(product, None, sets, repeat)
    timing = harness.compare(candidates, flag_gems.device, rounds=9, chunk=2e-3, budget=budget)
    calls = repeat * len(sets)
    gains = [timing.ratio("0", str(i)) for i in range(len(best) + 1)]
    at = max(range(len(gains)), key=gains.__getitem__)
    winner = [MODEL, *best][at]
    result.model_s, result.best_s, result.aten_s = (timing.median(name) / calls for name in ("0", str(at), "aten"))
    result.gain, result.beside_aten = gains[at], timing.ratio("aten", str(at))
    result.winner = str(winner) if at else result.model
    result.lines = lines_of(winner if result.gain >= 1 + least_gain else MODEL, asked, route)
    return result


def lines_of(winner: Choice, asked: dict[str, Any], route: str) -> list[str]:
    """The lines of the table that make a configuration the one that is taken. The model needs one only where an entry
    says otherwise."""
    there = {key: value for key, value, _ in _C.tuned_entries()}
    entries = []
    for name, text in (("hopper", winner.hopper), ("tiles", winner.tiles)):
        if name not in asked or (name == "tiles" and route == "hopper" and winner.hopper != "other"):
            continue
        key, options, _ = asked[name]
        if text not in ("", options[0]) or there.get(key, options[0]) != options[0]:
            entries.append(_C.tuned_line(key, text or options[0]))
    return entries


def store(lines: list[str]) -> Path | None:
    """Adds lines to the table of the cache directory, in the place of those with their keys; the file is replaced as
    a whole. None where there is no such directory."""
    name = _C.tuned_path()
    if name is None:
        return None
    path = Path(name)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        keys = {_C.tuned_parse(line)[0] for line in lines}
        old = [line for line in path.read_text().splitlines() if _C.tuned_parse(line)]
        lines = [line for line in old if _C.tuned_parse(line)[0] not in keys] + lines
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
    return path


def run(work: list[Product], least_gain: float, budget: float, jobs: int, progress: bool) -> Iterator[Result]:
    """Tunes products one after the other, with a progress bar on standard error when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with torch.no_grad(), Progress(*columns, console=console, disable=not progress or not console.is_terminal) as bar:
        task = bar.add_task("")
        compile_all(work, jobs, lambda count, text: bar.update(task, total=count, advance=1, description=text))
        bar.reset(task, total=len(work))
        for product in work:
            yield tune(product, least_gain, budget, lambda text: bar.update(task, description=text))
            bar.update(task, advance=1)


def table(results: list[Result]) -> str:
    """The results as lines of text."""
    head = ["product", "tried", "model us", "best us", "ATen us", "gain", "beside ATen", "configuration"]
    cells = [head]
    for r in results:
        times = [f"{1e6 * seconds:.1f}" for seconds in (r.model_s, r.best_s, r.aten_s)]
        row = [str(r.product), str(r.tried), *times, f"{r.gain:.2f}", f"{r.beside_aten:.2f}", r.winner]
        cells.append([str(r.product), *[""] * 6, r.reason] if r.reason else row)
    text = aligned(cells, right=range(1, 7))
    wrong = [f"{r.product}: {name} has not the model's result" for r in results for name in r.wrong]
    return "\n".join([text, *wrong])
