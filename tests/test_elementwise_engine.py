"""The elementwise engine on a GPU that only records: numbers in CPU tensors, index width, programs."""

from __future__ import annotations

import ctypes as C
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import cpu_kernels
import native
import sass
from native import DECLINE, OK
from test_base import KIND_TENSOR, NUMBERS, Content, Tensor, Value, longs
from test_base import value as cpu_value

SOURCES = (
    *(
        f"{folder}/{path.name}"
        for folder in ("base", "engine", "families", "jit")
        for path in sorted((native.CSRC / folder).glob("*.c"))
    ),
    *("backend/backend.c", str(native.FAKES / "calls.c")),
)
CUDA = 1
ARCHS = [pytest.param(arch, marks=[] if arch == "sm_120" else pytest.mark.slow) for arch in sass.ARCHS]


@functools.cache
def library() -> C.CDLL:
    os.environ["GEMS_KERNEL_DIR"] = str(cpu_kernels.KERNELS)
    lib = C.CDLL(str(native.build("libgems_calls.so", SOURCES, ("-lm", "-lpthread", "-ldl"))))
    lib.calls_text.restype = C.c_char_p
    lib.gems_reason.restype = C.c_char_p
    lib.gems_error_text.restype = C.c_char_p
    lib.calls_argument.restype = C.c_void_p
    lib.calls_output.restype = C.POINTER(Tensor)
    assert lib.calls_open() == OK, lib.gems_error_text()
    return lib


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))


def gpu(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float32, data: int = 0x20000000
) -> Value:
    """A tensor of a GPU that does not exist: any sizes and strides."""
    numel = 1
    for size in shape:
        numel *= size
    t = Tensor(data, longs(shape), longs(strides), None, numel, len(shape), NUMBERS[dtype], CUDA, 0)
    return Value(KIND_TENSOR, Content(t=t))


def run(name: str, *args: Value, arguments: int = 0) -> int:
    return library().calls_run(name.encode(), (Value * len(args))(*args), len(args), arguments)


def text() -> str:
    return library().calls_text().decode()


def argument(i: int, kind: type) -> object:
    return kind.from_address(library().calls_argument(i)).value


def output(i: int = 0) -> Tensor:
    return library().calls_output(i).contents


ONE = cpu_value(1)
NUMBER_CASES = [
    (torch.tensor(2.5, dtype=torch.float64), C.c_float, 2.5),
    (torch.tensor(3, dtype=torch.int64), C.c_float, 3.0),
    (torch.tensor(True), C.c_float, 1.0),
    (torch.tensor(1.5, dtype=torch.bfloat16), C.c_float, 1.5),
]


@pytest.mark.parametrize(("zero_dim", "kind", "expected"), NUMBER_CASES)
def test_cpu_numbers_beside_gpu_tensors(zero_dim: torch.Tensor, kind: type, expected: float) -> None:
    """A 0-dim CPU tensor is read on the host and becomes a kernel argument; the GPU tensor's dtype stays."""
    x = gpu((64,), (1,))
    for args, other in (((x, cpu_value(zero_dim)), "b"), ((cpu_value(zero_dim), x), "a")):
        assert run("mul.Tensor", *args, arguments=3) == OK, library().gems_reason()
        assert f"EW_NUMBERS(X) X(compute_t, {other})" in text()
        assert argument(2, kind) == expected  # after the input's and the output's pointer
        assert output().dtype == NUMBERS[torch.float32] and output().device_type == CUDA


def test_complex_cpu_number_beside_a_gpu_tensor() -> None:
    assert run("mul.Tensor", gpu((64,), (1,)), cpu_value(torch.tensor(2 - 3j)), arguments=3) == OK
    assert output().dtype == NUMBERS[torch.complex64]
    pair = (C.c_float * 2).from_address(library().calls_argument(2))
    assert tuple(pair) == (2.0, -3.0)
    assert "typedef gems::c64 compute_t" in text() and "X(0, a, float, common_t, compute_t, 0)" in text()


def test_what_is_no_number() -> None:
    """CPU tensors with dims, 0-dim CPU tensors that are written, and two devices are left to ATen."""
    x, scalar = gpu((64,), (1,)), gpu((), ())
    cpu = torch.ones(64)
    assert run("mul.Tensor", x, cpu_value(cpu)) == DECLINE
    assert run("mul_.Tensor", cpu_value(torch.tensor(1.0)), x) == DECLINE
    other = gpu((64,), (1,))
    other.content.t.device_index = 1
    assert run("mul.Tensor", x, other) == DECLINE
    assert run("mul.Tensor", scalar, cpu_value(torch.tensor(2.0))) == OK  # both 0-dim: the GPU's decides
    assert output().device_type == CUDA and output().ndim == 0
    assert run("add_.Tensor", scalar, cpu_value(torch.tensor(2.0)), ONE) == OK


