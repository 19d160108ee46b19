"""The command line: what each command prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flag_gems import _C, cli, operators_page, rows, warm

ROOT = Path(__file__).resolve().parent.parent
FACTS = {"op", "program", "dtypes", "arch", *warm.FACTS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process."""
    code = cli.main(argv)
    out, error = capsys.readouterr()
    return code, out, error


def test_ops_lists_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ops")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines()[1:]]
    assert listed == [rows.name_of(row) for row in rows.all_rows()]


def test_ops_json_and_family(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ops", "--json", "--family", "matmul")
    found = json.loads(out)
    assert code == 0
    assert {row["family"] for row in found} == {"matmul"}
    assert "mm" in {rows.name_of(row) for row in found}
    code, _, error = run(capsys, "ops", "--family", "nosuch")
    assert code == 2 and "matmul" in error


def test_page_of_operators_is_not_stale() -> None:
    page = (ROOT / "docs/operators.md").read_text()
    assert page == operators_page.markdown(rows.all_rows()), "write it anew: make docs"


def test_check_says_when_a_page_is_stale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert run(capsys, "ops", "--markdown", "--check", str(page))[0] == 1
    assert run(capsys, "ops", "--markdown", "--output", str(page))[0] == 0
    assert run(capsys, "ops", "--markdown", "--check", str(page))[0] == 0
    page.write_text(page.read_text().replace("`mm`", "`nn`", 1))
    code, _, error = run(capsys, "ops", "--markdown", "--check", str(page))
    assert code == 1 and "stale" in error


def test_page_names_every_overload() -> None:
    page = operators_page.markdown(rows.all_rows())
    for row in rows.all_rows():
        for name in (rows.name_of(row), *rows.others_of(row), *rows.functions_of(row)):
            assert f"`{name}`" in page


def test_dtypes_are_grouped() -> None:
    every = ["float16", "bfloat16", "float32", "float64", "int32", "bool"]
    assert operators_page.dtypes_text(every) == "floats, i32, bool"
    assert operators_page.dtypes_text(["float32"]) == "f32"


@pytest.mark.parametrize("name", ["mm", "aten::mm", "mm.out"])
def test_rows_are_found_by_any_name(name: str) -> None:
    assert "mm" in {rows.name_of(row) for row in rows.select(rows.all_rows(), [name])}


def test_every_row_is_found_by_each_of_its_names() -> None:
    table = rows.all_rows()
    for row in table:
        for name in (row["id"], rows.name_of(row), *rows.others_of(row)):
            assert row["id"] in {found["id"] for found in rows.select(table, [name])}, name


def test_warmup_compiles_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("warmup", "--arch", "sm_80,cpu", "--ops", "mul.Tensor", "--dtypes", "float32", "--json")
    code, out, error = run(capsys, *command)
    found = json.loads(out)
    assert code == 0
    assert found and all(set(report) >= FACTS for report in found)
    assert {report["op"] for report in found} == {"mul_tensor"}
    gpu = [report for report in found if report["arch"] == "sm_80"]
    assert 0 < len(gpu) < len(found)
    assert all(report["spill_bytes"] == 0 and report["registers"] > 0 for report in gpu)
    assert all(report["instructions"] > 0 and report["milliseconds"] > 0 for report in gpu)
    assert not any(report["cached"] for report in found)
    assert f"{len(found)} compiled" in error

    code, out, error = run(capsys, *command)
    again = json.loads(out)
    assert code == 0
    assert all(report["cached"] for report in again)
    same = ("op", "program", "dtypes", "arch", "registers", "spill_bytes", "shared_bytes", "instructions")
    assert [[r[k] for k in same] for r in again] == [[r[k] for k in same] for r in found]
    assert " 0 compiled" in error


def test_warmup_default_dtypes() -> None:
    by_name = {rows.name_of(row): row for row in rows.all_rows()}
    assert warm.dtypes_of(by_name["mul.Tensor"], None) == ["float32", "float16", "bfloat16"]
    assert "float32" not in warm.dtypes_of(by_name["bitwise_and.Tensor"], None)
    assert warm.dtypes_of(by_name["bitwise_and.Tensor"], None) == by_name["bitwise_and.Tensor"]["dtypes"]
    assert warm.dtypes_of(by_name["mul.Tensor"], ["int32", "float8_e4m3fn"]) == ["int32"]


def test_warmup_all_means_every_row() -> None:
    items = warm.plan(["sm_80", "sm_90a"], ["all"], None)
    names = [row["id"] for row in rows.all_rows() if row["entries"]]  # composite rows run in the kernels of others
    assert {(item.arch, item.row) for item in items} == {(arch, name) for arch in ("sm_80", "sm_90a") for name in names}
    assert {item.backend for item in items} == {"cuda"}


@pytest.mark.parametrize("wrong", [("--ops", "nosuch"), ("--dtypes", "float33"), ("--dtypes", "nn")])
def test_warmup_refuses_unknown_names(capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]) -> None:
    code, out, error = run(capsys, "warmup", "--arch", "sm_80", *wrong)
    assert code == 2 and wrong[1] in error and out == ""


