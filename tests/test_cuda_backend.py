"""The cuda backend over a fake driver: streams, devices, capture, failures. Nothing here needs a GPU."""

from __future__ import annotations

import ctypes as C
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import native
from native import Backend, Code, FakeDriver, GemsError

TEXT = """
extern "C" __global__ void one(float *p, int n) { if (threadIdx.x < n) p[threadIdx.x] += 1.0f; }
extern "C" __global__ void two(float *p, int n) { if (threadIdx.x < n) p[threadIdx.x] *= 2.0f; }
"""
ENTRIES = ("one", "two")
OPTIN, STATIC = 227 * 1024, 1024  # of the fake


@pytest.fixture(scope="module")
def code() -> Code:
    return native.cuda().compile(TEXT, ENTRIES, "sm_80")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    monkeypatch.setenv("FLAGGEMS_CUDA_LIBRARY", str(driver.path))
    return driver


def fresh() -> Backend:
    """A cuda backend that has opened nothing yet."""
    backend = Backend(native.copy_of(native.backend_library()), "cuda")
    native.set_search_path(backend)
    return backend


@pytest.fixture
def backend(fake: FakeDriver) -> Backend:
    opened = fresh()
    opened.open()
    return opened


@pytest.fixture
def current(fake: FakeDriver, backend: Backend) -> Iterator[None]:
    """Device 0 is the thread's current one, as under torch."""
    assert backend.device_count() == 2
    fake.push(0)
    fake.clear()
    yield
    fake.pop()
    assert fake.depth() == 0


def test_devices(backend: Backend, fake: FakeDriver) -> None:
    assert backend.device_count() == 2
    info = backend.device_info(0)
    assert (info.arch, info.processors, info.warp, info.max_threads) == (90, 132, 32, 1024)
    assert (info.vector_bytes, info.shared_bytes, info.l2_bytes) == (16, OPTIN, 50 << 20)
    assert not info.fast and not info.wants_extents
    assert backend.device_info(1).arch == 80
    assert backend.identity(None, 0).arch == b"sm_90a"
    assert backend.identity(None, 1).arch == b"sm_80"
    with pytest.raises(GemsError, match=r"reading the device's properties.*INVALID_DEVICE"):
        backend.device_info(2)
    assert "Fake GPU 1, sm_80" in backend.describe()


def test_opening_asks_the_driver_nothing(backend: Backend, fake: FakeDriver) -> None:
    """open is for compiling too: no process is tied to a GPU by it."""
    backend.compile(TEXT, ENTRIES, "sm_90a")
    assert fake.log() == []


def test_launch_on_the_callers_stream(backend: Backend, fake: FakeDriver, code: Code, current: None) -> None:
    module = backend.load(code, 0)
    fake.clear()
    backend.launch(module, 1, stream=fake.stream(0, 3), grid=(7, 2, 1), block=(128, 1, 1), shared=512)
    assert fake.log() == [
        "cuCtxGetCurrent current=0",
        "cuLaunchKernel current=0 stream=0.3 grid=7,2,1 block=128,1,1 shared=512 cluster=1",
    ]
    fake.clear()
    backend.launch(module, 0, stream=None)
    assert fake.calls() == ["cuCtxGetCurrent", "cuLaunchKernel"]
    assert "stream=-1.-1" in fake.log()[1]


def test_other_device_is_pushed_and_popped(
    backend: Backend, fake: FakeDriver, code: Code, current: None
) -> None:
    module = backend.load(code, 1)
    assert fake.depth() == 1
    fake.clear()
    backend.launch(module, 0, device=1, stream=fake.stream(1, 0))
    assert [line.split(" grid")[0] for line in fake.log()] == [
        "cuCtxGetCurrent current=0",
        "cuCtxPushCurrent device=1",
        "cuLaunchKernel current=1 stream=1.0",
        "cuCtxPopCurrent device=1",
    ]
    assert fake.depth() == 1


def test_thread_without_a_context(backend: Backend, fake: FakeDriver, code: Code) -> None:
    module = backend.load(code, 0)
    backend.launch(module, 0, stream=fake.stream(0, 0))
    backend.unload(module)
    assert fake.depth() == 0
    assert fake.calls().count("cuDevicePrimaryCtxRetain") == 1


def test_a_module_belongs_to_its_device(backend: Backend, fake: FakeDriver, code: Code) -> None:
    module = backend.load(code, 0)
    with pytest.raises(GemsError, match="kernel 0 of device 1 is not in this module"):
        backend.launch(module, 0, device=1)
    with pytest.raises(GemsError, match="kernel 2 of device 0 is not in this module"):
        backend.launch(module, 2)
    with pytest.raises(GemsError, match="no CUDA device 5; the driver has 2"):
        backend.load(code, 5)
    assert "cuLaunchKernel" not in fake.calls()


