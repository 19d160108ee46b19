"""The checked mode of the cpu backend finds planted bugs, and nothing in kernels that have none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cpu_kernels import Program, report_of, shared


def checked(text: str, order: str = "forward") -> Program:
    return Program(shared("checked", order), text)


def line_of(program: Program, text: str, mark: str) -> str:
    """The place, as a report names it, of the line of text that has the mark."""
    lines = text.split("\n")
    return f"program:{program.first_line + next(i for i, line in enumerate(lines) if mark in line)}"


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


REVERSE = """
extern "C" __global__ void kernel(const float* x, float* y) {
    __shared__ float buf[128];
    buf[threadIdx.x] = x[threadIdx.x]; // writes
    %s
    y[threadIdx.x] = buf[blockDim.x - 1 - threadIdx.x]; // reads
}
"""


@pytest.mark.parametrize("order", ["forward", "reverse", "random:3"])
def test_missing_barrier(order: str) -> None:
    text = REVERSE % ""
    program = checked(text, order)
    report = report_of(program, floats(128), floats(128), block=128, constant=[0])
    assert "race in buf" in report
    assert line_of(program, text, "// writes") in report and line_of(program, text, "// reads") in report


def test_with_its_barrier() -> None:
    x, y = floats(128), np.zeros(128, np.float32)
    assert report_of(checked(REVERSE % "__syncthreads();"), x, y, block=128, constant=[0]) == ""
    assert (y == x[::-1]).all()


@pytest.mark.parametrize("between", ["", "__shfl_sync(~0u, 1, 0);"])
def test_missing_syncwarp(between: str) -> None:
    """A shuffle orders no memory."""
    report = report_of(checked(REVERSE % between), floats(32), floats(32), constant=[0])
    assert "race in buf" in report


def test_with_its_syncwarp() -> None:
    assert report_of(checked(REVERSE % "__syncwarp();"), floats(32), floats(32), constant=[0]) == ""


def test_syncwarp_is_not_enough_for_two_warps() -> None:
    assert "race in buf" in report_of(
        checked(REVERSE % "__syncwarp();"), floats(64), floats(64), block=64, constant=[0]
    )


def test_barrier_missing_before_the_next_write() -> None:
    text = """
extern "C" __global__ void kernel(float* y) {
    __shared__ float buf[1];
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x == 0) buf[0] = i;
        __syncthreads();
        y[threadIdx.x] += buf[0];
    }
}
"""
    assert "race in buf" in report_of(checked(text), floats(64), block=64)


@pytest.mark.parametrize(("count", "what"), [(0, "before"), (1, "behind")])
@pytest.mark.parametrize("writes", [False, True])
def test_out_of_bounds(count: int, what: str, writes: bool) -> None:
    text = """
extern "C" __global__ void kernel(float* y, int64_t at, int64_t write) {
    if (threadIdx.x == 5) {
        if (write) y[at] = 1; // store
        else y[0] = y[at]; // load
    }
}
"""
    program = checked(text)
    report = report_of(program, floats(16), 16 if count else -1, int(writes))
    verb = "write" if writes else "read"
    assert re.search(rf"out of bounds: {verb} of 4 bytes by thread 5 .* {what} an argument of 64", report)
    assert line_of(program, text, "// store" if writes else "// load") in report


def test_out_of_bounds_of_a_vector() -> None:
    text = 'extern "C" __global__ void kernel(float* y) { store<4>(y, load<4>(y + 4 * threadIdx.x)); }'
    report = report_of(checked(text), floats(18), block=5)
    assert "out of bounds: read of 16 bytes by thread 4" in report


def test_out_of_bounds_of_shared_memory() -> None:
    text = """
extern "C" __global__ void kernel(float* y) {
    GEMS_DYN_SMEM(float, buf);
    buf[threadIdx.x] = 1;
}
"""
    assert report_of(checked(text), floats(1), block=32, shared=128) == ""
    assert "out of bounds: write of 4 bytes by thread 32" in report_of(
        checked(text), floats(1), block=33, shared=128
    )


def test_misaligned_vector() -> None:
    text = 'extern "C" __global__ void kernel(float* y) { store<4>(y, load<4>(y + 1)); }'
    assert "misaligned: read of 16 bytes" in report_of(checked(text), floats(32), block=1)


def test_write_through_const() -> None:
    text = 'extern "C" __global__ void kernel(const float* x) { ((float*)x)[threadIdx.x] = 0; }'
    x = floats(32)
    assert "write through const" in report_of(checked(text), x, constant=[0])
    assert report_of(checked(text), x) == ""


def test_race_of_two_blocks() -> None:
    text = 'extern "C" __global__ void kernel(float* y) { if (threadIdx.x == 0) y[blockIdx.x / 2] = blockIdx.x; }'
    report = report_of(checked(text), floats(4), grid=4)
    assert "race in an argument" in report and "block (1,0,0)" in report


def test_a_block_reads_what_another_writes() -> None:
    text = """