def test_warmup_fails_when_a_program_fails(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "warmup", "--arch", "sm_1", "--ops", "neg", "--dtypes", "float32", "--json")
    assert code == 1
    assert json.loads(out)[0]["error"]
    assert "1 failed" in error


def test_warmup_fails_when_a_program_spills(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = dict.fromkeys(FACTS, 1) | {"spill_bytes": 16, "op": "neg", "cached": False}
    monkeypatch.setattr(warm, "compile_item", lambda item: [report])
    code, out, error = run(capsys, "warmup", "--arch", "sm_80", "--ops", "neg")
    assert code == 1 and "1 spill" not in out and ", 3 spill" in error


def test_cache_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, "warmup", "--arch", "sm_80", "--ops", "neg", "--dtypes", "float32")
    _, out, _ = run(capsys, "cache", "info")
    lines = dict(line.split(": ") for line in out.splitlines())
    count = int(lines["entries"])
    assert lines["directory"] == str(tmp_path / "cache") and count > 0
    _, out, _ = run(capsys, "cache", "prune", "--keep", "1G")
    assert out.startswith("0 entries removed")
    _, out, _ = run(capsys, "cache", "prune", "--keep", "0")
    assert out.startswith(f"{count} entries removed")
    _, out, _ = run(capsys, "cache", "clear")
    assert out.startswith("0 entries removed") and "entries: 0" in out


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("100", 100), ("2K", 2048), ("1.5M", 1572864), ("1GiB", 1 << 30), ("3gb", 3 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert cli.size_of(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1X", "one"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(["cache", "prune", f"--keep={text}"])


def test_size_text() -> None:
    assert [cli.size_text(n) for n in (5, 1536, 5 << 20, 3 << 40)] == ["5 B", "1.5 KiB", "5.0 MiB", "3072.0 GiB"]


def test_info_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    assert code == 0
    for word in ("torch", "cpu", "cuda", "cache"):
        assert word in out
    code, out, _ = run(capsys, "info", "--json")
    assert code == 0 and json.loads(out)


def test_bench_reports_each_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out_json, out_png = tmp_path / "out.json", tmp_path / "out.png"
    options = ("--level", "quick", "--budget", "0.05", "--dtypes", "float32")
    files = ("--json", str(out_json), "--plot", str(out_png))
    code, out, _ = run(capsys, "bench", "--ops", "mul.Tensor,mm", *options, *files)
    assert code == 0
    found = json.loads(out_json.read_text())
    assert [(r["op"], r["dtype"]) for r in found["results"]] == [("mul.Tensor", "float32"), ("mm", "float32")]
    for result in found["results"]:
        assert result["ratio"] > 0 and result["gems_us"] > 0
        assert result["path"] == "kernel" or (result["op"] == "mm" and found["device"] == "cuda")  # large: ATen's
    assert found["results"][1]["tflops"] > 0 and found["results"][0]["of_limit"] > 0
    assert "geometric mean" in out and found["chip"] in out
    assert out_png.read_bytes().startswith(b"\x89PNG")
    other = "cpu" if found["device"] == "cuda" else "cuda"
    code, _, err = run(capsys, "bench", "--ops", "mm", "--device", other)
    assert code == 2 and "GEMS_VENDOR" in err


def test_bench_has_a_case_for_every_row() -> None:
    import torch
    from flag_gems.bench import cases

    refused = {}
    for row in _C.rows():
        dtype = getattr(torch, warm.dtypes_of(row, None)[0])
        case = cases.Maker(row, dtype, 1 << 10, 64, "cpu").make()
        try:
            cases.overload_of(case.op)(*case.args, **case.kwargs)
        except NotImplementedError:
            continue  # ATen has no CPU kernel of it
        except (RuntimeError, IndexError, TypeError) as error:
            refused[case.op] = str(error).splitlines()[0]
    assert not refused


def test_module_and_help_run_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "flag_gems", "ops"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "matmul" in done.stdout
    done = subprocess.run([sys.executable, "-m", "flag_gems"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "warmup" in done.stderr
