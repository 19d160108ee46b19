"""Every row in the cpu modes that have all threads of a block: no race, no access out of bounds, ATen's results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("checked", "forward"),
        pytest.param("checked", "random:3", marks=pytest.mark.slow),
        pytest.param("faithful", "reverse", marks=pytest.mark.slow),
    ],
)
def test_every_row(mode: str, order: str) -> None:
    env = dict(os.environ, GEMS_CPU_MODE=mode, GEMS_CPU_ORDER=order, GEMS_VENDOR="cpu")
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    command = [sys.executable, str(HERE / "every_row.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
