"""The matrix product of sm_90a: which products it takes, its machine code, and its numbers.

On a machine without such a GPU the kernel runs thread by thread on the CPU, where copies and products land as late
as their waits allow, and mistakes are planted in it that have to be found.
"""

from __future__ import annotations

import ctypes as C
import functools
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from flag_gems import ops
from hypothesis import given, settings
from hypothesis import strategies as st

import native
import sass
from cpu_modes import run_program
from test_matmul import DEVICE, check, kernels, matrix
from test_matmul_config import (
    ALONG_K,
    ALONG_LINES,
    BF16,
    F16,
    F32,
    GATHER_ALONG_K,
    WGMMA,
    Config,
    Info,
    Shape,
    ceil_div,
    library,
    program,
)

H200 = Info(90, 132, 32, 1024, 16, 227 * 1024, 60 << 20, False, False, True)
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


class Map(C.Structure):
    """gems_tensor_map."""

    _fields_ = [
        ("data", C.c_void_p),
        *(("sizes", C.c_int64 * 4), ("strides", C.c_int64 * 3), ("box", C.c_int32 * 2), ("dtype", C.c_uint8)),
    ]


def configure(batch: int, m: int, n: int, k: int, feed_b: int = ALONG_K) -> Config:
    config = Config()
    shape = Shape(batch, m, n, k, BF16, ALONG_K, feed_b, 0)
    library().gems_matmul_wgmma_configure(C.byref(shape), C.byref(H200), C.byref(config))
    return config


def takes(shape: Shape, info: Info = H200) -> bool:
    function = library().gems_matmul_wgmma_takes
    function.restype = C.c_bool
    return function(C.byref(shape), C.byref(info))


@functools.cache
def candidates() -> tuple[Config, ...]:
    function = library().gems_matmul_wgmma_candidate
    function.restype = C.c_bool
    found = []
    for i in itertools.count():
        config = Config()
        if not function(C.byref(H200), BF16, i, C.byref(config)):
            return tuple(found)
        found.append(config)
    raise AssertionError


