"""Rows that begin and end anywhere: wide accesses between their edges, in every mode of the cpu backend and on GPUs."""

from __future__ import annotations

from pathlib import Path

import flag_gems
import pytest

import edge_rows
from cpu_modes import run_in_mode

DEVICE = flag_gems.device
CASES = str(Path(__file__).resolve().parent / "edge_rows.py")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("long", "double", "sums")]


@pytest.mark.parametrize("cases", ["short", "lines", *SLOW])
@pytest.mark.parametrize("device", ["", pytest.param("sm_90a", marks=pytest.mark.slow)])
def test_edges_checked(cases: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_CPU_DEVICE", device)
    monkeypatch.setenv("GEMS_STRICT", "1")
    run_in_mode("checked", "forward", CASES, cases)


@pytest.mark.parametrize("cases", ["short", "long", "double", "lines", "sums"])
def test_edges(cases: str) -> None:
    edge_rows.run(cases, DEVICE)
