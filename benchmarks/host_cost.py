"""What a call costs on the host: instructions a call, counted by valgrind's callgrind, ours against ATen's.

The null backend takes our launches and runs nothing, and tensors are tiny, so that what is left is the call itself:
arguments, checks, plan lookup, the output. ATen's count includes its (tiny) kernel. Instructions do not depend on how
busy the machine is. The cost of an empty Python call is subtracted from both.

    python benchmarks/host_cost.py [--calls N] [--json OUT]

The exit code is 1 when a ratio is above its limit or an operator did not run in our kernels.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Ratio to ATen that each may have at most: (operator, way of calling it).
LIMITS = {
    ("mm", "ops"): 0.55,
    ("mm", "enable"): 1.0,
    ("_softmax", "enable"): 1.0,
    ("native_layer_norm", "enable"): 1.0,
    ("sum.dim_IntList", "enable"): 1.0,
    ("where.self", "enable"): 1.0,
    ("add.Tensor", "enable"): 1.3,
}

# valgrind's client requests without its headers: a sequence that does nothing on a real processor.
REQUESTS = r"""
#include <stdint.h>
static void request(uintptr_t code, const void *argument) {
    volatile uintptr_t args[6] = {code, (uintptr_t)argument, 0, 0, 0, 0};
#if defined(__x86_64__)
    uintptr_t result = 0;
    __asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
                     : "=d"(result) : "a"(&args[0]), "0"(result) : "cc", "memory");
#elif defined(__aarch64__)
    __asm__ volatile("mov x3, #0; mov x4, %0; ror x12, x12, #3; ror x12, x12, #13; ror x12, x12, #51;"
                     "ror x12, x12, #61; orr x10, x10, x10" : : "r"(&args[0]) : "cc", "memory", "x3", "x4");
#else
#error "no client requests for this processor"
#endif
}
enum { BASE = 'C' << 24 | 'T' << 16 };
void count_begin(void) { request(BASE + 4, 0); request(BASE + 1, 0); }          /* instrument, zero */
void count_end(const char *name) { request(BASE + 3, name); request(BASE + 5, 0); } /* dump, stop */
"""


def cases() -> dict[str, tuple[Callable[[], object], Callable[[], object] | None]]:
    """By aten name: the call through torch, and the explicit function where one is measured."""
    import flag_gems
    import torch
    import torch.nn.functional as F

    x, y = torch.randn(1), torch.randn(1)
    a, b = torch.randn(2, 2), torch.randn(2, 2)
    rows = torch.randn(4, 8)
    weight, bias = torch.ones(8), torch.zeros(8)
    condition = torch.tensor([True])
    ops = flag_gems.ops
    mm, add = ops.mm, ops.add
    return {
        "mm": (lambda: torch.mm(a, b), lambda: mm(a, b)),
        "_softmax": (lambda: torch.softmax(rows, -1), None),
        "native_layer_norm": (lambda: F.layer_norm(rows, (8,), weight, bias), None),
        "sum.dim_IntList": (lambda: torch.sum(rows, -1), None),
        "where.self": (lambda: torch.where(condition, x, y), None),
        "add.Tensor": (lambda: torch.add(x, y), lambda: add(x, y)),
    }


def measure(calls: int, library: str) -> None:
    """Runs under callgrind: dumps one profile for each operator and way of calling it."""
    import flag_gems
    import torch

    requests = ctypes.CDLL(library)
    torch.set_num_threads(1)

    def count(name: str, call: Callable[[], object]) -> None:
        loop = range(calls)
        for _ in range(20):
            call()
        requests.count_begin()
        for _ in loop:
            call()
        requests.count_end(name.encode())

    with torch.no_grad():
        todo = cases()
        for name in ("warm", "empty"):
            count(name, lambda: None)
        for name, (call, _) in todo.items():
            count(f"{name} aten", call)
        for name, (_, explicit) in todo.items():
            if explicit:
                count(f"{name} ops", explicit)
        flag_gems.enable()
        flag_gems.reset_stats()
        for name, (call, _) in todo.items():
            count(f"{name} enable", call)
        ran = flag_gems.stats()
    for name in todo:
        counted = ran.get(name, {})
        if counted.get("kernel", 0) < calls or counted.get("fallback"):
            print(name)  # it ran in ATen's kernel


def read_profiles(directory: Path) -> dict[str, int]:
    """Instructions of each dump, by the name it was made with."""
    found = {}
    for path in directory.glob("callgrind.out*"):
        text = path.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
        if name and total:
            found[name[1].strip()] = int(total[1])
    return found


def run(calls: int) -> tuple[dict[str, float], list[str]]:
    """Instructions a call of each case, less those of an empty call; and the operators that declined.

    Raises
    ------
    RuntimeError
        When valgrind or a compiler is not here, or the measured process fails.
    """
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    valgrind = shutil.which("valgrind")
    if not valgrind or not compiler:
        raise RuntimeError("this needs valgrind and a C compiler")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source, library = directory / "requests.c", directory / "requests.so"
        source.write_text(REQUESTS)
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        tool = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/callgrind.out"]
        command = [*tool, sys.executable, __file__, "--measure", str(library), "--calls", str(calls)]
        env = dict(os.environ, GEMS_BACKEND="null", OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the measured process failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        profiles = read_profiles(directory)
    empty = profiles["empty"]
    found = {case: (total - empty) / calls for case, total in profiles.items() if case not in ("warm", "empty")}
    return found, done.stdout.split()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--calls", type=int, default=500, help="of each case (default 500)")
    arguments.add_argument("--json", metavar="OUT", help="write the figures to a file")
    arguments.add_argument("--measure", metavar="LIBRARY", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.measure:
        measure(args.calls, args.measure)
        return 0
    found, declined = run(args.calls)
    names = list(dict.fromkeys(case.rpartition(" ")[0] for case in sorted(found)))
    print(f"{'instructions a call':22} {'ATen':>8} {'ops.X':>8} {'ratio':>6} {'enable()':>9} {'ratio':>6}  limit")
    above = []
    for name in names:
        aten = found[f"{name} aten"]
        cells = f"{name:22} {aten:8.0f}"
        notes = []
        for way, width in (("ops", 8), ("enable", 9)):
            ours = found.get(f"{name} {way}")
            cells += f" {ours:{width}.0f} {ours / aten:6.2f}" if ours else f" {'':{width}} {'':6}"
            limit = LIMITS.get((name, way))
            if limit and ours:
                notes.append(f"{way} {limit}" + ("" if ours / aten <= limit else " EXCEEDED"))
                if ours / aten > limit:
                    above.append(name)
        if name in declined:
            notes.append("DECLINED: ATen's kernel ran")
        print(f"{cells}  {', '.join(notes)}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if above or declined else 0


if __name__ == "__main__":
    sys.exit(main())
