"""How rows are spread over threads, blocks and clusters: the table on every device, and clusters at work."""

from __future__ import annotations

import ctypes as C
import functools
import itertools
from pathlib import Path

import flag_gems
import pytest
from flag_gems import warm
from hypothesis import given
from hypothesis import strategies as st

import native
import sass
from cpu_modes import run_in_mode
from native import DeviceInfo

AGAIN, REGISTERS, SHARED = range(3)
ANYHOW, ALIGNED, ALIKE = range(3)


class Rows(C.Structure):
    """gems_rows."""

    _fields_ = [
        *(("rows", C.c_int64), ("n", C.c_int64), ("size", C.c_size_t)),
        *((name, C.c_int) for name in ("registers", "kept", "lie")),
    ]


class Team(C.Structure):
    """gems_team."""

    _fields_ = [
        *((name, C.c_uint8) for name in ("vec", "stage", "items", "warp_row", "cluster", "ahead", "edges")),
        *((name, C.c_uint32) for name in ("threads", "grid", "shared")),
    ]


DEVICES = {
    "A100": DeviceInfo(80, 108, 32, 1024, 16, 163 * 1024, 40 << 20),
    "H200": DeviceInfo(90, 132, 32, 1024, 16, 227 * 1024, 60 << 20),
    "B200": DeviceInfo(100, 148, 32, 1024, 16, 227 * 1024, 126 << 20),
    "RTX 5090": DeviceInfo(120, 170, 32, 1024, 16, 99 * 1024, 96 << 20),
    "faithful": DeviceInfo(0, 4, 32, 1024, 16, 99 * 1024, 1 << 20),
    "faithful sm_90a": DeviceInfo(0, 4, 32, 1024, 16, 227 * 1024, 1 << 20, False, False, True),
}
MOST = {"A100": 1, "H200": 16, "B200": 16, "RTX 5090": 8, "faithful": 1, "faithful sm_90a": 8}


@functools.cache
def library() -> C.CDLL:
    stub = native._directory() / "grid_for.c"
    stub.write_text(
        '#include "families/call.h"\n'
        "uint32_t gems_grid_for(const gems_device_info *info, int64_t n, int64_t each) {\n"
        "    (void)info;\n    return (uint32_t)((n + each - 1) / each);\n}\n"
    )
    built = C.CDLL(str(native.build("libgems_row_team.so", (Path("families/row_team.c"), stub), ())))
    built.gems_team_of.restype = Team
    return built


def team(device: str, rows: int, n: int, size: int, registers: int = 1, kept: int = 1, lie: int = ALIGNED) -> Team:
    asked = Rows(rows, n, size, registers, kept, lie)
    return library().gems_team_of(C.byref(DEVICES[device]), C.byref(asked))


def vectors(n: int, t: Team) -> int:
    """Of a block: the blocks of a cluster have equal parts, the last ones less."""
    whole = (n + t.vec - 1) // t.vec
    return (whole + t.cluster - 1) // t.cluster


