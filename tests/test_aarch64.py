"""The cpu backend's fibers on aarch64: cross-compiled, run under qemu-user."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from native import CSRC, ROOT

pytestmark = pytest.mark.slow
TOOLS = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
}
KERNEL = """
using namespace gems;
extern "C" __global__ void kernel(const float* x, float* y, int n) {
    __shared__ float buf[33];
    float s = 0, total;
    GEMS_FOR_BLOCK(i, n) s += x[blockIdx.x * n + i];
    s = block_reduce(s, Sum{}, buf);
    double twice = 2.0 * threadIdx.x; // lives in a register over the barriers below
    float before = block_exclusive_sum(1.0f, total, buf);
    GEMS_FOR_BLOCK(i, n) y[blockIdx.x * n + i] = s + (float)(twice - before - threadIdx.x);
}
extern "C" __global__ void stuck() { if (threadIdx.x) __syncthreads(); else __syncwarp(); }
"""
SOURCES = [*sorted((CSRC / "backend" / "cpu").glob("*.c"))]
SOURCES += [CSRC / "backend" / "backend.c", CSRC / "base" / "error.c", CSRC / "base" / "text.c"]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    missing = {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}
    assert not missing, f"not installed: {missing}; apt-get install {' '.join(sorted(set(missing.values())))}"


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_program(folder: Path, fast: bool) -> Path:
    """What the backend compiles, by the cross compiler: the same texts around the kernel."""
    cpu = ROOT / "kernels" / "cpu"
    pieces = ["simt.h", "math.h", *([] if fast else ["tensor_core.h"])]
    text = "".join((cpu / name).read_text() + "\n" for name in pieces)
    text += (ROOT / "kernels" / "gems.cuh").read_text() + KERNEL + (cpu / "export.h").read_text()
    source, program = folder / "program.cpp", folder / "program.so"
    source.write_text(text + "GEMS_ENTRY(kernel)\nGEMS_ENTRY(stuck)\n")
    flags = "-std=c++17 -O2 -fPIC -shared -fvisibility=hidden -fno-exceptions -fno-rtti -ffp-contract=off -w -nostdlib"
    run(
        "aarch64-linux-gnu-g++",
        *flags.split(),
        f"-DGEMS_FAST={int(fast)}",
        source,
        "-o",
        program,
        "-lm",
        "-lc",
        "-lgcc",
    )
    return program


@pytest.mark.parametrize("mode", ["fast", "faithful"])
@pytest.mark.parametrize("order", ["forward", "reverse", "random:5"])
def test_launches(tmp_path: Path, mode: str, order: str) -> None:
    program = compile_program(tmp_path, mode == "fast")
    driver = tmp_path / "driver"
    run(
        *(
            "aarch64-linux-gnu-gcc",
            "-std=c11",
            "-D_GNU_SOURCE",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{CSRC}",
        ),
        *(ROOT / "tests" / "cpu_driver.c", *SOURCES, "-o", driver, "-ldl", "-lpthread"),
    )
    settings = (
        f"GEMS_CPU_MODE={mode}",
        f"GEMS_CPU_ORDER={order}",
        "CXX=/bin/true",
        f"GEMS_KERNEL_DIR={ROOT / 'kernels'}",
    )
    out = run("env", *settings, "qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", driver, program, mode)
    assert out.split("\n")[0] == "sums agree"
    if mode == "faithful":
        assert "deadlock" in out and "31 threads (first: 1) at __syncthreads" in out
    assert out.rstrip().endswith("sums agree again")