sizes = st.one_of(st.integers(1, 300), st.integers(1, 70000))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 70), sizes, sizes, sizes, st.sampled_from((ALONG_K, ALONG_LINES)))
def test_configurations_cover_the_matrix_and_fit_the_device(batch: int, m: int, n: int, k: int, feed_b: int) -> None:
    config = configure(batch, m, n, k, feed_b)
    parts = config.parts
    assert config.kernel == WGMMA and config.tile_k == 64
    assert parts.tiles_m == ceil_div(m, parts.tile_m) and parts.tiles_n == ceil_div(n, parts.tile_n)
    # Tiles along the lines come 64 at a time, and each block of a pair brings half.
    share = 1 if config.thin else config.cluster
    assert feed_b == ALONG_K or parts.tile_n // share % 64 == 0
    lines = parts.tile_m // share
    assert lines == 128 or (lines == 64 and config.thin)
    assert config.threads == 128 + lines * 2
    ring = config.stages * ((lines + parts.tile_n) * 64 * 2 + 16) + 1024
    # The twin of what matmul_wgmma.cu lays out behind the ring.
    slab = lines // 16 * 16 * max((min(parts.tile_n, 32) + 4) * 4, 0 if config.thin else config.pad * 128)
    staged = config.shared - ring
    assert staged >= (max(slab, parts.tile_n * (lines + 4) * 4) if config.thin else slab)
    # A processor has a KB more than a block may have, and takes one for itself of each.
    assert (config.shared + 1024) * config.blocks <= H200.shared_bytes + 1024 and config.stages >= 3
    assert n > 64 or (config.thin and parts.tile_n < max(2 * n, 17 if feed_b == ALONG_K else 65))
    units = batch * parts.split * parts.tiles_m * parts.tiles_n
    assert parts.split_k % 64 == 0
    if config.thin and config.cluster > 1:
        # Each block of a cluster has a part of k, of which the last may be empty, none has two tiles, and all find
        # room at a time.
        assert parts.split == 1 and 2 <= config.cluster <= 8 and config.cluster * parts.split_k >= k
        assert parts.share == config.cluster and config.grid == units * config.cluster
        assert config.grid <= H200.processors * config.blocks
    else:
        assert (parts.split - 1) * parts.split_k < k <= parts.split * parts.split_k
        assert config.grid == min(units, H200.processors * config.blocks // config.cluster) * config.cluster


def test_tiles_follow_the_shape() -> None:
    large = configure(1, 8192, 8192, 8192)
    assert (large.parts.tile_m, large.parts.tile_n, large.cluster) == (256, 256, 2)
    assert configure(1, 4096, 16, 4096).parts.tile_n == 16
    assert configure(1, 14336, 33, 4096).parts.tile_n == 64
    # Parts of k in one launch, for most of the processors, and half as many again where tiles are wide.
    for columns, blocks in ((16, 128), (32, 128), (64, 192)):
        decode = configure(1, 4096, columns, 4096)
        assert decode.thin and decode.parts.tile_m == 64 and decode.parts.split == 1 and decode.grid == blocks
    assert configure(1, 4096, 64, 4096, ALONG_LINES).parts.tile_n == 64
    assert configure(1, 1024, 16, 8192).cluster == 8
    # Enough tiles as they are.
    assert configure(1, 14336, 16, 4096).cluster == configure(1, 128256, 16, 4096).cluster == 1
    # The gradient of a small weight over many tokens.
    tall = configure(1, 64, 64, 100000)
    assert tall.cluster == 1 and tall.parts.split == 32
    # A few tokens and a layer.
    some = configure(1, 128, 4096, 4096)
    assert some.parts.split == 1 and some.parts.tile_n == 64
    assert configure(1, 128, 14336, 4096).parts.split == 1
    assert configure(64, 1024, 1024, 64).parts.split == 1


def test_what_the_kernel_takes() -> None:
    assert takes(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_LINES))
    assert takes(Shape(1, 4096, 4096, 4096, F16, ALONG_LINES, ALONG_LINES))
    assert not takes(Shape(1, 4096, 4096, 4096, F32, ALONG_K, ALONG_K))
    assert not takes(Shape(1, 4096, 4096, 4096, BF16, GATHER_ALONG_K, ALONG_K))
    assert not takes(Shape(1, 16, 16, 16, BF16, ALONG_K, ALONG_K))
    assert not takes(Shape(1, 4096, 4096, 0, BF16, ALONG_K, ALONG_K))
    other = Info.from_buffer_copy(H200)
    other.hopper = False
    assert not takes(Shape(1, 4096, 4096, 4096, BF16, ALONG_K, ALONG_LINES), other)


def test_maps_of_operands() -> None:
    describe, found = library().gems_matmul_wgmma_map, Map()
    kinds = [C.c_void_p, C.c_bool, C.c_int, C.c_int, C.c_void_p, *[C.c_int64] * 6, C.c_void_p]
    describe.argtypes, describe.restype = kinds, None
    config = configure(1, 8192, 8192, 8192)

    def of(first: bool, feed: int, *numbers: int) -> tuple[list[int], ...]:
        describe(C.addressof(config), first, feed, BF16, 4096, *numbers, C.addressof(found))
        assert found.sizes[3] == 0
        return list(found.sizes)[:3], list(found.strides)[:2], list(found.box)

    # Batch and its stride, lines and their stride, k and its stride.
    assert of(True, ALONG_K, 3, 8000, 100, 80, 72, 1) == ([72, 100, 3], [160, 16000], [64, 128])
    assert of(True, ALONG_LINES, 1, 0, 96, 1, 72, 96) == ([96, 72, 1], [192, 72 * 192], [64, 64])
    assert of(False, ALONG_K, 5, 0, 100, 80, 72, 1) == ([72, 100, 1], [160, 16000], [64, 128])
    # One line: its stride says nothing, and the map has a legal one.
    assert of(False, ALONG_K, 1, 0, 1, 0, 72, 1)[1] == [144, 144]


def swizzled(address: np.ndarray) -> np.ndarray:
    return address ^ (address >> 7 & 7) << 4


