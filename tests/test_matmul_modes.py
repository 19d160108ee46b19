"""The GPU kernels of the matrix product, thread by thread on a CPU, at sizes that are no multiple of a tile.

Mistakes are planted in them as well, which the checked mode or the numbers have to find.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import native
from cpu_modes import run_program

# Sizes that pick every tile on a device of 4 processors, in all ways to read: along k and lines, aligned
# and not.
PRODUCTS = """
import sys, torch, flag_gems
from flag_gems import ops
from test_matmul import check, kernels, matrix

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
ROWS, COLS = "contiguous", "transposed"
cases = {
    "layouts": [
        *((72, 80, 136, BF16, a, b) for a in (ROWS, COLS) for b in (ROWS, COLS)),
        *((72, 80, 136, dtype, a, b) for dtype in (F32, F64) for a, b in ((ROWS, COLS), (COLS, ROWS))),
    ],
    "unaligned": [
        *((65, 71, 77, dtype, "offset", COLS) for dtype in (BF16, F16, F32, F64)),
        (40, 36, 50, BF16, "stepped", "expanded row"),
        (33, 30, 20, F32, "stepped", "expanded row"),
    ],
    "tiles": [
        (500, 520, 72, BF16, ROWS, ROWS),
        (250, 250, 72, F16, ROWS, COLS),
        (100, 250, 100, BF16, COLS, ROWS),
        (16, 100, 200, F16, ROWS, COLS),
        (260, 300, 40, F32, ROWS, ROWS),
    ],
    "split": [(20, 30, 2000, BF16, ROWS, ROWS), (60, 50, 1111, F32, COLS, ROWS), (3, 3, 0, F16, ROWS, ROWS)],
    "few": [(72, 80, 136, BF16, ROWS, COLS), (33, 17, 24, BF16, ROWS, COLS)],
}
torch.manual_seed(0)
for group in sys.argv[1:]:
    for m, n, k, dtype, left, right in cases[group]:
        a, b = matrix(m, k, dtype, left), matrix(k, n, dtype, right)
        c = matrix(1, n, dtype, "contiguous")[0]
        with kernels("mm"):
            result = ops.mm(a, b)
        check(result, a, b)
        with kernels("addmm"):
            added = ops.addmm(c, a, b, beta=2, alpha=0.5)
        check(added, a, b, c.expand(m, n), 2, 0.5)
    if group == "layouts":
        a, b = matrix(33, 20, BF16, ROWS, (3,)), matrix(20, 17, BF16, "batch inside", (3,))
        check(ops.bmm(a, b), a, b)
print("all right")
"""


def run(mode: str, groups: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Multiplies in a process of its own, where the kernels run in one of the CPU's modes."""
    return run_program(mode, PRODUCTS, groups, tmp_path, **environment)


def passed(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0 and done.stdout.endswith("all right\n")


@pytest.mark.parametrize("group", ["layouts", "unaligned", "tiles", "split"])
def test_every_access_is_checked(group: str, tmp_path: Path) -> None:
    done = run("checked", [group], tmp_path)
    assert passed(done), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "random:7"])
def test_threads_in_any_order(order: str, tmp_path: Path) -> None:
    done = run("faithful", ["layouts", "unaligned", "tiles", "split"], tmp_path, GEMS_CPU_ORDER=order)
    assert passed(done), done.stdout + done.stderr


MISTAKES = {
    "a wait that is one stage short": (
        "tile.cuh",
        "cp_async_wait<STAGES - 2>();",
        "cp_async_wait<STAGES - 1>();",
    ),
    "no barrier before a tile is read": (
        "tile.cuh",
        "cp_async_wait<STAGES - 2>();\n            __syncthreads();",
        "cp_async_wait<STAGES - 2>();",
    ),
    "no barrier before slabs overwrite the ring": (
        "tile.cuh",
        "cp_async_wait<0>();\n        __syncthreads();",
        "cp_async_wait<0>();",
    ),
    "no barrier between writing and reading a slab": (
        "matmul.cu",
        "loop.stage(slab, staged, kPitch);\n        __syncthreads();",
        "loop.stage(slab, staged, kPitch);",
    ),
    "a row too many": (
        "matmul.cu",
        "if (row >= p.m || col >= p.n) continue;",
        "if (row > p.m || col >= p.n) continue;",
    ),
    "columns that are read though they do not exist": (
        "tile.cuh",
        "int left = columns < 0 ? 0 : columns > kVec ? kVec : columns;",
        "int left = kVec;",
    ),
    "halves of A's fragment exchanged": (
        "tile.cuh",
        "int down = SECOND ? matrix >> 1 : matrix & 1,",
        "int down = SECOND ? matrix >> 1 : matrix & 1 ^ 1,",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    file, right, wrong = MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    text = (texts / file).read_text()
    assert text.count(right) == 1, "the text to change is not there"
    (texts / file).write_text(text.replace(right, wrong))
    done = run("checked", ["few"], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert not passed(done)
    # The mistake was met: no call was declined, and the text compiles.
    assert "AssertionError" in done.stderr or "the checked mode found" in done.stderr, done.stderr
