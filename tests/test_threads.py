"""Nothing crashes while scopes are entered and left and other threads call the operators."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import flag_gems
import pytest
import torch
from flag_gems import _C

DEVICE = flag_gems.device


def in_threads(count: int, work: object, seconds: float) -> list[str]:
    """Runs a function over and over in several threads; the errors they met."""
    stop, errors = threading.Event(), []

    def loop() -> None:
        while not stop.is_set():
            try:
                work()  # type: ignore[operator]
            except Exception as error:
                errors.append(repr(error))
                return

    threads = [threading.Thread(target=loop) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return errors


def test_scopes_while_other_threads_call() -> None:
    x = torch.randn(8, 8, device=DEVICE)
    expected = torch.mm(x, x), torch.add(x, x, alpha=2), torch.cat([x, x])

    def call() -> None:
        got = torch.mm(x, x), torch.add(x, x, alpha=2), torch.cat([x, x])
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def scope() -> None:
        with flag_gems.use_gems():
            call()
        with flag_gems.use_gems(exclude=["mm"]):
            call()

    flag_gems.disable()
    done = threading.Event()

    def both() -> None:
        call() if done.is_set() else scope()

    assert not in_threads(3, both, 2.0)
    assert not any(_C.gates())


def test_gradients_in_threads() -> None:
    w = torch.randn(8, 8, device=DEVICE)
    x = torch.randn(8, 8, requires_grad=True, device=DEVICE)
    (expected,) = torch.autograd.grad(torch.mm(x, w).sum(), x)

    def step() -> None:
        own = x.detach().requires_grad_()
        flag_gems.ops.mm(own, w).sum().backward()
        torch.testing.assert_close(own.grad, expected)

    with flag_gems.use_gems():
        assert not in_threads(3, step, 1.5)


def test_forcing_a_gate_is_a_matter_of_one_thread() -> None:
    """An explicit function that autograd records runs our kernel in its own thread only."""
    flag_gems.disable()
    x = torch.randn(8, 8, requires_grad=True, device=DEVICE)
    y = torch.randn(8, 8, device=DEVICE)
    stop = threading.Event()

    def explicit() -> None:
        while not stop.is_set():
            flag_gems.ops.mm(x, x)

    flag_gems.ops.mm(x, x)
    thread = threading.Thread(target=explicit)
    flag_gems.reset_stats()
    thread.start()
    for _ in range(200):
        torch.bmm(y[None], y[None])
        torch.mm(y, y)
    stop.set()
    thread.join()
    ran = flag_gems.stats()["mm"]["kernel"]
    flag_gems.reset_stats()
    torch.mm(y, y)
    assert flag_gems.stats() == {} and ran > 0


@pytest.mark.parametrize("route", ["mm", "add"])
def test_registrations_come_and_go_in_a_process_of_its_own(route: str) -> None:
    """With no other thread registrations are taken back; with one they stay: a thousand changes, no crash."""
    code = f"""
import threading, torch, flag_gems
x = torch.randn(4, 4, device=flag_gems.device)
call = lambda: torch.{route}(x, x)
for _ in range(50):
    with flag_gems.use_gems():
        call()
stop = threading.Event()
def loop():
    while not stop.is_set():
        call()
threads = [threading.Thread(target=loop) for _ in range(2)]
[t.start() for t in threads]
for _ in range(500):
    with flag_gems.use_gems():
        call()
stop.set()
[t.join() for t in threads]
for _ in range(50):
    with flag_gems.use_gems(include=["{route}"]):
        call()
"""
    command = [sys.executable, "-X", "faulthandler", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_counters_lose_nothing() -> None:
    x = torch.randn(4, 4, device=DEVICE)
    with flag_gems.use_gems(include=["mm"]):
        torch.mm(x, x)
        flag_gems.reset_stats()
        threads = [threading.Thread(target=lambda: [torch.mm(x, x) for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert flag_gems.stats()["mm"] == {"kernel": 2000, "fallback": 0}
