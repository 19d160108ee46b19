"""The choice of a matrix product's kernel, and the machine code of every kernel that can be chosen."""

from __future__ import annotations

import ctypes as C
import functools
import itertools
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import native
import sass

F16, F32, F64, BF16 = 5, 6, 7, 15
MMA, FMA, PANEL, THIN, WGMMA, WIDE = range(6)
ALONG_K, ALONG_LINES, GATHER_ALONG_K, GATHER_ALONG_LINES = range(4)
OP_SIZE = {F16: 4, F32: 4, F64: 8, BF16: 4}


class Info(C.Structure):
    """gems_device_info."""

    _fields_ = [
        *((name, C.c_int) for name in ("arch", "processors", "warp", "max_threads", "vector_bytes")),
        *((name, C.c_int64) for name in ("shared_bytes", "l2_bytes")),
        *((name, C.c_bool) for name in ("fast", "wants_extents", "hopper")),
    ]


class Shape(C.Structure):
    """gems_matmul_shape."""

    _fields_ = [
        *((name, C.c_int64) for name in ("batch", "m", "n", "k")),
        *((name, C.c_uint8) for name in ("dtype", "feed_a", "feed_b")),
        ("workers", C.c_int32),
        ("crooked", C.c_bool),
    ]


class Parts(C.Structure):
    """gems_matmul_parts."""

    _fields_ = [
        (name, C.c_int32)
        for name in (
            *("tile_m", "tile_n", "tiles_m", "tiles_n", "split", "split_k", "group", "batches"),
            *("panel_m", "panel_n", "panel_k", "share"),
        )
    ]


class Config(C.Structure):
    """gems_matmul_config."""

    _fields_ = [
        *((n, C.c_uint8) for n in ("kernel", "tile_k", "across_m", "across_n", "stages", "pad")),
        *((n, C.c_uint8) for n in ("blocks", "cluster", "thin", "promotes")),
        ("parts", Parts),
        ("grid", C.c_int64),
        *((name, C.c_uint32) for name in ("threads", "shared")),
    ]


class Key(C.Structure):
    """gems_key."""

    _fields_ = [
        *(("op", C.c_uint16), ("kernel", C.c_uint8), ("flags", C.c_uint8)),
        *(("dtype", C.c_uint8 * 8), ("tune", C.c_uint8 * 12)),
    ]


def constant(header: str, name: str) -> int:
    """A number that a header of csrc/ defines."""
    found = re.search(rf"#define {name}\s+(\d+)", (native.CSRC / header).read_text())
    assert found, name
    return int(found[1])


class Program(C.Structure):
    """gems_program."""

    _fields_ = [
        ("files", C.c_char_p * constant("jit/jit.h", "GEMS_MAX_FILES")),
        *(("head", C.c_char_p), ("size", C.c_size_t), ("room", C.c_size_t), ("failed", C.c_bool)),
        ("entries", C.c_char_p * constant("backend/backend.h", "GEMS_MAX_ENTRIES")),
        *(("entry_count", C.c_int), ("name", C.c_char * 96)),
    ]


GPUS = {
    "A100": Info(80, 108, 32, 1024, 16, 163 * 1024, 40 << 20, False, False),
    "H200": Info(90, 132, 32, 1024, 16, 227 * 1024, 60 << 20, False, False),
    "B200": Info(100, 148, 32, 1024, 16, 227 * 1024, 126 << 20, False, False),
    "RTX 5090": Info(120, 170, 32, 1024, 16, 99 * 1024, 96 << 20, False, False),
    "RTX 2080": Info(75, 46, 32, 1024, 16, 64 * 1024, 4 << 20, False, False),
    "faithful": Info(0, 4, 32, 1024, 16, 99 * 1024, 1 << 20, False, False),
}
CPU = Info(0, 8, 1, 1, 64, 256 * 1024, 2 << 20, True, False)


@functools.cache
def library() -> C.CDLL:
    with tempfile.NamedTemporaryFile("w", suffix=".c") as table:
        table.write('#include "jit/jit.h"\nconst gems_embedded gems_embedded_files[] = {{NULL, NULL, 0}};\n')
        table.flush()
        ours = ("families/matmul_config.c", "families/matmul_wgmma.c", "families/matmul_program.c")
        sources = (*ours, "base/dtype.c", "base/error.c", "base/text.c", Path(table.name))
        lib = C.CDLL(str(native.build("matmul.so", sources)))
    lib.gems_matmul_candidate.restype = C.c_bool
    lib.gems_matmul_choose_feed.argtypes = [C.c_void_p, C.c_size_t, *[C.c_int64] * 6]
    return lib