def test_where_and_masked_fill_with_cpu_numbers() -> None:
    mask = gpu((8, 4), (4, 1), torch.bool)
    x = gpu((8, 4), (4, 1), data=0x30000000)
    assert run("where.self", mask, x, cpu_value(torch.tensor(0.5)), arguments=4) == OK
    assert argument(3, C.c_float) == 0.5
    assert run("where.self", mask, cpu_value(torch.tensor(0.5)), cpu_value(torch.tensor(2.0)), arguments=4) == OK
    assert [argument(i, C.c_float) for i in (2, 3)] == [0.5, 2.0]
    assert run("masked_fill.Tensor", x, mask, cpu_value(torch.tensor(7.0)), arguments=4) == OK
    assert argument(3, C.c_float) == 7.0


INDEXES = [
    ((64,), (1,), False),
    ((2**31 - 2**20 - 1,), (1,), False),
    ((2**31,), (1,), True),
    ((2, 3), (2**31, 1), True),
    ((2, 3), (2**30, 1), False),
    ((3, 2), (2**30, 1), True),
    ((2, 1, 5), (2**29, 7, 1), False),
    ((1, 64), (2**40, 2), False),  # a dim of one element goes nowhere
    ((64, 1), (2, 2**40), False),
    ((2**16, 2**15), (2**15, 1), True),
    ((2**16, 2**14), (0, 1), False),
    ((2**17, 2**14), (0, 1), True),  # the output counts too
]


@pytest.mark.parametrize(("shape", "strides", "wide"), INDEXES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.complex128])
def test_index_width(shape: tuple[int, ...], strides: tuple[int, ...], wide: bool, dtype: torch.dtype) -> None:
    """64 bits from the largest offset that is reached, in elements; not from sizes alone."""
    assert run("neg", gpu(shape, strides, dtype)) == OK, library().gems_reason()
    assert f"typedef {'int64_t' if wide else 'int32_t'} Index" in text()


def test_index_width_of_a_second_input() -> None:
    x, far = gpu((2, 64), (64, 1)), gpu((2, 64), (2**32, 1), data=0x70000000)
    assert run("mul.Tensor", x, far) == OK and "int64_t Index" in text()
    assert run("mul.Tensor", far, x) == OK and "int64_t Index" in text()
    assert run("mul.Tensor", x, gpu((2, 1), (2**32, 1))) == OK and "int64_t Index" in text()
    assert run("mul.Tensor", x, gpu((1, 64), (2**32, 1))) == OK and "int32_t Index" in text()
    out = gpu((2, 64), (2**32, 1), data=0x50000000)
    assert run("mul.out", x, x, out) == OK and "int64_t Index" in text()


def test_tensors_that_are_not_aligned() -> None:
    """To a whole access: narrower accesses. To a whole element: ATen's."""
    assert run("neg", gpu((4096,), (1,), torch.complex64)) == OK and "kVector = 2," in text()
    assert run("neg", gpu((4096,), (1,), torch.complex128)) == OK and "kVector = 1," in text()
    assert run("neg", gpu((4096,), (1,), torch.complex64, data=0x20000008)) == OK and "kVector = 1," in text()
    assert run("neg", gpu((4096,), (1,), torch.complex64, data=0x20000004)) == DECLINE
    assert run("neg", gpu((4096,), (1,), torch.complex128, data=0x20000008)) == DECLINE
    assert run("neg", gpu((4096,), (1,), torch.float32, data=0x20000002)) == DECLINE


def test_ranks_beyond_the_kernels() -> None:
    """Dims that do not merge: 8 are taken, 9 decline; those that merge do not count."""

    def stepped(ndim: int) -> Value:
        return gpu((2,) * ndim, tuple(3 ** (ndim - d) for d in range(ndim)))

    assert run("neg", stepped(8)) == OK
    assert run("neg", stepped(9)) == DECLINE
    assert run("neg", gpu((2,) * 12, tuple(2 ** (11 - d) for d in range(12)))) == OK
    assert run("neg", gpu((1,) * 17, (1,) * 17)) == DECLINE