def test_shared_memory_beyond_the_default(
    backend: Backend, fake: FakeDriver, code: Code, current: None
) -> None:
    module = backend.load(code, 0)
    fake.clear()
    backend.launch(module, 0, shared=47 * 1024)
    assert "cuFuncSetAttribute" not in fake.calls()
    backend.launch(module, 0, shared=100 * 1024)
    backend.launch(module, 0, shared=OPTIN - STATIC)
    sets = [line for line in fake.log() if line.startswith("cuFuncSetAttribute")]
    assert sets == [f"cuFuncSetAttribute which=8 value={OPTIN - STATIC}"]
    backend.launch(module, 1, shared=100 * 1024)
    assert fake.calls().count("cuFuncSetAttribute") == 2, "the other kernel has its own limit"
    fake.clear()
    with pytest.raises(GemsError, match=f"wants {OPTIN} bytes of dynamic shared memory"):
        backend.launch(module, 0, shared=OPTIN)
    assert "cuLaunchKernel" not in fake.calls()


def test_clusters(backend: Backend, fake: FakeDriver, code: Code, current: None) -> None:
    module = backend.load(code, 0)
    fake.clear()
    backend.launch(module, 0, cluster=2, grid=(4, 1, 1), stream=fake.stream(0, 1), shared=64)
    assert fake.log()[-1] == (
        "cuLaunchKernelEx current=0 stream=0.1 grid=4,1,1 block=32,1,1 shared=64 cluster=2"
    )
    assert "cuFuncSetAttribute" not in fake.calls()
    backend.launch(module, 0, cluster=16, grid=(16, 1, 1))
    backend.launch(module, 0, cluster=16, grid=(16, 1, 1))
    assert fake.calls().count("cuFuncSetAttribute") == 1


def test_capturing(backend: Backend, fake: FakeDriver, current: None) -> None:
    stream, other = fake.stream(0, 0), fake.stream(1, 0)
    assert not backend.capturing(stream)
    assert not backend.capturing(None)
    fake.capture(stream)
    assert backend.capturing(stream)
    assert backend.capturing(None), "the legacy stream would join the capture"
    assert not backend.capturing(other, 1)
    fake.capture(stream, 2)
    assert backend.capturing(stream), "an invalidated capture is one still"
    fake.capture(stream, 0)
    assert not backend.capturing(stream)
    asked = {"cuCtxGetCurrent", "cuStreamIsCapturing", "cuCtxPushCurrent", "cuCtxPopCurrent"}
    assert set(fake.calls()) <= asked | {"cuDeviceGet", "cuDevicePrimaryCtxRetain"}
    fake.fail("cuStreamIsCapturing", 201)
    assert backend.capturing(stream), "a stream that cannot be asked is left alone"


def test_read_waits_for_the_stream(backend: Backend, fake: FakeDriver, current: None) -> None:
    stream, memory = fake.c.fake_stream(1, 2), C.create_string_buffer(b"12345678", 8)
    backend.read(stream, C.addressof(memory), 8, 1)  # opens the device
    fake.clear()
    assert backend.read(stream, C.addressof(memory), 8, 1) == b"12345678"
    assert [name for name in fake.calls() if "Ctx" not in name] == ["cuMemcpyDtoHAsync", "cuStreamSynchronize"]
    assert "cuMemcpyDtoHAsync current=1 stream=1 size=8" in fake.log()
    for symbol in ("cuMemcpyDtoHAsync", "cuStreamSynchronize"):
        depth = fake.c.fake_depth()
        fake.fail(symbol, 719)
        with pytest.raises(GemsError, match=f"{symbol} failed.*LAUNCH_FAILED"):
            backend.read(stream, C.addressof(memory), 8, 1)
        assert fake.c.fake_depth() == depth


def test_warm_launch_while_capturing(backend: Backend, fake: FakeDriver, code: Code, current: None) -> None:
    """Only the launch itself goes into the graph: nothing is loaded, synchronised or unloaded."""
    module = backend.load(code, 0)
    stream = fake.stream(0, 0)
    fake.capture(stream)
    fake.clear()
    backend.launch(module, 0, stream=stream)
    assert fake.calls() == ["cuCtxGetCurrent", "cuLaunchKernel"]
    fake.capture(stream, 0)


