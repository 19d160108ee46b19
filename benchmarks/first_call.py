"""What the first call costs: an elementwise operator with a cold and with a warm disk cache, each in a new process, and
what `import flag_gems` adds to `import torch`.

    python benchmarks/first_call.py [--repeat N] [--json OUT]

The exit code is 1 when a figure is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = {"first call, cold cache": 300.0, "first call, warm cache": 5.0, "import flag_gems after torch": 100.0}

# Each prints milliseconds. ATen's own first call goes before ours, so that torch's start-up is not counted as ours.
IMPORT = """
import time, torch
start = time.perf_counter()
import flag_gems
print((time.perf_counter() - start) * 1e3)
"""
FIRST = """
import time, torch, flag_gems
x = torch.randn(1000)
torch.sigmoid(x)
flag_gems.enable()
times = []
for _ in range(3):
    start = time.perf_counter()
    torch.sigmoid(x)
    times.append((time.perf_counter() - start) * 1e3)
assert flag_gems.stats()["sigmoid"]["kernel"] == 3, flag_gems.stats()
print(times[0], min(times[1:]))
"""


def run(code: str, cache: str) -> list[float]:
    env = dict(os.environ, FLAGGEMS_CACHE_DIR=cache)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeat", type=int, default=5, help="processes for each figure (default 5)")
    arguments.add_argument("--json", metavar="OUT", help="write the figures to a file")
    args = arguments.parse_args()
    found: dict[str, list[float]] = {}
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as cache:
            found.setdefault("import flag_gems after torch", []).extend(run(IMPORT, cache))
            cold, second = run(FIRST, cache)
            warm, _ = run(FIRST, cache)
        found.setdefault("first call, cold cache", []).append(cold)
        found.setdefault("first call, warm cache", []).append(warm)
        found.setdefault("second call", []).append(second)
    print(f"{'milliseconds':32} {'median':>8} {'least':>8} {'most':>8} {'limit':>8}")
    exceeded = False
    for name, values in found.items():
        limit = LIMITS.get(name)
        median = statistics.median(values)
        exceeded |= limit is not None and median > limit
        print(f"{name:32} {median:8.3f} {min(values):8.3f} {max(values):8.3f} {limit or '':>8}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