# ---- as many tensors as a row may have: five read, three written

EXPRESSIONS = ("a + b * c", "d - e", "a * e + (b != c ? d : 0.5f)")


def widest_program(shape_class: int, vector: int) -> str:
    """What csrc/families/elementwise_program.c would write for a row with five inputs and three outputs."""
    letters = "abcde"
    inputs = " ".join(f"X({i}, {v}, float, common_t, compute_t, {int(i == 4)})" for i, v in enumerate(letters))
    outputs = " ".join(f"X({i}, float, EW_EXPRESSION_{i})" for i in range(3))
    expressions = "\n".join(f"#define EW_EXPRESSION_{i} {text_}" for i, text_ in enumerate(EXPRESSIONS))
    return f"""
typedef float compute_t; typedef float common_t; typedef float result_t; typedef int32_t Index;
constexpr int kVector = {vector}, kRank = 4, kTensors = 8, kUnroll = 1, kThreads = 256;
#define EW_CLASS {shape_class}
#define EW_NAMES_NEAR 0
#define EW_INPUTS(X) {inputs}
#define EW_OUTPUTS(X) {outputs}
#define EW_NUMBERS(X)
#define EW_GIVEN
{expressions}
{(native.ROOT / "kernels" / "elementwise.cu").read_text()}"""


@pytest.mark.parametrize("mode", ["fast", "checked"])
def test_five_inputs_and_three_outputs(mode: str) -> None:
    backend = cpu_kernels.shared(mode)
    program = cpu_kernels.Program(backend, widest_program(0, 0 if mode == "fast" else 4), ["elementwise"])
    n, end = 1003, 1003
    generator = np.random.default_rng(0)
    a, b, c, d, e = (generator.standard_normal(n).astype(np.float32) for _ in range(5))
    outs = [np.zeros(n, dtype=np.float32) for _ in range(3)]
    grid, block = (2, 1) if mode == "fast" else (1, 256)
    program(a, b, c, d, e, *outs, 0, end, grid=grid, block=block, constant=range(5))
    expected = (a + b * c, d - e, a * e + np.where(b != c, d, 0.5))
    for got, wanted in zip(outs, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_most_tensors_do_not_spill(arch: str) -> None:
    for shape_class, vector in ((0, 4), (1, 4), (2, 1), (3, 32)):
        text_ = sass.contract() + widest_program(shape_class, vector)
        found = sass.kernels(text_, ["elementwise"], arch)["elementwise"]
        assert found.spill_bytes == 0, (shape_class, found.registers)
        if shape_class < 2:
            assert found.count("LDG.E.128") >= 4 and found.count("STG.E.128") >= 3, found.opcodes


# elements: elements of an access, accesses of a thread, threads of a block (132 processors here)
SMALL, MIDDLE, LARGE = 1000, 1 << 20, 1 << 28
PARTS = [
    ("erfc", SMALL, 2, 1, 128),  # heavy: half an access
    ("erfc", MIDDLE, 4, 1, 128),
    ("erfc", LARGE, 4, 4, 256),
    ("sinc", MIDDLE, 4, 1, 128),
    ("sinc", LARGE, 4, 2, 128),
    ("neg", SMALL, 4, 1, 256),  # light: always alike
    ("neg", LARGE, 4, 1, 256),
]


@pytest.mark.parametrize(("name", "n", "vector", "unroll", "threads"), PARTS)
def test_how_dense_work_is_divided(name: str, n: int, vector: int, unroll: int, threads: int) -> None:
    assert run(name, gpu((n,), (1,))) == OK, library().gems_reason()
    assert f"kVector = {vector}," in text() and f"kUnroll = {unroll}," in text()
    assert library().calls_grid() == -(-n // (vector * unroll * threads))


def test_half_an_access_begins_where_tensors_stand() -> None:
    """Tensors that stand 3 elements behind a whole access stand 1 behind half of one."""
    assert run("erfc", gpu((1000,), (1,), data=0x20000000 + 12), arguments=4) == OK
    # the output is new, and stands elsewhere: single elements
    assert "kVector = 1," in text()
    x = gpu((1000,), (1,), data=0x20000000 + 12)
    assert run("erfc_", x, arguments=4) == OK
    assert "kVector = 2," in text()
    assert argument(0, C.c_void_p) == 0x20000000 + 8
    assert [argument(i, C.c_int32) for i in (2, 3)] == [1, 1001]