def test_load_while_another_stream_is_captured(
    backend: Backend, fake: FakeDriver, code: Code, current: None
) -> None:
    fake.capture(fake.stream(0, 2))
    module = backend.load(code, 0)
    modes = [line for line in fake.log() if "CaptureMode" in line]
    assert [mode.split()[1] for mode in modes] == ["mode=2", "mode=0"], "relaxed, then as it was"
    backend.launch(module, 0, stream=fake.stream(0, 0))
    fake.capture(fake.stream(0, 2), 0)


@pytest.mark.parametrize(
    "symbol",
    [
        "cuCtxGetCurrent",
        "cuCtxPushCurrent",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncGetAttribute",
        "cuDevicePrimaryCtxRetain",
    ],
)
def test_load_failures_leave_nothing(
    backend: Backend, fake: FakeDriver, code: Code, current: None, symbol: str
) -> None:
    fake.fail(symbol, 2)
    with pytest.raises(GemsError, match=rf"{symbol}.*CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"):
        backend.load(code, 1)
    assert fake.depth() == 1
    calls = fake.calls()
    made = "cuModuleGetFunction" in calls  # the module was loaded before the failure
    assert calls.count("cuModuleUnload") == made
    module = backend.load(code, 1)
    backend.launch(module, 0, device=1)
    assert fake.depth() == 1


@pytest.mark.parametrize(
    "error, name", [(719, "LAUNCH_FAILED"), (1, "INVALID_VALUE"), (999, "unknown error")]
)
def test_launch_failure(
    backend: Backend, fake: FakeDriver, code: Code, current: None, error: int, name: str
) -> None:
    module = backend.load(code, 1)
    fake.fail("cuLaunchKernel", error)
    with pytest.raises(GemsError, match=f"add.Tensor: cuLaunchKernel failed: .*{name}"):
        backend.launch(module, 0, device=1, name="add.Tensor")
    assert fake.depth() == 1
    backend.launch(module, 0, device=1)


def test_second_call_of_a_symbol_fails(backend: Backend, fake: FakeDriver, code: Code, current: None) -> None:
    module = backend.load(code, 0)
    fake.fail("cuLaunchKernel", 719, n=2)
    backend.launch(module, 0)
    with pytest.raises(GemsError):
        backend.launch(module, 0)
    backend.launch(module, 0)