def configure(info: Info, dtype: int, batch: int, m: int, n: int, k: int, feed_b: int = 0, workers: int = 0) -> Config:
    config = Config()
    shape = Shape(batch, m, n, k, dtype, ALONG_K, feed_b, workers)
    library().gems_matmul_configure(C.byref(shape), C.byref(info), C.byref(config))
    return config


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


sizes = st.one_of(st.integers(1, 300), st.integers(1, 70000))
dtypes = st.sampled_from((F16, F32, F64, BF16))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GPUS)), dtypes, st.integers(1, 70), sizes, sizes, st.one_of(st.just(0), sizes))
def test_gpu_configurations_cover_the_matrix_and_fit_the_device(
    gpu: str, dtype: int, batch: int, m: int, n: int, k: int
) -> None:
    info = GPUS[gpu]
    config = configure(info, dtype, batch, m, n, k)
    parts = config.parts
    assert parts.tiles_m == ceil_div(m, parts.tile_m) and parts.tiles_n == ceil_div(n, parts.tile_n)
    assert config.grid == batch * parts.split * parts.tiles_m * parts.tiles_n
    assert config.shared <= info.shared_bytes and config.threads <= info.max_threads and config.threads % 32 == 0
    cores = {F16: MMA, BF16: MMA, F64: WIDE}
    assert config.kernel == (FMA if info.arch == 75 else cores.get(dtype, FMA))
    # The parts of k cover it, none is empty, and all begin where a tile does.
    assert parts.split_k % config.tile_k == 0 and parts.split >= 1
    assert (parts.split - 1) * parts.split_k < max(k, 1) <= parts.split * parts.split_k
    if config.kernel != FMA:
        assert config.threads == 32 * config.across_m * config.across_n
        ring = config.stages * (parts.tile_m + parts.tile_n) * config.tile_k * (8 if dtype == F64 else 2)
        slab = config.across_m * 16 * (parts.tile_n + config.pad) * OP_SIZE[dtype]
    else:
        vector = 16 // OP_SIZE[dtype]
        ring = 2 * (parts.tile_m + parts.tile_n) * config.tile_k * OP_SIZE[dtype]
        slab = parts.tile_m * vector // config.across_m * (parts.tile_n + config.pad) * OP_SIZE[dtype]
    assert config.shared == max(ring, slab)


def test_large_products_get_large_tiles_and_small_ones_fill_the_chip() -> None:
    h200 = GPUS["H200"]
    large = configure(h200, BF16, 1, 8192, 8192, 8192).parts
    assert (large.tile_m, large.tile_n, large.split) == (128, 256, 1)
    # 64 tiles of 128 x 128 would leave half of the processors without work.
    small = configure(h200, BF16, 1, 1024, 1024, 1024).parts
    assert small.tile_m * small.tile_n < 128 * 128
    # Decoding: few rows, k shared between blocks.
    decode = configure(h200, BF16, 1, 16, 4096, 4096)
    assert decode.parts.tile_m == 16 and decode.parts.split > 1 and decode.grid >= 100
    # The gradient of a small weight over many tokens: one tile, all its work along k.
    tall = configure(h200, BF16, 1, 64, 64, 100000)
    assert tall.parts.split == 32 and tall.parts.split_k >= 256
    # A batch fills the chip by itself.
    assert configure(h200, BF16, 512, 64, 64, 4096).parts.split == 1


@settings(max_examples=300, deadline=None)
@given(dtypes, st.integers(1, 70), sizes, sizes, sizes, st.integers(0, 2), st.integers(0, 64))
def test_cpu_configurations_cover_the_matrix(
    dtype: int, batch: int, m: int, n: int, k: int, feed_b: int, workers: int
) -> None:
    config = configure(CPU, dtype, batch, m, n, k, feed_b, workers)
    parts = config.parts
    assert parts.tiles_m == ceil_div(m, parts.tile_m) and parts.tiles_n == ceil_div(n, parts.tile_n)
    assert config.grid == ceil_div(batch, parts.batches) * parts.tiles_m * parts.tiles_n and parts.split == 1
    assert config.grid <= 4 * max(workers or CPU.processors, batch)
    if batch * m * n * k < 1 << 20:
        assert config.grid == 1
    size = OP_SIZE[dtype]
    if config.kernel == THIN:
        assert m <= 4 and (feed_b == ALONG_K or (feed_b == ALONG_LINES and n >= 64))
        assert config.shared == 4 * k * size and (parts.tile_n == n or parts.tile_n % 64 == 0)
        return
    # Whole register blocks of every CPU (12 or 6 rows; 4 to 32 columns).
    assert parts.panel_m % 12 == 0 and parts.panel_n % 32 == 0 and 1 <= parts.panel_k <= max(k, 1)
    packed = (parts.panel_m + parts.panel_n) * parts.panel_k
    kept = parts.panel_m * parts.panel_n if k > parts.panel_k else 0
    assert config.shared == (packed + kept) * size <= CPU.l2_bytes


