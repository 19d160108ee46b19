"""What warmup compiles for GPUs: machine code without spills, with wide accesses, on every architecture."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from flag_gems import _C, rows, warm

import sass

ROWS = {rows.name_of(row): row for row in _C.rows()}
# Of a dense float32 elementwise program, and of one that also computes offsets: enough threads are resident to hide
# memory's latency.
REGISTERS, REGISTERS_WITH_OFFSETS = 40, 48


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))


def kernel(name: str, dtype: str, arch: str, entry: str) -> sass.Kernel:
    """A kernel of the first program that has it of those that warmup compiles of a row."""
    texts = (_C.program_text(ROWS[name]["id"], dtype, i, arch, "cuda") for i in itertools.count())
    return sass.kernels(next(text for text in texts if f"{entry}(" in text), [entry], arch)[entry]


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_dense_elementwise_programs(arch: str) -> None:
    for name, dtype, tensors in (("add.Tensor", "bfloat16", 2), ("gelu", "float32", 1)):
        found = kernel(name, dtype, arch, "elementwise")
        assert found.spill_bytes == 0 and found.registers <= REGISTERS, (name, found.registers)
        assert found.has("LDG.E.128", "STG.E.128") and found.count("LDG.E.128") >= tensors, name


# Instructions for each element, the ends of a range included: so few that memory is the limit, but for gelu.
# (row, words of the program's name, most)
EACH = [
    ("add.Tensor", "dense float32,float32", 20),
    ("gelu", "dense float32", 80),
    ("clone", "copy_strided int32", 24),  # float32 moved as it is, four dims, vectors of 16 bytes
    ("clone", "copy_dense int32", 16),
]


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_instructions_of_an_element(arch: str) -> None:
    work = warm.plan([arch], sorted({name for name, _, _ in EACH}), ["float32"])
    reports = warm.run(work, 2, progress=False)
    for name, words, most in EACH:
        found = next(r for r in reports if r["op"] == ROWS[name]["id"] and words in r["program"])
        assert 1 <= found["instructions_per_element"] <= most, found
        assert found["registers"] <= REGISTERS and found["spill_bytes"] == 0, found
    cpu = warm.compile_item(warm.plan(["cpu"], ["add.Tensor"], ["float32"])[0])
    assert all(report["instructions_per_element"] is None for report in cpu)


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_rows_and_products(arch: str) -> None:
    found = kernel("native_layer_norm", "bfloat16", arch, "normalize")
    assert found.spill_bytes == 0 and found.has("LDG.E.128"), found.registers
    found = kernel("mm", "bfloat16", arch, "matmul_tile")
    assert found.spill_bytes == 0 and found.has("HMMA", "LDGSTS.128", "LDSM", "STG.E.128")


@pytest.mark.parametrize(
    ("asked", "compiled"), [("sm_80", "sm_80"), ("sm_90", "sm_90a"), ("sm_100", "sm_100a"), ("sm_120", "sm_120")]
)
def test_an_arch_is_compiled_as_its_devices_have_it(asked: str, compiled: str) -> None:
    reports = warm.run(warm.plan([asked], ["neg"], ["float32"]), 2, progress=False)
    assert reports and {report["arch"] for report in reports} == {compiled}
    assert warm.summary(reports)[1]
    again = warm.run(warm.plan([compiled], ["neg"], ["float32"]), 2, progress=False)
    assert all(report["cached"] for report in again)


def test_a_program_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    item = warm.plan(["sm_80"], ["add.Tensor"], ["float32"])[0]
    many = len(warm.compile_item(item))
    monkeypatch.setenv("FLAGGEMS_ASSERT_COMPILED", "1")
    other = warm.compile_item(warm.Item("cuda", "sm_86", item.row, item.dtype))
    assert len(other) == many > 1
    assert all("FLAGGEMS_ASSERT_COMPILED" in report["error"] and not report["cached"] for report in other)
    assert warm.summary(other) == (f"{many} programs: 0 compiled, 0 in the cache, {many} failed, 0 spill", False)
    assert warm.table(other).count("failed:") == many
    assert all(report["cached"] and not report["error"] for report in warm.compile_item(item))


@pytest.mark.slow
@pytest.mark.parametrize("arch", sass.ARCHS)
def test_every_program_of_every_row(arch: str) -> None:
    work = warm.plan([arch], ["all"], None)
    reports = warm.run(work, 2, progress=False)
    wrong = [report for report in reports if warm.failed(report) or warm.spilled(report)]
    assert not wrong, warm.table(wrong)
    assert {report["op"] for report in reports} == {row["id"] for row in rows.all_rows()}
    elementwise = {row["id"] for row in _C.rows() if row["family"] == "elementwise"}
    floats = [item.row for item in work if item.row in elementwise and item.dtype == "float32"]
    limit = {True: REGISTERS, False: REGISTERS_WITH_OFFSETS}
    crowded = [
        r
        for r in reports
        if r["op"] in floats and "float32" in r["dtypes"] and r["registers"] > limit[" dense " in r["program"]]
    ]
    assert not crowded, warm.table(crowded)
    assert all(report["cached"] for report in warm.run(work, 2, progress=False))


@pytest.mark.slow
def test_every_dense_float32_program_loads_16_bytes() -> None:
    for name, row in ROWS.items():
        if row["family"] == "elementwise" and "float32" in row["dtypes"]:
            found = kernel(name, "float32", "sm_90a", "elementwise")
            # The wider side is accessed by 16 bytes: bools are narrower than what is read, complex results wider.
            assert row["promotion"] == "float_to_complex" or found.has("LDG.E.128"), name
            assert row["promotion"] == "always_bool" or found.has("STG.E.128"), name
