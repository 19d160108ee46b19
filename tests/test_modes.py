"""Every row in the cpu modes that have all threads of a block: no race, no access out of bounds, ATen's results."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_modes import run_in_mode

HERE = Path(__file__).resolve().parent
PARTS = 8  # tests run side by side


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("checked", "forward"),
        pytest.param("checked", "random:3", marks=pytest.mark.slow),
        pytest.param("faithful", "reverse", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_row(mode: str, order: str, part: int) -> None:
    run_in_mode(mode, order, str(HERE / "every_row.py"), str(part), str(PARTS))