@pytest.mark.parametrize("lines", [False, True], ids=["along k", "along lines"])
@pytest.mark.parametrize("count", [64, 128, 256])
def test_descriptors_name_what_copies_write(count: int, lines: bool) -> None:
    """A copy by boxes of 128-byte rows and a product through its descriptor agree on where each element is.

    The layouts are those of the PTX manual: of 16-bit elements with 128-byte swizzling, ((8,m),(8,2k)):((64,SBO),(1,8))
    along k and ((8,8,m),(8,k)):((1,8,LBO),(64,SBO)) along lines, in elements.
    """
    depth, base = 64, 3 * 1024
    memory = np.full(base + count * 128, -1, np.int64)
    line, k = np.meshgrid(np.arange(count), np.arange(depth), indexing="ij")
    number = line * depth + k
    if lines:  # boxes of 64 lines and 64 k, a row for each k
        place = line // 64 * 8192 + k * 128 + line % 64 * 2
    else:  # one box, a row for each line
        place = line * 128 + k * 2
    memory[swizzled(base + place)] = number
    lead, stride = 8192, 1024
    for step in range(depth // 16):
        start = base + step * (2048 if lines else 32)
        line, k = np.meshgrid(np.arange(count), np.arange(16), indexing="ij")
        if lines:
            at = line % 8 * 2 + line // 8 % 8 * 16 + line // 64 * lead + k % 8 * 128 + k // 8 * stride
        else:
            at = line % 8 * 128 + line // 8 * stride + k % 8 * 2 + k // 8 * 16
        assert (memory[swizzled(start + at)] == line * depth + step * 16 + k).all()


def check_code(config: Config, dtype: int, feed_a: int, feed_b: int) -> None:
    text, entries = program(config, dtype, feed_a, feed_b)
    kernel = sass.kernels(text, entries, "sm_90a")["matmul_wgmma"]
    assert kernel.spill_bytes == 0 and not kernel.has("LDL") and not kernel.has("STL")
    if config.blocks == 1:
        assert kernel.registers == 168  # of 384 threads: what setmaxnreg divides
    else:
        assert kernel.registers * config.threads * config.blocks <= 65536
    assert kernel.count("HGMMA") == 4 and not kernel.has("HMMA")
    loads = [
        config.parts.tile_m // (1 if config.thin else config.cluster) // 64 if feed_a == ALONG_LINES else 1,
        config.parts.tile_n // (1 if config.thin else config.cluster) // 64 if feed_b == ALONG_LINES else 1,
    ]
    assert kernel.count("UTMALDG") == sum(loads)
    assert kernel.count("UTMALDG.MULTICAST") == (loads[1] if config.parts.tile_m > 128 else 0)
    assert (
        kernel.has("SYNCS")
        and kernel.has("USETMAXREG") == (config.blocks == 1)
        and kernel.has("UTMASTG") == (not config.thin)
    )
    turned = [op for op in kernel.instructions if op.startswith("HGMMA") and "tnsp" in op]
    assert bool(turned) == (ALONG_LINES in (feed_a, feed_b))


def test_machine_code() -> None:
    some = {(c.parts.tile_n, c.cluster): c for c in reversed(candidates())}
    small = next(c for c in candidates() if c.parts.tile_m == 64)
    check_code(small, BF16, ALONG_K, ALONG_K)
    assert some[16, 2].thin and not some[128, 1].thin and not some[256, 2].thin
    check_code(some[256, 2], BF16, ALONG_K, ALONG_LINES)
    check_code(some[128, 1], F16, ALONG_LINES, ALONG_K)
    check_code(some[16, 2], BF16, ALONG_K, ALONG_K)


@pytest.mark.slow
def test_machine_code_of_every_layout() -> None:
    # One program does clusters of any size that share k.
    programs = [c for c in candidates() if not c.thin or c.cluster <= 2]
    for config, dtype, a, b in itertools.product(programs, (F16, BF16), *[(ALONG_K, ALONG_LINES)] * 2):
        if b == ALONG_K or config.parts.tile_n >= 64:
            check_code(config, dtype, a, b)


# ---- numbers ----

# Rows, columns, depth, layouts of A and B. Narrow tiles compile in less time than wide ones; where there are more steps
# than stages every place of the ring is used again.
CASES = {
    "few": [(136, 120, 1096, "contiguous", "contiguous")],
    "layouts": [(136, 120, 200, a, b) for a in ("contiguous", "transposed") for b in ("contiguous", "transposed")],
    "thin": [(8, 200, 1040, "contiguous", "transposed"), (264, 24, 520, "contiguous", "transposed")],
    "tails": [(129, 77, 72, "contiguous", "transposed"), (1, 136, 520, "contiguous", "contiguous")],
    "wide": [(300, 272, 2000, "contiguous", "contiguous"), (136, 600, 8, "transposed", "contiguous")],
}
# Tile and blocks that share k of thin products, which exchange their sides where there are fewer rows than columns. Of
# the last one the blocks at the end have nothing to do.
PARTED = [
    (1, 72, 520, "contiguous", "transposed", "64x16x64 stages 10 cluster 2"),
    (8, 200, 1040, "contiguous", "contiguous", "64x16x64 stages 10 cluster 4"),
    (264, 40, 392, "contiguous", "contiguous", "128x64x64 stages 7 cluster 2"),
    (24, 72, 200, "contiguous", "contiguous", "128x32x64 stages 10 cluster 3"),
    (17, 72, 264, "contiguous", "transposed", "64x32x64 stages 8 cluster 8"),
]
PRODUCTS = """
import sys
import torch
from test_matmul_wgmma import CASES, PARTED, multiply, multiply_parted
torch.manual_seed(0)
for group in sys.argv[1:]:
    if group == "parted":
        for case in PARTED:
            multiply_parted(*case)
        continue
    for case in CASES[group]:
        multiply(*case, torch.bfloat16)
    if group == "layouts":
        multiply(136, 72, 200, "contiguous", "transposed", torch.float16, batch=3)
print("all right")
"""


def multiply(m: int, n: int, k: int, left: str, right: str, dtype: torch.dtype, batch: int = 0) -> None:
    """A product and one with something added, beside float64; our kernel runs."""
    leading = (batch,) if batch else ()
    a, b = matrix(m, k, dtype, left, leading), matrix(k, n, dtype, right, leading)
    name = "bmm" if batch else "mm"
    with kernels(name):
        result = getattr(ops, name)(a, b)
    check(result, a, b)
    name = "baddbmm" if batch else "addmm"
    for c in (matrix(1, n, dtype, "contiguous")[0], matrix(m, n, dtype, "contiguous", leading)):
        with kernels(name):
            added = getattr(ops, name)(c, a, b, beta=2, alpha=0.5)
        check(added, a, b, c.expand(*leading, m, n), 2, 0.5)
    if not batch:
        out = torch.full((n, m), float("nan"), dtype=dtype, device=a.device).t()
        check(ops.mm_out(a, b, out=out), a, b)  # as the product of the transposed, which may be parted otherwise


def multiply_parted(m: int, n: int, k: int, left: str, right: str, tile: str) -> None:
    """As multiply, by blocks that share k; two runs have the same bits."""
    from flag_gems import _C, tune

    text = f"wgmma_thin {tile} split 1 group 8"
    with tune.forced(tune.Choice("", text)):
        multiply(m, n, k, left, right, torch.bfloat16)
        assert _C.tuning_asked()["hopper"][2] == text
        a, b = matrix(m, k, torch.bfloat16, left), matrix(k, n, torch.bfloat16, right)
        torch.testing.assert_close(ops.mm(a, b), ops.mm(a, b), rtol=0, atol=0)


def run(mode: str, groups: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Multiplies in a process of its own, where the cpu backend plays an sm_90a device."""
    return run_program(mode, PRODUCTS, groups, tmp_path, GEMS_CPU_DEVICE="sm_90a", **environment)


def passed(done: subprocess.CompletedProcess[str]) -> bool:
    assert "compiled matmul wgmma" in done.stderr and "matmul mma" not in done.stderr, done.stderr
    return done.returncode == 0 and done.stdout.endswith("all right\n")


@pytest.mark.parametrize("group", ["layouts", "thin", "tails", "parted", pytest.param("wide", marks=pytest.mark.slow)])
def test_every_access_is_checked(group: str, tmp_path: Path) -> None:
    done = run("checked", [group], tmp_path)
    assert passed(done), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "random:7"])
def test_threads_in_any_order(order: str, tmp_path: Path) -> None:
    done = run("faithful", [*CASES, "parted"], tmp_path, GEMS_CPU_ORDER=order)
    assert passed(done), done.stdout + done.stderr


MISTAKES = {
    "no wait for a tile": ("matmul_wgmma.cu", "mbarrier_wait(full + at.stage, at.parity);", ""),
    "no wait for a place": ("matmul_wgmma.cu", "mbarrier_wait(empty + at.stage, at.parity ^ 1);", ""),
    "a place left before its products are complete": (
        "matmul_wgmma.cu",
        "if (s) leave(before);",
        "if (s) leave(at.stage);",
    ),
    "too few bytes": (
        "matmul_wgmma.cu",
        "mbarrier_expect(full + at.stage, kBytes);",
        "mbarrier_expect(full + at.stage, kBytesA);",
    ),
    "the wrong parity": ("matmul_wgmma.cu", "stage = 0, parity ^= 1;", "stage = 0;"),
    "accumulators read before they are complete": ("matmul_wgmma.cu", "wgmma_wait<0>();", ""),
    "results that are not waited for": (
        "matmul_wgmma.cu",
        "if (!kThin && warp >= 4 && lane == 0) tensor_store_wait<0>();",
        "",
    ),
    "half a step along k": ("matmul_wgmma.cu", "2048 >> 4 : 32 >> 4", "2048 >> 4 : 16 >> 4"),
    "lanes that exchange wrongly": ("hopper.cuh", "high ? w[i] : w[i + 2], 2)", "high ? w[i + 2] : w[i], 2)"),
    "a stride of the descriptor": ("hopper.cuh", "(uint64_t)(1024 >> 4) << 32", "(uint64_t)(512 >> 4) << 32"),
}


# Of blocks that share k.
PARTED_MISTAKES = {
    "sums that are read before they are there": (
        "if constexpr (kParted) meet();\n                else part_sync<1>(kMultiplying);",
        "if constexpr (!kParted) part_sync<1>(kMultiplying);",
    ),
    "one block's sums for all": ("cluster_load(from, b)", "cluster_load(from, 0)"),
    "the same part of k for all": ("(kParted ? rank : split) * p.split_k", "split * p.split_k"),
    "results that nobody writes": ("+ rank * kMultiplying; i", "; i"),
}


QUICK = ("no wait for a tile", "a place left before its products are complete", "results that are not waited for")


@pytest.mark.parametrize(
    "mistake", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MISTAKES]
)
def test_planted_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    file, right, wrong = MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    text = (texts / file).read_text()
    assert right in text, "the text to change is not there"
    (texts / file).write_text(text.replace(right, wrong))
    done = run("faithful", ["few"], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert not passed(done)
    found = ("AssertionError", "mbarrier_wait", "a box is copied", "more arrivals")
    assert any(text in done.stderr for text in found), done.stderr


@pytest.mark.parametrize(
    "mistake",
    [next(iter(PARTED_MISTAKES)), *(pytest.param(n, marks=pytest.mark.slow) for n in list(PARTED_MISTAKES)[1:])],
)
def test_planted_mistakes_of_shared_k_are_found(mistake: str, tmp_path: Path) -> None:
    right, wrong = PARTED_MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    text = (texts / "matmul_wgmma.cu").read_text()
    assert right in text, "the text to change is not there"
    (texts / "matmul_wgmma.cu").write_text(text.replace(right, wrong))
    done = run("faithful", ["parted"], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert not passed(done) and "AssertionError" in done.stderr, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernel is that of sm_90a")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_numbers_on_a_gpu(dtype: torch.dtype) -> None:
    """Sizes that pick each tile, with one block alone and in pairs, in all layouts."""
    torch.manual_seed(0)
    layouts = list(itertools.product(("contiguous", "transposed"), repeat=2))
    for (m, n, k), (left, right) in itertools.product(
        [(2048, 2048, 1024), (1000, 1032, 2056), (128, 4096, 4096), (264, 8192, 520), (4096, 4096, 64)], layouts
    ):
        multiply(m, n, k, left, right, dtype)
    for m, (left, right) in itertools.product((1, 7, 16, 24, 40, 64), layouts):
        m = m if left == "contiguous" else ceil_div(m, 8) * 8
        multiply(m, 4096, 4096, left, right, dtype)
        multiply(m, 14336, 1024, left, right, dtype)
    for left, right in layouts:
        multiply(520, 264, 136, left, right, dtype, batch=33)


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="the kernel is that of sm_90a")
def test_the_same_bits_in_every_run_and_in_a_graph() -> None:
    a, b = matrix(1024, 4096, torch.bfloat16, "contiguous"), matrix(4096, 1024, torch.bfloat16, "transposed")
    first = ops.mm(a, b)
    for _ in range(20):
        assert torch.equal(ops.mm(a, b), first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.mm(a, b)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, first) and DEVICE == "cuda"
