"""The benchmark over sizes: which are made, what is left out, and the table of what is slower than ATen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flag_gems import cli
from flag_gems.bench import operators


def result(op: str, elements: int, ratio: float, path: str = "kernel", dtype: str = "float32") -> operators.Result:
    return {"op": op, "dtype": dtype, "elements": elements, "ratio": ratio, "path": path}


def test_sizes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    options = ["--sizes", "1K,4K", "--dtypes", "float32", "--budget", "0", "--slower", "1000", "--json", str(out)]
    assert cli.main(["bench", "--ops", "mul.Tensor,neg", *options]) == 0
    found = json.loads(out.read_text())
    assert [(r["op"], r["elements"], r["shape"]) for r in found["results"]] == [
        (op, n, str(n)) for op in ("mul.Tensor", "neg") for n in (1024, 4096)
    ]
    text = capsys.readouterr().out
    assert "2 of 2  2 of 2" in text and text.count("<") == 4


def test_what_is_slower_by_size() -> None:
    found = [
        result("add", 1024, 0.5),
        result("add", 1 << 20, 1.5),
        result("mul", 1024, 0.98),
        result("mul", 1 << 20, 2.0),
        result("erf", 1024, 2.0),
        result("erf", 1 << 20, 0.1, "fallback"),
        result("neg", 1 << 20, 0.25, dtype="bfloat16"),
    ]
    lines = operators.slower(found, 0.97).splitlines()
    assert lines[0].split() == ["slower", "than", "ATen", "dtype", "1K", "1M"]
    assert [line.split() for line in lines[1:3]] == [["add", "float32", "0.50<", "1.50"], ["neg", "bfloat16", "0.25<"]]
    assert lines[3].endswith("1 of 3  1 of 3")
    assert lines[4].split()[-2:] == ["0.99", "0.91"]
    assert len(lines) == 5
    assert "erf" not in "\n".join(lines)
    # A row that is slower somewhere is shown with what was left to ATen.
    again = operators.slower([*found, result("erf", 1 << 30, 0.9)], 0.97)
    assert any(line.split() == ["erf", "float32", "2.00", "-", "0.90<"] for line in again.splitlines())


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(operators, "free_bytes", lambda device: 100_000)
    options = ["--sizes", "1K,1G", "--dtypes", "float32", "--budget", "0"]
    assert cli.main(["bench", "--ops", "mul.Tensor", *options]) == 0
    out, error = capsys.readouterr()
    assert "left out" in error and "1073741824" in error and "1024" in out and "1G" not in out


def test_memory_is_given_back_between_large_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(operators, "LARGE", 4096)
    monkeypatch.setattr(operators, "let_go", given.append)
    assert cli.main(["bench", "--ops", "neg", "--sizes", "1K,4K,8K", "--dtypes", "float32", "--budget", "0"]) == 0
    assert len(given) == 2


def test_estimates_of_memory_are_enough() -> None:
    import torch
    from flag_gems import _C

    by_name = {row["schema"].split("(")[0]: row for row in _C.rows()}
    assert operators.bytes_wanted(by_name["add.Tensor"], torch.float32, 1000) >= 4000 * 4
    assert operators.free_bytes("cpu") > 1 << 20
    assert [operators.size_text(n) for n in (1000, 1024, 1 << 20, 1 << 30, 3 << 19)] == [
        "1000",
        "1K",
        "1M",
        "1G",
        "1536K",
    ]