extern "C" __global__ void kernel(float* y) {
    int i = 32 * blockIdx.x + threadIdx.x;
    y[i] = y[(i + 32) % 64];
}
"""
    for order in ("forward", "reverse"):
        assert "race in an argument" in report_of(checked(text, order), floats(64), grid=2)


def test_races_of_bytes_and_halves_are_told_apart() -> None:
    """Neighbours in one word do not race."""
    text = 'extern "C" __global__ void kernel(%s* y) { y[threadIdx.x] = y[threadIdx.x] + 1; }'
    assert report_of(checked(text % "uint8_t"), np.zeros(32, np.uint8)) == ""
    assert report_of(checked(text % "int16_t"), np.zeros(32, np.int16)) == ""


def test_atomics_do_not_race() -> None:
    text = 'extern "C" __global__ void kernel(int* y) { atomicAdd(&y[0], 1); atomicMax(&y[1], (int)threadIdx.x); }'
    y = np.zeros(2, np.int32)
    assert report_of(checked(text), y, grid=3) == ""
    assert y.tolist() == [96, 31]


def test_atomic_against_a_plain_read() -> None:
    text = 'extern "C" __global__ void kernel(int* y) { atomicAdd(&y[0], 1); if (threadIdx.x == 31) y[1] = y[0]; }'
    assert "race" in report_of(checked(text), np.zeros(2, np.int32))


COPY = """
extern "C" __global__ void kernel(const float* x, float* y) {
    __shared__ __align__(16) float buf[128];
    cp_async16(buf + 4 * threadIdx.x, x + 4 * threadIdx.x);
    cp_async_commit();
    %s
    for (int i = 0; i < 4; i++) y[4 * threadIdx.x + i] = buf[127 - 4 * threadIdx.x - i];
}
"""


@pytest.mark.parametrize(
    ("wait", "finding"),
    [
        ("cp_async_wait<0>(); __syncthreads();", ""),
        ("__syncthreads();", "missing wait"),
        ("cp_async_wait<1>(); __syncthreads();", "missing wait"),
        ("cp_async_wait<0>();", "race in buf"),
    ],
)
def test_background_copies(wait: str, finding: str) -> None:
    x, y = floats(128), np.zeros(128, np.float32)
    report = report_of(checked(COPY % wait), x, y, constant=[0])
    if finding:
        assert finding in report
    else:
        assert report == "" and (y == x[::-1]).all()


def test_report_names_the_line_of_the_caller() -> None:
    """An access in a function of the contract is told with the place in the kernel that called it."""
    text = """
extern "C" __global__ void kernel(float* y) {
    auto v = load<4>(y + 4);
    store<4>(y, v);
}
"""
    program = checked(text)
    assert line_of(program, text, "load<4>") in report_of(program, floats(6), block=1)


CLEAN = """
extern "C" __global__ void kernel(const float* x, float* y, float* z, int64_t n) {
    __shared__ float buf[33];
    GEMS_DYN_SMEM(float, row);
    float sum = 0, total;
    GEMS_FOR_BLOCK(i, n) { row[i] = x[blockIdx.x * n + i]; sum += row[i]; }
    sum = block_reduce(sum, Sum{}, buf);
    float most = block_reduce((float)threadIdx.x, Max{}, buf);
    float before = block_exclusive_sum(1.0f, total, buf);
    float first = block_broadcast(sum + 1, buf);
    GEMS_FOR_BLOCK(i, n) y[blockIdx.x * n + i] = row[n - 1 - i] + sum;
    z[blockIdx.x * blockDim.x + threadIdx.x] = before + most + total + first;
}
"""


@pytest.mark.parametrize("order", ["forward", "reverse", "random:1", "random:2"])
@pytest.mark.parametrize("block", [32, 96, 256])
def test_collectives_are_clean(order: str, block: int) -> None:
    x, y, z = floats(3, 50), np.zeros((3, 50), np.float32), np.zeros((3, block), np.float32)
    assert report_of(checked(CLEAN, order), x, y, z, 50, grid=3, block=block, shared=200, constant=[0]) == ""
    sums = x.sum(1, keepdims=True)
    assert (y == x[:, ::-1] + sums).all()
    assert (z == np.arange(block) + (block - 1) + block + sums + 1).all()
