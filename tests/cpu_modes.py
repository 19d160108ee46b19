"""Tests in a process of their own, whose cpu backend has another mode and order of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# The modes in which every thread of a block is there; in make test the one that looks for races.
EVERY_THREAD = pytest.mark.parametrize(
    ("mode", "order"), [("checked", "forward"), pytest.param("faithful", "random:7", marks=pytest.mark.slow)]
)


def run_in_mode(mode: str, order: str, *command: str, seconds: int = 900) -> None:
    """Runs Python with a command (a file, or -c and a text) that finds these tests; fails with what it printed."""
    env = dict(os.environ, GEMS_CPU_MODE=mode, GEMS_CPU_ORDER=order, GEMS_VENDOR="cpu")
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def run_program(
    mode: str, text: str, arguments: list[str], tmp_path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a mode, with a cache of kernels of its own; a call that no kernel takes is an error there."""
    env = {
        **os.environ,
        "GEMS_CPU_MODE": mode,
        "GEMS_VENDOR": "cpu",
        "GEMS_STRICT": "1",
        "GEMS_LOG": "info",
        "FLAGGEMS_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **environment,
    }
    command = [sys.executable, "-c", text, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


def run_groups(
    mode: str, module: str, groups: list[str], tmp_path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`run_program` of groups of a test module, its GROUPS, where the cpu backend plays an sm_90a device."""
    program = f"import sys; from {module} import GROUPS\nfor g in sys.argv[1:]: GROUPS[g]()\nprint('all right')"
    device = {"GEMS_CPU_DEVICE": "sm_90a", "OMP_NUM_THREADS": "2"}  # so that a block has several tiles
    return run_program(mode, program, groups, tmp_path, **device, **environment)
