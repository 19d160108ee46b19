"""Products with one column, or at most 16: numbers where threads run one by one, machine code, and mistakes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import flag_gems
import pytest
import torch
from flag_gems import ops

import native
import sass
from cpu_modes import run_program
from test_matmul import DEVICE, check, kernels, matrix

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
HALVES = FLOATS[:2]
# Lines and depth, of which some end within a step; and rows, columns, depth. Of the last of these blocks share k.
ONE = ((8, 64), (304, 1096))
FEW = ((2, 72, 264), (16, 300, 1096), (3, 33, 40), (5, 40, 2056))
PROGRAM = """
import sys
import torch
import test_matmul_few as t
torch.manual_seed(0)
for name in sys.argv[1:]:
    getattr(t, name)()
print("all right")
"""


def one(sizes: tuple[tuple[int, int], ...] = ONE) -> None:
    """A matrix and a vector in both layouts, by every operator that comes to it."""
    for dtype in FLOATS:
        for m, k in sizes:
            for layout in ("contiguous", "transposed"):
                a, x, c = (
                    matrix(m, k, dtype, layout),
                    matrix(k, 1, dtype, "contiguous"),
                    matrix(m, 1, dtype, "contiguous"),
                )
                with kernels("mv"):
                    result = ops.mv(a, x[:, 0])
                check(result[:, None], a, x)
                check(ops.addmv(c[:, 0], a, x[:, 0], beta=2, alpha=0.5)[:, None], a, x, c, 2, 0.5)
                for left, right in ((a, x), (x.t(), a.t())):
                    check(ops.mm(left, right), left, right)
                torch.testing.assert_close(ops.mv(a, x[:, 0]), result, rtol=0, atol=0)
        # Lines end within a vector.
        a, x = matrix(520, 304, dtype, "contiguous").t()[:301], matrix(520, 1, dtype, "contiguous")
        check(ops.mv(a, x[:, 0])[:, None], a, x)
    batch = matrix(40, 72, torch.bfloat16, "contiguous", (3,)), matrix(72, 1, torch.bfloat16, "contiguous", (3,))
    check(ops.bmm(*batch), *batch)


def few(sizes: tuple[tuple[int, int, int], ...] = FEW) -> None:
    """Few rows and a layer's weight, or the other way round."""
    for dtype in HALVES:
        for m, n, k in sizes:
            x, w = matrix(m, k, dtype, "contiguous"), matrix(n, k, dtype, "contiguous")
            c, d = matrix(1, n, dtype, "contiguous"), matrix(m, n, dtype, "transposed")
            with kernels("mm"):
                result = ops.mm(x, w.t())
            check(result, x, w.t())
            check(ops.mm(w, x.t()), w, x.t())
            for added in (c[0], d):
                check(ops.addmm(added, x, w.t(), beta=2, alpha=0.5), x, w.t(), added.expand(m, n), 2, 0.5)
            torch.testing.assert_close(ops.mm(x, w.t()), result, rtol=0, atol=0)
    x, w = matrix(5, 136, torch.bfloat16, "contiguous", (3,)), matrix(40, 136, torch.bfloat16, "contiguous", (3,))
    check(ops.bmm(x, w.mT), x, w.mT)


def run(mode: str, names: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_program(mode, PROGRAM, names, tmp_path, GEMS_CPU_DEVICE="sm_90a", **environment)


@pytest.mark.parametrize("name", ["one", "few"])
@pytest.mark.parametrize(("mode", "order"), [("checked", "forward"), ("faithful", "random:3")])
def test_numbers_in_every_mode(name: str, mode: str, order: str, tmp_path: Path) -> None:
    done = run(mode, [name], tmp_path, GEMS_CPU_ORDER=order)
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stdout + done.stderr
    assert f"compiled matmul {name}" in done.stderr, done.stderr


MISTAKES = {
    "one block's sums for all": ("few", "cluster_read(sums + i, s)", "cluster_read(sums + i, 0)"),
    "sums that are read before they are there": (
        "few",
        "    cluster_arrive();\n    cluster_wait();\n#endif\n    for",
        "#endif\n    for",
    ),
    "words of k that do not belong together": ("few", "{b[w].v[h], b[w].v[h + 1]}", "{b[w].v[h + 1], b[w].v[h]}"),
    "the end of k": ("few", "a[i] = there ? ", "a[i] = true ? "),
    "parts of a block": ("one", "i < (kLines ? kWarps : kShare)", "i < (kLines ? kWarps - 1 : kShare)"),
    "lines beyond the last": ("one", "if (row + e < p.m) sum[e]", "sum[e]"),
}


QUICK = ("one block's sums for all", "lines beyond the last")


@pytest.mark.parametrize("mistake", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MISTAKES])
def test_planted_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    name, right, wrong = MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    text = (texts / f"matmul_{name}.cu").read_text()
    assert text.count(right) == 1, "the text to change is not there"
    (texts / f"matmul_{name}.cu").write_text(text.replace(right, wrong))
    done = run("checked", [name], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert done.returncode != 0 and ("AssertionError" in done.stderr or "problem" in done.stderr), done.stderr


def code(name: str, head: str, clusters: bool, arch: str) -> sass.Kernel:
    files = ["matmul.cuh", "matmul_end.cuh", *(["cluster.cuh"] if clusters else []), f"matmul_{name}.cu"]
    head += f"\nconstexpr bool kScaled = false;\n#define GEMS_CLUSTERS {int(clusters)}\n"
    texts = [sass.contract(), head, *((native.ROOT / "kernels" / file).read_text() for file in files)]
    return sass.kernels("\n".join(texts), [f"matmul_{name}"], arch)[f"matmul_{name}"]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_machine_code(arch: str) -> None:
    """Loads of 16 bytes, several before the first product, and nothing spills."""
    clusters = arch != "sm_80"
    for kind in ("gems::bf16", "double"):
        for lines, share in ((False, 4), (True, 4), (True, 16)):
            head = f"typedef {kind} Scalar;\nconstexpr bool kLines = {int(lines)};\nconstexpr int kShare = {share};"
            kernel = code("one", head, lines and clusters, arch)
            assert kernel.spill_bytes == 0 and kernel.count("LDG.E.128") + kernel.count("LDG.E.EF.128") >= 8
    for columns in (8, 16):
        for share in (8, 2):
            head = f"typedef gems::bf16 Scalar;\nconstexpr int kShare = {share}, kColumns = {columns};"
            kernel = code("few", head, clusters and share == 8, arch)
            assert kernel.spill_bytes == 0 and kernel.registers <= 128 and kernel.has("HMMA")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="numbers of a GPU")
def test_numbers_on_a_gpu() -> None:
    torch.manual_seed(0)
    one((*ONE, (4096, 4096), (1024, 8192), (14336, 1032)))
    few((*FEW, (16, 4096, 4096), (8, 1024, 8192), (12, 14336, 1032), (4, 6144, 4096)))
    assert flag_gems.device == "cuda"
