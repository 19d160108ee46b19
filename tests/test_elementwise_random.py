"""Random calls of elementwise rows beside ATen and float64, in the fast mode and, on small shapes, in the checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import flag_gems
import pytest
from hypothesis import HealthCheck, given, settings

from random_elementwise import DTYPES, QUICK, QUICK_DTYPES, Call, calls, check, entries

pytestmark = pytest.mark.usefixtures("registered")

HERE = Path(__file__).resolve().parent
SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=150, **SETTINGS)
@given(calls(entries(QUICK), QUICK_DTYPES))
def test_few_rows(call: Call) -> None:
    check(call)


def test_they_run_in_our_kernels() -> None:
    """Nothing here passes because everything declines."""
    counts = {}

    @settings(max_examples=40, **SETTINGS)
    @given(calls(entries(QUICK), QUICK_DTYPES))
    def some(call: Call) -> None:
        flag_gems.reset_stats()
        check(call)
        count = flag_gems.stats().get(call.name, {"kernel": 0})
        counts[str(call)] = bool(count["kernel"])

    some()
    assert sum(counts.values()) > len(counts) // 2, counts


@pytest.mark.slow
@settings(max_examples=4000, **SETTINGS)
@given(calls(entries(), DTYPES))
def test_all_rows(call: Call) -> None:
    check(call)


@pytest.mark.parametrize("count", [6, pytest.param(600, marks=pytest.mark.slow)])
def test_checked_mode(count: int) -> None:
    env = dict(os.environ, GEMS_CPU_MODE="checked", GEMS_CPU_ORDER="random:5", GEMS_VENDOR="cpu")
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    command = [sys.executable, str(HERE / "random_elementwise.py"), str(count)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-5000:]}"
