"""The cpu backend: fast and faithful modes, its compiler, its failures, its threads."""

from __future__ import annotations

import ctypes as C
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpu_kernels import Program, opened, report_of, shared
from native import GemsError

ADD = """
extern "C" __global__ void kernel(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ z,
                                  int64_t n) {
    GEMS_FOR_GRID(i, n) z[i] = x[i] + y[i];
}
"""
ORDERS = ("forward", "reverse", "random:1", "random:2")


def floats(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n).astype(np.float32)


@pytest.fixture(scope="module")
def add() -> Program:
    return Program(shared(), ADD)


@pytest.fixture
def two_threads() -> Iterator[list[int]]:
    """Launches of the shared fast backend may use as many threads as the list says."""
    count = [2]
    kind = C.CFUNCTYPE(C.c_int)
    slot = kind.in_dll(shared().library, "gems_cpu_thread_count")
    before = C.cast(slot, C.c_void_p).value
    function = kind(lambda: count[0])
    address = C.c_void_p.in_dll(shared().library, "gems_cpu_thread_count")
    address.value = C.cast(function, C.c_void_p).value
    yield count
    address.value = before


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1000, 100003])
@pytest.mark.parametrize("grid", [1, 2, 7, 64])
def test_every_element_once(add: Program, n: int, grid: int) -> None:
    x, y, z = floats(n), floats(n), np.full(n, np.nan, np.float32)
    add(x, y, z, n, grid=grid)
    assert (z == x + y).all()


def test_blocks_have_their_indices() -> None:
    text = """
extern "C" __global__ void kernel(int* y) {
    int at = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    y[at] += blockIdx.x + 100 * blockIdx.y + 10000 * blockIdx.z;
}
"""
    expected = [x + 100 * y + 10000 * z for z in range(5) for y in range(4) for x in range(3)]
    for mode in ("fast", "faithful"):
        y = np.zeros(60, np.int32)
        Program(shared(mode), text)(y, grid=(3, 4, 5), block=1)
        assert y.tolist() == expected


def test_dynamic_shared_memory() -> None:
    text = """
extern "C" __global__ void kernel(const float* x, float* y, int64_t n) {
    GEMS_DYN_SMEM(float, row);
    GEMS_FOR_BLOCK(i, n) row[i] = x[blockIdx.x * n + i];
    __syncthreads();
    GEMS_FOR_BLOCK(i, n) y[blockIdx.x * n + i] = row[n - 1 - i];
    if ((uintptr_t)row % 128) y[0] = -1;
}
"""
    x, n = floats(4096 * 9).reshape(9, 4096), 4096
    for mode in ("fast", "faithful"):
        y = np.zeros_like(x)
        Program(shared(mode), text.replace("uintptr_t", "size_t"))(x, y, n, grid=9, block=64, shared=4 * n)
        assert (y == x[:, ::-1]).all()


def test_several_callers_at_once(add: Program, two_threads: list[int]) -> None:
    x, y = floats(50000), floats(50000)
    wrong: list[int] = []

    def work() -> None:
        for _ in range(200):
            z = np.zeros_like(x)
            add(x, y, z, x.size, grid=16)
            if not (z == x + y).all():
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not wrong


