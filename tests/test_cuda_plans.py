"""Plans on a GPU, over the fake driver: what a miss and a hit ask of it, capture, devices, refusals."""

from __future__ import annotations

import ctypes as C
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import native
from native import DECLINE, ERROR, OK, FakeDriver

SOURCES = (
    *native.BACKEND_SOURCES,
    *(f"jit/{name}.c" for name in ("plan", "sha256", "cache", "cache_place", "cache_care")),
    "base/text.c",
    native.FAKES / "plans.c",
)


class Stats(C.Structure):
    """gems_jit_stats of csrc/jit/jit.h."""

    _fields_ = [
        ("compiled", C.c_uint64),
        ("disk_hits", C.c_uint64),
        ("loaded", C.c_uint64),
        ("failed", C.c_uint64),
        ("compile_ms", C.c_double),
    ]


class Plans:
    """csrc/jit with the cuda backend and one small program; each object is like a process of its own."""

    def __init__(self) -> None:
        built = native.build("libgems_plans.so", SOURCES, ("-ldl", "-lpthread"))
        self.c = native.Backend(native.copy_of(built), "cuda").library
        self.c.gems_jit_statistics.restype = Stats
        self.c.gems_reason.restype = C.c_char_p
        self.c.plans_call.argtypes = [C.c_int, C.c_void_p, C.c_int, C.c_int]
        self.path = native.cuda().search_path  # the library keeps the pointer
        C.c_char_p.in_dll(self.c, "gems_cuda_search_path").value = self.path
        self.c.plans_open()

    def call(self, device: int, stream: int | None, value: int = 1, broken: bool = False) -> int:
        """Finds the plan of a key and launches it; the status."""
        return self.c.plans_call(device, stream, value, broken)

    def reason(self) -> str:
        return self.c.gems_reason().decode()

    def stats(self) -> tuple[int, int, int, int]:
        """Compiled, found on disk, loaded, failed."""
        s = self.c.gems_jit_statistics()
        return s.compiled, s.disk_hits, s.loaded, s.failed


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeDriver]:
    driver = FakeDriver()
    monkeypatch.setenv("FLAGGEMS_CUDA_LIBRARY", str(driver.path))
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path / "cache"))
    yield driver
    assert driver.depth() == 0


def test_a_hit_only_launches(fake: FakeDriver) -> None:
    plans, stream = Plans(), fake.stream(0)
    assert plans.call(0, stream) == OK
    assert plans.stats() == (1, 0, 1, 0)
    fake.push(0)
    fake.clear()
    for _ in range(3):
        assert plans.call(0, stream) == OK
    assert fake.calls() == ["cuCtxGetCurrent", "cuLaunchKernel"] * 3
    fake.pop()


def test_cold_plan_declines_while_capturing(fake: FakeDriver) -> None:
    plans, stream = Plans(), fake.stream(0)
    assert plans.call(0, stream, 1) == OK
    fake.push(0)
    fake.capture(stream)
    fake.clear()
    assert plans.call(0, stream, 2) == DECLINE
    assert "being captured" in plans.reason()
    assert fake.calls() == ["cuCtxGetCurrent", "cuStreamIsCapturing"]
    assert plans.call(0, stream, 1) == OK, "a warm one is captured"
    fake.capture(stream, 0)
    assert plans.call(0, stream, 2) == OK
    assert plans.stats() == (2, 0, 2, 0)
    fake.pop()


def test_capture_of_the_first_call_of_all(fake: FakeDriver) -> None:
    plans, stream = Plans(), fake.stream(1)
    fake.capture(stream)
    assert plans.call(1, stream) == DECLINE
    assert not {"cuModuleLoadData", "cuModuleUnload", "cuLaunchKernel"} & set(fake.calls())
    fake.capture(stream, 0)


def test_two_devices(fake: FakeDriver) -> None:
    """Each device has its own module, for its own arch, launched in its own context."""
    plans = Plans()
    for _ in range(2):
        assert plans.call(0, fake.stream(0)) == OK
        assert plans.call(1, fake.stream(1)) == OK
    assert plans.stats() == (2, 0, 2, 0), "sm_90a and sm_80"
    launches = [line.split(" grid")[0] for line in fake.log() if line.startswith("cuLaunchKernel")]
    assert launches == ["cuLaunchKernel current=0 stream=0.0", "cuLaunchKernel current=1 stream=1.0"] * 2
    assert plans.call(0, fake.stream(1)) == ERROR, "a stream of another device is the driver's error"
    assert plans.call(2, None) == DECLINE


def test_refused_module_declines_once(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """PTX that the driver is too old for: one line in the log with the reason, ATen from then on."""
    monkeypatch.setenv("FAKE_CUDA_ARCH", "190")
    monkeypatch.setenv("FAKE_CUDA_VERSION", "11010")
    plans = Plans()
    assert plans.call(0, fake.stream(0)) == DECLINE
    assert "could not be compiled or loaded" in plans.reason()
    told = capfd.readouterr().err
    assert told.count("update the driver") == 1 and "add.fake" in told
    fake.clear()
    assert plans.call(0, fake.stream(0)) == DECLINE
    assert fake.log() == [] and capfd.readouterr().err == ""
    assert plans.stats() == (1, 0, 0, 1)


def test_broken_program_declines_once(fake: FakeDriver, capfd: pytest.CaptureFixture[str]) -> None:
    plans = Plans()
    for _ in range(2):
        assert plans.call(0, fake.stream(0), broken=True) == DECLINE
    told = capfd.readouterr().err
    assert told.count("add.fake: NVRTC") == 1
    assert "one.cu(1): error" in told and ">     1 | extern" in told
    assert "cuModuleLoadData" not in fake.calls()


def test_warmed_programs_are_not_compiled(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Plans()
    assert first.c.plans_warm(b"sm_90a", 5) == 0
    assert fake.log() == [], "warming asks for no driver"
    assert first.c.plans_warm(b"sm_90a", 5) == 1
    monkeypatch.setenv("FLAGGEMS_ASSERT_COMPILED", "1")
    second = Plans()
    assert second.call(0, fake.stream(0), 5) == OK
    assert second.stats() == (0, 1, 1, 0)
    assert second.call(0, fake.stream(0), 6) == ERROR
    assert second.call(1, fake.stream(1), 5) == ERROR, "device 1 is an sm_80"


def test_driver_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FLAGGEMS_CUDA_LIBRARY", "/nowhere/libcuda.so.1")
    monkeypatch.setenv("FLAGGEMS_CACHE_DIR", str(tmp_path))
    plans = Plans()
    for _ in range(2):
        assert plans.call(0, None) == DECLINE
    told = capfd.readouterr().err
    assert told.count("/nowhere/libcuda.so.1") == 1 and "ATen's kernels run" in told
    assert plans.c.plans_warm(b"sm_120", 1) == 0, "compiling needs no driver"


def test_threads_on_a_cold_key(fake: FakeDriver) -> None:
    plans = Plans()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: plans.call(i % 2, fake.stream(i % 2, i % 4), i % 3), range(48)))
    assert results == [OK] * 48
    assert plans.stats()[2:] == (6, 0), "three keys on two devices, each loaded once"
    assert fake.calls().count("cuModuleLoadData") == 6
    assert fake.calls().count("cuLaunchKernel") == 48
