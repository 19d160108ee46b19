"""The benchmark that draws curves: it measures here too, its figures come back from its text, and it draws them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "curves.py"


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curves", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["curves"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    module.MATMUL, module.TOKENS, module.ELEMENTS = (32, 64), (64, 128), (1024, 8192)
    return module


def test_measures_writes_and_draws(curves: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "figures.csv"
    assert curves.main(["--budget", "0", "--csv", str(table), "--out", str(tmp_path)]) == 0
    points = curves.read(table)
    assert len(table.read_text().splitlines()) == len(points) + 1
    assert {p.subject for p in points} == set(curves.SUBJECTS)
    assert all(p.value > 0 and p.chip and p.torch for p in points)
    assert {p.who for p in points if p.subject == "rows"} == {"flag_gems", "ATen", "torch.clone"}
    assert {"flag_gems", "torch flash"} <= {p.who for p in points if p.subject == "attention"}
    assert {p.path for p in points if p.who == "flag_gems"} == {"kernel"}
    sizes = {p.size for p in points if p.subject == "rows" and p.case == "softmax float32"}
    assert sizes == {1024, 8192}
    pictures = sorted(path.suffix for path in tmp_path.iterdir() if "curves" in path.name)
    assert pictures == [".png", ".png", ".png", ".svg", ".svg", ".svg"]


def test_draws_what_was_measured_elsewhere(curves: ModuleType, tmp_path: Path) -> None:
    noise = "other lines, with, commas\nwarning: a,b,c,d,e,f,g,h,i\n"
    head = "chip,torch,subject,case,size,who,value,unit,path\n"
    lines = "".join(
        f"NVIDIA H200,2.11.0,matmul,bfloat16 nn,{n},{who},{n / 10},TFLOP/s,{path}\n"
        for n in (1024, 4096)
        for who, path in (("flag_gems", "kernel" if n > 2000 else "fallback"), ("ATen", ""))
    )
    (tmp_path / "a.csv").write_text(noise + head + lines + noise)
    points = curves.read(tmp_path / "a.csv")
    assert [p.value for p in points] == [102.4, 102.4, 409.6, 409.6]
    assert curves.main(["--from-csv", str(tmp_path / "a.csv"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "nvidia_h200_curves_matmul.png").stat().st_size > 5000
    figure = curves.picture(points, "matmul")
    (axis,) = figure.axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[102.4, 409.6]] * 2
    assert curves.main(["--from-csv", str(tmp_path / "a.csv"), "--subjects", "rows"]) == 1