def test_image_without_the_kernel(
    backend: Backend, fake: FakeDriver, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_VERSION", "99000")
    wrong = Code(code.data, code.report, code.arch, code.options, ("one", "three"))
    with pytest.raises(GemsError, match="three: cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND"):
        backend.load(wrong)
    assert fake.calls().count("cuModuleUnload") == 1
    empty = Code(b"", code.report, code.arch, code.options, ("one",))
    with pytest.raises(GemsError, match="some code"):
        backend.load(empty)
    junk = Code(b"junk", code.report, code.arch, code.options, ("one",))
    with pytest.raises(GemsError, match=r"loading the PTX of one.*INVALID_IMAGE") as failure:
        backend.load(junk)
    assert "update the driver" not in str(failure.value), "this driver is as new as the compiler"


def test_unload(backend: Backend, fake: FakeDriver, code: Code, current: None) -> None:
    module = backend.load(code, 1)
    fake.clear()
    backend.unload(module)
    assert fake.calls() == ["cuCtxGetCurrent", "cuCtxPushCurrent", "cuModuleUnload", "cuCtxPopCurrent"]
    backend.unload(None)


def test_unknown_arch_becomes_ptx(
    backend: Backend, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ARCH", "190")
    monkeypatch.setenv("FAKE_CUDA_VERSION", "99000")
    ptx = backend.compile(TEXT, ENTRIES, None, 0)
    assert ptx.arch.startswith("compute_") and ptx.data.endswith(b"\0") and b".entry one(" in ptx.data
    assert "ptxas" not in ptx.options
    backend.launch(backend.load(ptx), 0)
    bare = Code(ptx.data.rstrip(b"\0"), ptx.report, ptx.arch, ptx.options, ptx.entries)
    backend.load(bare)  # as a file may hold it: the driver must be given an end all the same
    loads = [line for line in fake.log() if line.startswith("cuModuleLoadData")]
    assert loads == [f"cuModuleLoadData current=0 ptx size={len(bare.data) + 1}"] * 2


def test_ptx_newer_than_the_driver(
    backend: Backend, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ARCH", "190")
    monkeypatch.setenv("FAKE_CUDA_VERSION", "11010")
    ptx = backend.compile(TEXT, ENTRIES, None, 0)
    with pytest.raises(GemsError) as failure:
        backend.load(ptx)
    text = str(failure.value)
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in text
    assert "the driver is made for CUDA 11.1: update the driver" in text
    assert fake.depth() == 0


def test_driver_is_missing(monkeypatch: pytest.MonkeyPatch, code: Code) -> None:
    """Without a driver the backend compiles for any arch, and says why it cannot launch."""
    monkeypatch.setenv("FLAGGEMS_CUDA_LIBRARY", "/nowhere/libcuda.so.1")
    backend = fresh()
    backend.open()
    assert backend.device_count() == 0
    assert backend.compile(TEXT, ENTRIES, "sm_120").arch == "sm_120"
    assert not backend.capturing(None)
    for call in (
        lambda: backend.load(code),
        lambda: backend.device_info(0),
        lambda: backend.identity(None),
        lambda: backend.launch(0),
    ):
        with pytest.raises(GemsError) as failure:
            call()
        text = str(failure.value)
        assert "no usable CUDA driver" in text
        assert "FLAGGEMS_CUDA_LIBRARY" in text and "/nowhere/libcuda.so.1" in text
    assert "no usable CUDA driver" in backend.describe()


@pytest.mark.parametrize(
    "symbol, code, name", [("cuInit", 100, "NO_DEVICE"), ("cuDeviceGetCount", 999, "unknown error")]
)
def test_driver_does_not_start(
    fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, symbol: str, code: int, name: str
) -> None:
    monkeypatch.setenv("FAKE_CUDA_FAIL", f"{symbol}:1:{code}")
    backend = fresh()
    backend.open()
    assert backend.device_count() == 0
    with pytest.raises(GemsError, match=f"libcuda.so.1: {symbol}: .*{name}"):
        backend.device_info(0)
    assert fake.calls().count("cuInit") == 1, "a driver that failed is not asked again"


def test_driver_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = native.build("libold.so", (native.FAKES / "fake_nvrtc.c",), ("-DMAJOR=1", "-DMINOR=0"))
    monkeypatch.setenv("FLAGGEMS_CUDA_LIBRARY", str(old))
    backend = fresh()
    backend.open()
    with pytest.raises(GemsError, match="has no cuInit, the driver is too old"):
        backend.device_info(0)


def test_threads_open_the_driver_once(fake: FakeDriver, code: Code) -> None:
    backend = fresh()
    start = threading.Barrier(8)

    def work(i: int) -> None:
        start.wait()
        backend.open()
        module = backend.load(code, i % 2)
        for _ in range(20):
            backend.launch(module, i % 2, device=i % 2, stream=fake.stream(i % 2, i // 2))
        backend.unload(module)
        assert fake.depth() == 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    calls = fake.calls()
    assert calls.count("cuInit") == 1
    assert calls.count("cuDevicePrimaryCtxRetain") == 2
    assert calls.count("cuLaunchKernel") == 160


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """The real driver: devices, a launch on torch's current stream, large shared memory, a graph."""
    import torch

    text = """
    extern "C" __global__ void scale(float *p, float by, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) p[i] *= by;
    }
    extern "C" __global__ void turn(float *p, int n) {
        extern __shared__ float held[];
        for (int i = threadIdx.x; i < n; i += blockDim.x) held[i] = p[i];
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x) p[i] = held[n - 1 - i];
    }
    """
    import ctypes as C

    backend = fresh()
    backend.open()
    device = torch.cuda.current_device()
    info, known = backend.device_info(device), torch.cuda.get_device_properties(device)
    assert backend.device_count() == torch.cuda.device_count()
    assert info.arch == known.major * 10 + known.minor
    assert info.processors == known.multi_processor_count
    module = backend.load(backend.compile(text, ["scale", "turn"], None, device), device)

    x = torch.arange(20000, dtype=torch.float32, device="cuda")
    pointer, by, n = C.c_void_p(x.data_ptr()), C.c_float(3.0), C.c_int(x.numel())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def scale() -> None:
        backend.launch(
            module,
            0,
            device=device,
            grid=(79, 1, 1),
            block=(256, 1, 1),
            stream=stream.cuda_stream,
            args=(pointer, by, n),
        )

    scale()
    backend.launch(
        module,
        1,
        device=device,
        block=(256, 1, 1),
        shared=4 * x.numel(),
        stream=stream.cuda_stream,
        args=(pointer, n),
    )
    stream.synchronize()
    assert torch.equal(x.cpu(), torch.arange(20000).flip(0).float() * 3)

    graph = torch.cuda.CUDAGraph()
    assert not backend.capturing(stream.cuda_stream, device)
    with torch.cuda.graph(graph, stream=stream):
        assert backend.capturing(stream.cuda_stream, device)
        scale()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(x.cpu(), torch.arange(20000).flip(0).float() * 9)
    backend.unload(module)