@pytest.mark.parametrize(
    ("address", "line_stride", "k_stride", "expected"),
    [
        (0, 64, 1, ALONG_K),
        (0, 1, 64, ALONG_LINES),
        (0, 0, 1, ALONG_K),
        (2, 64, 1, GATHER_ALONG_K),
        (0, 65, 1, GATHER_ALONG_K),
        (8, 1, 64, GATHER_ALONG_LINES),
        (0, 1, 60, GATHER_ALONG_LINES),
        (0, 100, 2, GATHER_ALONG_K),
        (0, 2, 100, GATHER_ALONG_LINES),
    ],
)
def test_feeds(address: int, line_stride: int, k_stride: int, expected: int) -> None:
    choose = library().gems_matmul_choose_feed
    assert choose(4096 + address, 2, 1, 0, 32, line_stride, 48, k_stride) == expected


def test_feeds_of_batches_and_of_single_lines() -> None:
    choose = library().gems_matmul_choose_feed
    assert choose(4096, 2, 4, 640, 32, 64, 48, 1) == ALONG_K
    assert choose(4096, 2, 4, 0, 32, 64, 48, 1) == ALONG_K
    assert choose(4096, 2, 4, 644, 32, 64, 48, 1) == GATHER_ALONG_K
    # One line: its stride does not count; a vector that steps is read along the lines, of which there is one.
    assert choose(4096, 2, 1, 0, 1, 7, 48, 1) == ALONG_K
    assert choose(4096, 2, 1, 0, 1, 7, 48, 8) == ALONG_LINES


def program(config: Config, dtype: int, feed_a: int, feed_b: int) -> tuple[str, list[str]]:
    """The whole text of a configuration's program, and its entries."""
    key, written = Key(), Program()
    library().gems_matmul_key(C.byref(config), dtype, feed_a, feed_b, C.byref(key))
    assert library().gems_matmul_program(None, C.byref(key), C.byref(written)) == native.OK
    texts = [(native.ROOT / "kernels" / file.decode()).read_text() for file in written.files if file]
    entries = [entry.decode() for entry in written.entries[: written.entry_count]]
    return "\n".join([sass.contract(), written.head.decode(), *texts]), entries


def candidates(dtype: int, arch: int) -> list[Config]:
    found = []
    for i in itertools.count():
        config = Config()
        if not library().gems_matmul_candidate(dtype, arch, i, C.byref(config)):
            return found
        found.append(config)
    raise AssertionError


def check(config: Config, dtype: int, arch: str, feed_a: int, feed_b: int) -> None:
    """Compiles a configuration and holds its machine code to what was meant."""
    text, entries = program(config, dtype, feed_a, feed_b)
    tile = sass.kernels(text, entries, arch)["matmul_tile"]
    assert tile.spill_bytes == 0 and not tile.has("LDL") and not tile.has("STL"), tile.registers
    # What is to be resident together fits the registers of a processor.
    assert ceil_div(tile.registers, 8) * 8 * config.threads * config.blocks <= 65536
    assert tile.has("STG.E.128", "LDS.128")
    asynchronous = feed_a in (ALONG_K, ALONG_LINES) or feed_b in (ALONG_K, ALONG_LINES)
    assert tile.has("LDGSTS") == (config.kernel != FMA and asynchronous)
    if config.kernel == MMA:
        parts = config.parts
        products = parts.tile_m * parts.tile_n * config.tile_k // (16 * 8 * 16 * config.across_m * config.across_n)
        assert tile.count("HMMA") == products
        transposed = [op for op in tile.opcodes if op.startswith("LDSM") and "T" in op]
        assert bool(transposed) == (ALONG_LINES in (feed_a % 2, feed_b % 2))
    elif config.kernel == WIDE:
        assert tile.has("DMMA" if dtype == F64 else "HMMA.TF32")
    else:
        assert tile.has("FFMA")


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_machine_code(arch: str) -> None:
    number = int(arch.removeprefix("sm_").removesuffix("a"))
    some = candidates(BF16, number)
    for config in some if number <= 90 else some[1::2]:
        check(config, BF16, arch, ALONG_K, ALONG_LINES)
    check(candidates(F32, number)[0], F32, arch, ALONG_K, ALONG_LINES)
    check(candidates(F64, number)[0], F64, arch, ALONG_K, ALONG_LINES)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sass.ARCHS)
def test_machine_code_of_every_way_to_read(arch: str) -> None:
    number = int(arch.removeprefix("sm_").removesuffix("a"))
    for dtype in (F16, F32, F64):
        for config in candidates(dtype, number):
            for feed_a, feed_b in itertools.product(range(4), repeat=2):
                check(config, dtype, arch, feed_a, feed_b)