def test_fork_with_a_running_pool(add: Program, two_threads: list[int]) -> None:
    x, y, z = floats(50000), floats(50000), np.zeros(50000, np.float32)
    add(x, y, z, x.size, grid=16)
    child = os.fork()
    if child == 0:
        z[:] = 0
        add(x, y, z, x.size, grid=16)
        os._exit(0 if (z == x + y).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    add(x, y, z, x.size, grid=16)


def test_one_block_starts_no_thread() -> None:
    backend = opened()
    program = Program(backend, ADD)
    before = len(os.listdir("/proc/self/task"))
    program(floats(10), floats(10), floats(10), 10)
    assert len(os.listdir("/proc/self/task")) == before


def test_device_info() -> None:
    fast, faithful, checked = (shared(mode).device_info(0) for mode in ("fast", "faithful", "checked"))
    assert (fast.warp, fast.max_threads, fast.vector_bytes, fast.fast, fast.wants_extents) == (
        1,
        1,
        64,
        True,
        False,
    )
    assert (faithful.warp, faithful.max_threads, faithful.vector_bytes, faithful.fast) == (
        32,
        1024,
        16,
        False,
    )
    assert not faithful.wants_extents and checked.wants_extents
    hopper = opened("faithful", GEMS_CPU_DEVICE="sm_90a").device_info(0)
    assert hopper.hopper and not faithful.hopper and hopper.shared_bytes > faithful.shared_bytes


# ---- the faithful mode


def test_orders_agree() -> None:
    text = """
extern "C" __global__ void kernel(const float* x, float* y, int64_t n) {
    __shared__ float buf[33];
    float s = 0;
    GEMS_FOR_BLOCK(i, n) s += x[blockIdx.x * n + i];
    s = block_reduce(s, Sum{}, buf);
    int votes = __popc(__ballot_sync(~0u, threadIdx.x % 3 == 0));
    GEMS_FOR_BLOCK(i, n) y[blockIdx.x * n + i] = s + votes + __shfl_down_sync(~0u, (float)threadIdx.x, 1);
}
"""
    x = floats(3 * 128)
    results = []
    for order in ORDERS:
        y = np.zeros_like(x)
        Program(shared("faithful", order), text)(x, y, 128, grid=3, block=128)
        results.append(y)
    assert all((y == results[0]).all() for y in results)
    lanes = np.minimum(np.arange(128) % 32 + 1, 31) + np.arange(128) // 32 * 32
    votes = np.array([sum(t % 3 == 0 for t in range(w, w + 32)) for w in range(0, 128, 32)]).repeat(32)
    np.testing.assert_allclose(
        results[0].reshape(3, 128), x.reshape(3, 128).sum(1, keepdims=True) + votes + lanes, atol=1e-4
    )


def test_orders_differ_where_a_kernel_depends_on_them() -> None:
    text = 'extern "C" __global__ void kernel(int* y) { y[atomicAdd(&y[64], 1)] = threadIdx.x; }'
    seen = set()
    for order in ORDERS:
        y = np.zeros(65, np.int32)
        Program(shared("faithful", order), text)(y, block=64)
        assert sorted(y[:64]) == list(range(64))
        seen.add(tuple(y[:64]))
    assert len(seen) == len(ORDERS)


@pytest.mark.parametrize("mode", ["faithful", "checked"])
def test_divergent_barrier(mode: str) -> None:
    text = 'extern "C" __global__ void kernel() {\n if (threadIdx.x < 16) __syncthreads();\n else __syncthreads(); }'
    report = report_of(Program(shared(mode), text), block=32)
    assert (
        "divergent barrier" in report and len({part.split()[0] for part in report.split("program:")[1:]}) == 2
    )


def test_deadlock_says_who_waits_where() -> None:
    text = """
extern "C" __global__ void kernel() {
    if (blockIdx.x == 0) return;
    if (threadIdx.x < 31) __syncthreads(); // barrier
    else __syncwarp(); // warp
}
"""
    program = Program(shared("faithful"), text)
    report = report_of(program, block=64, grid=2)
    line = program.first_line + 3
    assert "deadlock: 32 threads have ended" in report and "block (1,0,0)" in report
    assert f"31 threads (first: 0) at __syncthreads, program:{line}" in report
    assert f"1 thread (first: 31) at __syncwarp, program:{line + 1}" in report


def test_a_lane_that_others_wait_for_ends() -> None:
    text = 'extern "C" __global__ void kernel() { if (threadIdx.x != 9) __shfl_sync(~0u, 1, 0); }'
    for order in ORDERS:
        report = report_of(Program(shared("faithful", order), text))
        assert "ended" in report and "shuffle" in report


def test_divergent_shuffles() -> None:
    text = """
extern "C" __global__ void kernel() {
    if (threadIdx.x < 9) __shfl_sync(~0u, 1, 0);
    else __shfl_sync(~0u, 1, 0);
}
"""
    assert "divergent warp" in report_of(Program(shared("faithful"), text))


def test_a_launch_after_a_failed_one() -> None:
    """The stacks of an abandoned launch serve the next."""
    text = 'extern "C" __global__ void kernel() { if (threadIdx.x) __syncwarp(); else __syncthreads(); }'
    bad = Program(shared("faithful"), text)
    good = Program(shared("faithful"), ADD)
    for _ in range(20):
        assert "deadlock" in report_of(bad, block=256)
    x, y, z = floats(1000), floats(1000), floats(1000)
    good(x, y, z, 1000, grid=2, block=256)
    assert (z == x + y).all()


def test_early_return_before_a_barrier_is_allowed() -> None:
    text = """
extern "C" __global__ void kernel(int* y) {
    if (threadIdx.x >= 40) return;
    __syncthreads();
    y[threadIdx.x] = 1;
}
"""
    y = np.zeros(64, np.int32)
    Program(shared("faithful"), text)(y, block=64)
    assert y.sum() == 40


def test_bad_block_size() -> None:
    assert "a block of 2000 x 1 x 1" in report_of(
        Program(shared("faithful"), ADD), *[floats(1)] * 3, 1, block=2000
    )


MMA = """
template <class T> GEMS_DI void product(const T* a, const T* b, float* c) { // c[16][8] = a[16][16] b[8][16]^T
    __shared__ __align__(16) T sa[16 * 16];
    __shared__ __align__(16) T sb[8 * 16];
    int l = threadIdx.x;
    cp_async16(sa + l * 8, a + l * 8);
    if (l < 16) cp_async16(sb + l * 8, b + l * 8);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t x[4], y[4];
    ldmatrix_x4(x, sa + (l % 16) * 16 + l / 16 * 8);
    ldmatrix_x4(y, sb + (l % 8) * 16 + l / 8 % 2 * 8);
    float d[4] = {0, 0, 0, 0};
    mma_m16n8k16<T>(d, x, y);
    for (int i = 0; i < 4; i++) c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = d[i];
}
extern "C" __global__ void kernel_half(const f16* a, const f16* b, float* c) { product(a, b, c); }
extern "C" __global__ void kernel_brain(const bf16* a, const bf16* b, float* c) { product(a, b, c); }
extern "C" __global__ void kernel_tf32(const float* a, const float* b, float* c) { // c[16][8] = a[16][8] b[8][8]^T
    int l = threadIdx.x;
    uint32_t x[4], y[2];
    for (int i = 0; i < 4; i++) x[i] = float_bits(a[(l / 4 + i % 2 * 8) * 8 + l % 4 + i / 2 * 4]);
    for (int i = 0; i < 2; i++) y[i] = float_bits(b[l / 4 * 8 + l % 4 + i * 4]);
    float d[4] = {0, 0, 0, 0};
    mma_m16n8k8_tf32(d, x, y);
    for (int i = 0; i < 4; i++) c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = d[i];
}
extern "C" __global__ void kernel_double(const double* a, const double* b, double* c) { // c[8][8] = a[8][4] b[8][4]^T
    int l = threadIdx.x;
    double d[2] = {0, 0};
    mma_m8n8k4_f64(d, a + l, b + l);
    for (int i = 0; i < 2; i++) c[l / 4 * 8 + l % 4 * 2 + i] = d[i];
}
extern "C" __global__ void kernel_transposed(const f16* a, uint32_t* c) {
    __shared__ __align__(16) f16 s[32 * 8];
    for (int i = 0; i < 8; i++) s[threadIdx.x * 8 + i] = a[threadIdx.x * 8 + i];
    __syncthreads();
    uint32_t r[4];
    ldmatrix_x4_trans(r, s + threadIdx.x * 8);
    for (int i = 0; i < 4; i++) c[i * 32 + threadIdx.x] = r[i];
}
"""


@pytest.mark.parametrize("mode", ["faithful", "checked"])
def test_tensor_cores(mode: str) -> None:
    entries = ("kernel_half", "kernel_brain", "kernel_tf32", "kernel_double", "kernel_transposed")
    program = Program(shared(mode), MMA, entries)
    a, b = floats(256).reshape(16, 16), floats(128).reshape(8, 16)
    c = np.zeros((16, 8), np.float32)
    program(a.astype(np.float16), b.astype(np.float16), c, constant=[0, 1])
    halves = [v.astype(np.float16).astype(float) for v in (a, b)]
    np.testing.assert_allclose(c, halves[0] @ halves[1].T, rtol=1e-5, atol=1e-6)
    cut = [(v.view(np.uint32) >> 16).astype(np.uint16) for v in (a, b)]
    program(*cut, c, entry=1, constant=[0, 1])
    wide = [(v.astype(np.uint32) << 16).view(np.float32).astype(float) for v in cut]
    np.testing.assert_allclose(c, wide[0] @ wide[1].T, rtol=1e-5, atol=1e-6)
    a, b = a[:, :8].copy(), b[:, :8].copy()
    program(a, b, c, entry=2, constant=[0, 1])
    np.testing.assert_allclose(c, a.astype(float) @ b.astype(float).T, rtol=4e-3, atol=4e-3)
    a64, b64, c64 = a[:8, :4].astype(float), b[:, :4].astype(float), np.zeros((8, 8))
    program(a64, b64, c64, entry=3, constant=[0, 1])
    np.testing.assert_allclose(c64, a64 @ b64.T, rtol=1e-14)
    m = np.arange(256, dtype=np.uint16)
    r = np.zeros((4, 32, 2), np.uint16)
    program(m, r.view(np.uint32), entry=4, constant=[0])
    for lane in range(32):
        for k in range(2):
            assert (r[:, lane, k] == m.reshape(4, 8, 8)[:, lane % 4 * 2 + k, lane // 4]).all()


# ---- compiling


def test_compile_error_has_numbered_source_and_log() -> None:
    text = 'extern "C" __global__ void kernel(int* p) {\n    int a = 3;\n    p[0] = no_such_name + a;\n}\n'
    with pytest.raises(GemsError) as caught:
        shared().compile(text, ["kernel"], None, name="add.Tensor dense")
    message = str(caught.value)
    assert message.startswith("add.Tensor dense: ")
    assert ">    3 |     p[0] = no_such_name + a;" in message and "     2 |     int a = 3;" in message
    assert "error:" in message and ("-march=native" in message or "-mcpu=native" in message)


def test_no_compiler(tmp_path: Path) -> None:
    tried = r"no C\+\+ compiler was found.*CXX \(not set\).*c\+\+, g\+\+, clang\+\+"
    with pytest.raises(GemsError, match=tried) as caught:
        opened(CXX=None, PATH=str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_compiler_that_fails(tmp_path: Path) -> None:
    compiler = tmp_path / "broken compiler"
    compiler.write_text("#!/bin/sh\necho it is broken\nexit 3\n")
    compiler.chmod(0o755)
    link = tmp_path / "broken"
    link.symlink_to(compiler)
    with pytest.raises(GemsError, match=r"exit status 3(.|\n)*it is broken"):
        Program(opened(CXX=str(link)), ADD)


def test_compiler_with_arguments() -> None:
    log = subprocess.run(["c++", "--version"], capture_output=True, text=True)
    assert log.returncode == 0
    x, y, z = floats(5), floats(5), floats(5)
    Program(opened(CXX="c++ -DNOTHING=1"), ADD)(x, y, z, 5)
    assert (z == x + y).all()


def test_identity_tells_apart_modes_and_compilers(tmp_path: Path) -> None:
    fast, faithful, checked = (shared(mode).identity(None) for mode in ("fast", "faithful", "checked"))
    assert len({i.options for i in (fast, faithful, checked)}) == 3
    wrapper = tmp_path / "c++"
    wrapper.write_text('#!/bin/sh\nexec /usr/bin/c++ "$@"\n')
    wrapper.chmod(0o755)
    other = opened(CXX=str(wrapper)).identity(None)
    assert other.compiler != fast.compiler and other.arch == fast.arch
    words = opened(CXX="env g++").identity(None), opened(CXX="env clang++").identity(None)
    assert words[0].compiler != words[1].compiler
    with pytest.raises(GemsError, match="not for sm_90a"):
        shared().identity("sm_90a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEMS_CPU_MODE", "quick"),
        ("GEMS_CPU_ORDER", "random:x"),
        ("GEMS_CPU_ORDER", "up"),
        ("GEMS_CPU_DEVICE", "sm_80"),
    ],
)
def test_bad_settings(name: str, value: str) -> None:
    with pytest.raises(GemsError, match=f"{name}={value}"):
        opened(**{name: value})


def test_compiling_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    modes: list[int] = []
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    compiler.write_text(
        f'#!/bin/sh\nstat -c %a {tmp_path}/flag_gems-* > {tmp_path}/bin/mode\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    Program(opened(CXX=str(compiler)), ADD)
    modes = [int(line, 8) for line in (tmp_path / "bin" / "mode").read_text().split()]
    assert modes == [stat.S_IRWXU]
    with pytest.raises(GemsError):
        shared().compile("broken", ["kernel"], None)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_several_compile_at_once() -> None:
    results: list[bool] = []

    def work(k: int) -> None:
        text = f'extern "C" __global__ void kernel(int* y) {{ y[0] = {k}; }}'
        y = np.zeros(1, np.int32)
        Program(shared(), text)(y)
        results.append(int(y[0]) == k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4


def test_a_program_needs_only_the_c_library(tmp_path: Path) -> None:
    text = """
extern "C" __global__ void kernel(float* y, int64_t n) {
    GEMS_FOR_GRID(i, n) y[i] = pow(erfinv(y[i]), lgamma(y[i])) + exp(y[i]);
}
"""
    program = tmp_path / "program.so"
    program.write_bytes(Program(shared(), text).code.data)
    needed = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    libraries = [line.split("[")[1].split(".")[0] for line in needed.splitlines() if "NEEDED" in line]
    assert libraries and set(libraries) <= {"libm", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_describe() -> None:
    text = shared().describe()
    assert "mode fast" in text and "compiler /" in text