@given(
    device=st.sampled_from(sorted(DEVICES)),
    rows=st.one_of(st.integers(1, 64), st.integers(1, 1 << 22)),
    n=st.one_of(st.integers(1, 4096), st.integers(1, 1 << 21), st.sampled_from([1 << k for k in range(24)])),
    size=st.sampled_from([2, 4, 8]),
    registers=st.sampled_from([1, 2, 4]),
    kept=st.sampled_from([1, 2]),
    lie=st.sampled_from([ANYHOW, ALIGNED, ALIKE]),
)
def test_every_row_has_its_team(device: str, rows: int, n: int, size: int, registers: int, kept: int, lie: int) -> None:
    t, info = team(device, rows, n, size, registers, kept, lie), DEVICES[device]
    own, each = vectors(n, t), t.threads
    assert t.edges == (lie == ALIKE and n > 32)
    assert t.vec == (16 // size if lie == ALIGNED or t.edges else 1) and 1 <= t.cluster <= MOST[device]
    assert each % 32 == 0 and 64 <= each <= info.max_threads and t.grid % t.cluster == 0 and t.grid > 0
    assert t.cluster & (t.cluster - 1) == 0
    if t.warp_row:
        assert t.cluster == 1 and t.stage == REGISTERS and each == (64 if t.items > 4 else 128) and t.items * 32 >= own
    elif t.stage == REGISTERS:
        assert t.items * each >= own and t.items in (1, 2, 4, 8)
        assert each == 64 or t.items == 1 or t.items * each < 2 * own + each
    elif t.stage == SHARED:
        assert own * t.vec * size * kept <= t.shared <= info.shared_bytes - 4096
    else:
        assert t.shared == 0
    if MOST[device] > 1 and t.stage == REGISTERS and not t.warp_row:
        assert 2 * each <= 1024  # two blocks find room on a processor
    if t.cluster > 8:  # as many blocks at once only where two of them share a processor
        assert 2 * t.shared <= info.shared_bytes and each <= 512


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("device", ["H200", "B200"])
def test_long_rows_are_read_once(device: str, size: int) -> None:
    """Up to 262,144 columns and beyond, whatever they begin at; two rows of more than eight blocks are read again."""
    lengths = (1000, 1024, 4096, 16384, 65536, 131072, 262144, 300001)
    for n, kept, lie in itertools.product(lengths, (1, 2), (ANYHOW, ALIGNED, ALIKE)):
        t = team(device, 512, n, size, kept, kept, ALIKE if lie == ALIGNED and n % (16 // size) else lie)
        assert t.stage != AGAIN or (n * size * kept > 8 * (227 * 512 - 4096) and kept == 2), (n, kept, lie)


def test_the_table() -> None:
    """(columns, rows) to (where, threads, accesses of a thread in registers, blocks of a row) on an H200, fp32."""
    table = {
        (1024, 1 << 17): (REGISTERS, 64, 8, 1),
        (1024, 8): (REGISTERS, 64, 4, 1),
        (4096, 1 << 15): (REGISTERS, 256, 4, 1),
        (8192, 1 << 14): (REGISTERS, 256, 8, 1),
        (16384, 1 << 13): (SHARED, 512, 1, 1),
        (32768, 1 << 12): (SHARED, 512, 1, 2),
        (65536, 1 << 11): (SHARED, 512, 1, 4),
        (131072, 1 << 10): (SHARED, 512, 1, 8),
        (262144, 1 << 9): (SHARED, 512, 1, 16),
    }
    found = {}
    for n, rows in table:
        t = team("H200", rows, n, 4)
        found[n, rows] = (t.stage, t.threads, t.items, t.cluster)
    assert found == table


def test_few_rows_fill_the_device() -> None:
    for rows, n in ((1, 1 << 20), (4, 1 << 18), (16, 1 << 16)):
        t = team("H200", rows, n, 4)
        assert t.grid >= 8 * rows
    assert team("H200", 1, 1024, 4).cluster == 1
    assert team("A100", 1, 1 << 20, 4).grid == 1


# ---- clusters at work, where the cpu backend plays an sm_90a device ----

HERE = Path(__file__).resolve().parent
CASES = str(HERE / "long_rows.py")


@pytest.mark.parametrize(
    "what",
    ["softmax", "losses", pytest.param("norms", marks=pytest.mark.slow), pytest.param("many", marks=pytest.mark.slow)],
)
def test_clusters_checked(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_CPU_DEVICE", "sm_90a")
    monkeypatch.setenv("GEMS_STRICT", "1")
    run_in_mode("checked", "forward", CASES, what)


@pytest.mark.parametrize(
    "order", ["forward", *(pytest.param(o, marks=pytest.mark.slow) for o in ("reverse", "random:5"))]
)
def test_clusters_in_any_order(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_CPU_DEVICE", "sm_90a")
    monkeypatch.setenv("GEMS_STRICT", "1")
    run_in_mode("faithful", order, CASES, "softmax,norms,losses,many")


# ---- machine code ----


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
def test_long_rows_in_machine_code(arch: str) -> None:
    """Softmax of halves with 131,072 columns: whole vectors, no spills, clusters where the device has them."""
    row = next(r for r in flag_gems._C.rows() if r["id"] == "softmax")
    found = sass.kernels(flag_gems._C.program_text(row["id"], "bfloat16", 4, arch, "cuda"), ["softmax"], arch)[
        "softmax"
    ]
    assert found.spill_bytes == 0
    assert found.has("STG.E.EF.128") and (found.has("LDGSTS.128") or found.has("LDG.E.128")), found.opcodes
    assert (arch == "sm_80") != any("CGABAR" in op for op in found.opcodes), found.opcodes


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(
    "row", ["softmax", "softmax_backward", "layer_norm", "layer_norm_backward", "rms_norm", "rms_norm_backward"]
)
def test_programs_for_a_gpu(row: str, arch: str) -> None:
    for dtype in warm.MAIN_DTYPES:
        reports = warm.compile_item(warm.Item("cuda", arch, row, dtype))
        assert reports and all(r["error"] is None and not r["spill_bytes"] for r in reports), reports
