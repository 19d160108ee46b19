"""Timing that can be trusted on a busy machine: ratios within one run, in interleaved rounds, by medians.

Each round times every candidate once, in chunks of calls long enough for the clock; the ratio of two candidates is the
median of their ratios round by round, so that whatever slows the machine for a while slows both. On a GPU a chunk lies
between two CUDA events. With one thread on a CPU the clock is the processor time that the process has had, which does
not count other processes in between; they still take memory's bandwidth, so that there the fastest rounds are compared.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Candidate:
    """A call, and the scope in which it is made (entered outside the time)."""

    call: Call
    scope: Callable[[], AbstractContextManager] = contextlib.nullcontext


@dataclass(frozen=True)
class Timing:
    """Seconds of one call of each candidate, a list entry a round."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one call."""
        return statistics.median(self.rounds[name])

    def fastest(self, name: str) -> float:
        """Seconds of one call in the fastest round."""
        return min(self.rounds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as fast `fast` is as `slow`: median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.rounds[slow], self.rounds[fast], strict=True))


def chunk_seconds(call: Call, count: int, device: str) -> float:
    """Seconds of `count` calls."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(count):
        call()
    return clock() - begin


def compare(
    candidates: Mapping[str, Candidate], device: str = "cpu", rounds: int = 15, chunk: float = 4e-3, budget: float = 3.0
) -> Timing:
    """Times candidates against each other.

    Parameters
    ----------
    candidates : by name
    device : "cpu" or "cuda"
    rounds : how often each is timed; at least 3 are made when the budget ends earlier
    chunk : seconds that one timing of one candidate should last
    budget : seconds for all rounds together
    """
    counts = {}
    for name, candidate in candidates.items():
        with candidate.scope():
            chunk_seconds(candidate.call, 3, device)  # compiles, fills caches
            one = min(chunk_seconds(candidate.call, 1, device) for _ in range(3))
        counts[name] = max(1, min(10_000, int(chunk / max(one, 1e-7))))
    found: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for turn in range(rounds):
        names = list(candidates)
        for name in names if turn % 2 == 0 else reversed(names):  # neither always follows the same one
            with candidates[name].scope():
                chunk_seconds(candidates[name].call, min(counts[name], 12), device)  # its data are in the caches then
                seconds = chunk_seconds(candidates[name].call, counts[name], device)
            found[name].append(seconds / counts[name])
        if turn >= 2 and time.perf_counter() - begin > budget:
            break
    return Timing(found)


def keep_pages(count: int) -> None:
    """The process keeps what it frees, where the C library is glibc, and has so many touched bytes free: else it is
    chance which candidate's results come in fresh pages, which cost as much as a kernel that moves as many bytes."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in ((-1, 1 << 30), (-3, 32 << 20)):  # when to trim the heap, from where on to map
            mallopt(parameter, size)
    pieces = [torch.ones(max(1, count // 16), dtype=torch.uint8) for _ in range(16)]
    del pieces


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with this many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chip(device: str) -> str:
    """The device's name, for a table's head."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values) if values else float("nan")
