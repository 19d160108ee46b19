"""A call whose program is loaded: nothing is allocated but the output, no lock is taken, no text is made, and nothing
is launched but the kernel. Counted in processes of their own, where tests/count_calls.c stands before the C library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import native

START = """
import ctypes, json, os, torch, flag_gems
from flag_gems import _C
torch.set_num_threads(1)
library = ctypes.CDLL(os.environ["COUNT_LIBRARY"])
file = os.path.realpath(_C.__file__)
places = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.rstrip().endswith(file)]
low, high = min(int(p[0], 16) for p in places), max(int(p[1], 16) for p in places)
read = (ctypes.c_uint64 * 4)()

def counted(call, times=200):
    "Of each call: what the extension allocated, locked and printed, and what all code allocated."
    call()
    library.count_range(ctypes.c_size_t(low), ctypes.c_size_t(high))
    for _ in range(times):
        call()
    library.count_read(read)
    return [n / times for n in read]

x, y, out = torch.randn(8, 8), torch.randn(8, 8), torch.empty(8, 8)
mask = x > 0
ops = flag_gems.ops
calls = {
    "mm": (lambda: ops.mm(x, y), lambda: torch.mm(x, y)),
    "add": (lambda: ops.add(x, y), lambda: torch.add(x, y)),
    "mul_out": (lambda: ops.mul_out(x, y, out=out), lambda: torch.mul(x, y, out=out)),
    "sum": (lambda: ops.sum(x, (1,)), lambda: torch.sum(x, (1,))),
    "_softmax": (lambda: ops._softmax(x, -1, False), lambda: torch._softmax(x, -1, False)),
    "where": (lambda: ops.where(mask, x, y), lambda: torch.where(mask, x, y)),
}
"""


@pytest.fixture(scope="module")
def library() -> Path:
    return native.build("libcount_calls.so", (native.ROOT / "tests" / "count_calls.c",), ("-ldl", "-fno-builtin"))


def run(code: str, library: Path) -> dict:
    env = dict(os.environ, GEMS_BACKEND="null", GEMS_VENDOR="cpu")
    env |= {"COUNT_LIBRARY": str(library), "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", START + code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hit_allocates_nothing_but_the_output(library: Path) -> None:
    if os.environ.get("GEMS_SANITIZED"):
        return  # the sanitizers bring an allocator of their own, which has to come first
    code = """
found, empty = {}, counted(lambda: torch.empty(8, 8))[3]
for name, (direct, torchs) in calls.items():
    found[name] = {"direct": counted(direct)}
    with flag_gems.use_gems():
        found[name]["enabled"] = counted(torchs)
# what the counter sees at all: a cold call compiles
library.count_range(ctypes.c_size_t(low), ctypes.c_size_t(high))
ops.exp(x.double())
library.count_read(read)
found["cold"] = list(read)
found["empty"] = empty
print(json.dumps(found))
"""
    found = run(code, library)
    cold, empty = found.pop("cold"), found.pop("empty")
    assert cold[0] > 0 and cold[1] > 0 and cold[2] > 0, f"the counter sees nothing: {cold}"
    for name, each in found.items():
        for way in ("direct", "enabled"):
            assert each[way][:3] == [0, 0, 0], f"{name} {way}: allocations, locks, texts of a hit: {each[way]}"
        # all that anybody allocates meanwhile is what torch needs for a new tensor, and its handle
        assert each["direct"][3] <= (0 if name.endswith("_out") else empty + 1), f"{name}: {each} for {empty}"


def test_a_hit_launches_once_also_in_place(library: Path) -> None:
    """No kernel is tried out on a user's tensor: also a cold call launches what it computes and nothing more."""
    if os.environ.get("GEMS_SANITIZED"):
        return
    code = """
def launched(call):
    before = (_C.last_launch() or {"launches": 0})["launches"]
    call()
    return _C.last_launch()["launches"] - before

z = torch.ones(100, 100)
found = {}
for name, call in {
    "add_": lambda: ops.add_(z, 1), "mul_": lambda: ops.mul_(z, z), "fill_": lambda: ops.fill_(z, 2),
    "mm": lambda: ops.mm(z, z), "_softmax": lambda: ops._softmax(z, -1, False),
}.items():
    found[name] = [launched(call), launched(call)]
print(json.dumps(found))
"""
    found = run(code, library)
    assert all(each == [1, 1] for each in found.values()), found
