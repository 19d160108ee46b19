"""C code built apart from the extension and reached by ctypes: the backends, and the fakes beneath them."""

from __future__ import annotations

import atexit
import ctypes as C
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
FAKES = ROOT / "tests" / "fake_cuda"
OK, DECLINE, ERROR = 0, 1, 2
BACKEND_SOURCES = (
    "base/error.c",
    "backend/backend.c",
    "backend/null.c",
    *(f"backend/cuda/{name}.c" for name in ("cuda", "cubin", "driver", "library", "nvrtc", "source")),
)


@functools.cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="gems-native-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def build(name: str, sources: tuple[str | Path, ...], flags: tuple[str, ...] = ()) -> Path:
    """Compiles C files into a shared library, once a process.

    Parameters
    ----------
    name : str
        File name of the library.
    sources : tuple of str or Path
        C files, relative to csrc/ unless absolute.
    flags : tuple of str
        Further flags of the compiler and linker.

    Returns
    -------
    Path
        The library, removed when the process ends.
    """
    digest = hashlib.sha256(repr((name, sources, flags)).encode()).hexdigest()[:12]
    target = _directory() / digest / name
    target.parent.mkdir(exist_ok=True)
    command = [
        *os.environ.get("CC", "gcc").split(),
        *("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fPIC", "-shared", "-Wl,-Bsymbolic", f"-I{CSRC}"),
        *(str(CSRC / source) for source in sources),
        *("-o", str(target)),
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def copy_of(library: Path) -> Path:
    """A copy of a library: loaded under its own name, it has its own static variables."""
    folder = Path(tempfile.mkdtemp(dir=_directory()))
    return Path(shutil.copy(library, folder / library.name))


class Blob(C.Structure):
    _fields_ = [("data", C.c_void_p), ("size", C.c_size_t)]


class Report(C.Structure):
    _fields_ = [
        ("registers", C.c_int),
        ("spill_bytes", C.c_int),
        ("shared_bytes", C.c_int),
        ("instructions", C.c_int),
        ("milliseconds", C.c_double),
    ]


class Identity(C.Structure):
    _fields_ = [("arch", C.c_char * 32), ("compiler", C.c_char * 96), ("options", C.c_char * 512)]


class DeviceInfo(C.Structure):
    _fields_ = [
        ("arch", C.c_int),
        ("processors", C.c_int),
        ("warp", C.c_int),
        ("max_threads", C.c_int),
        ("vector_bytes", C.c_int),
        ("shared_bytes", C.c_int64),
        ("l2_bytes", C.c_int64),
        ("fast", C.c_bool),
        ("wants_extents", C.c_bool),
        ("hopper", C.c_bool),
    ]


class Launch(C.Structure):
    _fields_ = [
        ("grid", C.c_uint32 * 3),
        ("block", C.c_uint32 * 3),
        ("shared", C.c_uint32),
        ("cluster", C.c_uint32),
        ("stream", C.c_void_p),
        ("args", C.POINTER(C.c_void_p)),
        ("extents", C.c_void_p),
        ("extent_count", C.c_int),
        ("name", C.c_char_p),
    ]


_Names = C.POINTER(C.c_char_p)


class Table(C.Structure):
    """gems_backend of csrc/backend/backend.h."""

    _fields_ = [
        ("version", C.c_int),
        ("name", C.c_char_p),
        ("device_type", C.c_int),
        ("open", C.CFUNCTYPE(C.c_int)),
        ("describe", C.CFUNCTYPE(None, C.c_char_p, C.c_size_t)),
        ("device_count", C.CFUNCTYPE(C.c_int)),
        ("device_info", C.CFUNCTYPE(C.c_int, C.c_int, C.POINTER(DeviceInfo))),
        ("identity", C.CFUNCTYPE(C.c_int, C.c_int, C.c_char_p, C.POINTER(Identity))),
        (
            "compile",
            C.CFUNCTYPE(
                C.c_int,
                C.POINTER(Identity),
                C.c_char_p,
                C.c_char_p,
                _Names,
                C.c_int,
                C.POINTER(Blob),
                C.POINTER(Report),
            ),
        ),
        (
            "load",
            C.CFUNCTYPE(
                C.c_int, C.c_int, C.POINTER(Blob), C.c_char_p, _Names, C.c_int, C.POINTER(C.c_void_p)
            ),
        ),
        ("launch", C.CFUNCTYPE(C.c_int, C.c_int, C.c_void_p, C.c_int, C.POINTER(Launch))),
        ("unload", C.CFUNCTYPE(None, C.c_void_p)),
        ("capturing", C.CFUNCTYPE(C.c_bool, C.c_int, C.c_void_p)),
        ("read", C.CFUNCTYPE(C.c_int, C.c_int, C.c_void_p, C.c_void_p, C.c_size_t, C.c_void_p)),
    ]


class GemsError(Exception):
    """A function returned GEMS_ERROR; the text is gems_error_text()."""


@dataclass(frozen=True)
class Code:
    """A compiled program: its bytes, what the compiler said of it, and what it was compiled with."""

    data: bytes
    report: Report
    arch: str
    options: str
    entries: tuple[str, ...]


def _names(entries: Sequence[str]) -> C.Array:
    return (C.c_char_p * len(entries))(*(name.encode() for name in entries))


class Backend:
    """One backend of a library, with Python's types; failures are GemsError.

    Parameters
    ----------
    library : Path
        Has the backend's struct and base/error.c.
    name : str
        "cuda", "null" or "cpu".
    """

    def __init__(self, library: Path, name: str) -> None:
        self.library = C.CDLL(str(library))
        self.library.gems_error_text.restype = C.c_char_p
        self.library.gems_blob_free.argtypes = [C.POINTER(Blob)]
        self.library.gems_blob_free.restype = None
        self.table = Table.in_dll(self.library, f"gems_backend_{name}")

    def _check(self, status: int) -> None:
        if status != OK:
            raise GemsError(self.library.gems_error_text().decode())

    def open(self) -> None:
        self._check(self.table.open())

    def describe(self) -> str:
        text = C.create_string_buffer(8192)
        self.table.describe(text, len(text))
        return text.value.decode()

    def device_count(self) -> int:
        return self.table.device_count()

    def device_info(self, device: int) -> DeviceInfo:
        info = DeviceInfo()
        self._check(self.table.device_info(device, info))
        return info

    def identity(self, arch: str | None, device: int = 0) -> Identity:
        identity = Identity()
        self._check(self.table.identity(device, arch.encode() if arch is not None else None, identity))
        return identity

    def compile(
        self, text: str, entries: Sequence[str], arch: str | None, device: int = 0, name: str = "test program"
    ) -> Code:
        identity, blob, report = self.identity(arch, device), Blob(), Report()
        self._check(
            self.table.compile(
                identity, name.encode(), text.encode(), _names(entries), len(entries), blob, report
            )
        )
        data = C.string_at(blob.data, blob.size)
        self.library.gems_blob_free(blob)
        return Code(data, report, identity.arch.decode(), identity.options.decode(), tuple(entries))

    def load(self, code: Code, device: int = 0) -> int:
        held = C.create_string_buffer(code.data, len(code.data))
        blob, module = Blob(C.cast(held, C.c_void_p), len(code.data)), C.c_void_p()
        self._check(
            self.table.load(device, blob, None, _names(code.entries), len(code.entries), C.byref(module))
        )
        return module.value

    def launch(
        self,
        module: int,
        entry: int = 0,
        *,
        device: int = 0,
        grid: Sequence[int] = (1, 1, 1),
        block: Sequence[int] = (32, 1, 1),
        shared: int = 0,
        cluster: int = 0,
        stream: int | None = None,
        args: Sequence[C._SimpleCData] = (),
        name: str = "test launch",
    ) -> None:
        pointers = (C.c_void_p * max(1, len(args)))(*(C.addressof(a) for a in args))
        launch = Launch(
            (C.c_uint32 * 3)(*grid),
            (C.c_uint32 * 3)(*block),
            shared,
            cluster,
            stream,
            pointers,
            None,
            0,
            None,
        )
        self.launch_name = launch.name = name.encode()  # a record of the launch borrows it
        self._check(self.table.launch(device, module, entry, launch))

    def unload(self, module: int) -> None:
        self.table.unload(module)

    def capturing(self, stream: int | None, device: int = 0) -> bool:
        return self.table.capturing(device, stream)

    def read(self, stream: int | None, address: int, count: int, device: int = 0) -> bytes:
        """Bytes of a device's memory, after what the stream was given before."""
        target = C.create_string_buffer(count)
        self._check(self.table.read(device, stream, address, count, C.addressof(target)))
        return target.raw


def backend_library() -> Path:
    """The cuda and null backends in a library of their own."""
    return build("libgems_backends.so", BACKEND_SOURCES, ("-ldl", "-lpthread"))


@functools.cache
def cuda() -> Backend:
    """The cuda backend, for compiling: opened, shared by all tests of the process."""
    backend = Backend(backend_library(), "cuda")
    set_search_path(backend)
    backend.open()
    return backend


def set_search_path(backend: Backend, paths: Sequence[str] | None = None) -> None:
    """Says where NVIDIA's wheels may lie; sys.path when left out."""
    text = ":".join(sys.path if paths is None else paths).encode()
    backend.search_path = text  # the library keeps the pointer
    C.c_char_p.in_dll(backend.library, "gems_cuda_search_path").value = text


class FakeDriver:
    """tests/fake_cuda/fake_cuda.c, loaded under a name of its own: a test's own two devices.

    FLAGGEMS_CUDA_LIBRARY must name `path` when the backend opens its driver.
    """

    def __init__(self) -> None:
        flags = ("-fvisibility=hidden", "-lpthread")
        self.path = copy_of(build("libcuda.so.1", (FAKES / "fake_cuda.c",), flags))
        self.c = C.CDLL(str(self.path))
        self.c.fake_log.restype = C.c_char_p
        self.c.fake_stream.restype = C.c_void_p
        self.c.fake_fail.argtypes = [C.c_char_p, C.c_int, C.c_int]
        self.c.fake_capture.argtypes = [C.c_void_p, C.c_int]

    def log(self) -> list[str]:
        """The calls since the last clear, as "cuLaunchKernel current=0 stream=0.1 ..."."""
        return self.c.fake_log().decode().splitlines()

    def calls(self) -> list[str]:
        """The symbols of the calls since the last clear."""
        return [line.split()[0] for line in self.log()]

    def clear(self) -> None:
        self.c.fake_clear()

    def fail(self, symbol: str, code: int, n: int = 1) -> None:
        """The n-th call of a symbol from now on gives this error."""
        self.c.fake_fail(symbol.encode(), n, code)

    def stream(self, device: int, index: int = 0) -> int:
        return self.c.fake_stream(device, index)

    def capture(self, stream: int, status: int = 1) -> None:
        self.c.fake_capture(stream, status)

    def depth(self) -> int:
        """Contexts on this thread's stack."""
        return self.c.fake_depth()

    def push(self, device: int) -> None:
        """Makes a device's context the current one, as torch does."""
        context = C.c_void_p()
        assert self.c.cuDevicePrimaryCtxRetain(C.byref(context), device) == 0
        assert self.c.cuCtxPushCurrent_v2(context) == 0

    def pop(self) -> None:
        assert self.c.cuCtxPopCurrent_v2(C.byref(C.c_void_p())) == 0
