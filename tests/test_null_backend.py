"""The null backend: nothing is compiled or run, launches are counted."""

from __future__ import annotations

import ctypes as C

import pytest

import native
from native import Backend, GemsError


class Record(C.Structure):
    """gems_null_record of csrc/backend/null.h."""

    _fields_ = [
        ("launches", C.c_uint64),
        ("name", C.c_char_p),
        ("entry", C.c_int),
        ("grid", C.c_uint32 * 3),
        ("block", C.c_uint32 * 3),
        ("shared", C.c_uint32),
        ("stream", C.c_void_p),
    ]


@pytest.fixture
def backend() -> Backend:
    backend = Backend(native.copy_of(native.backend_library()), "null")
    backend.library.gems_null_last.restype = Record
    backend.open()
    return backend


def test_device(backend: Backend) -> None:
    info = backend.device_info(0)
    assert (info.arch, info.processors, info.warp, info.vector_bytes) == (90, 132, 32, 16)
    assert not info.fast and not info.wants_extents
    assert (backend.device_count(), backend.table.device_type, backend.table.name) == (1, 0, b"null")
    assert not backend.capturing(None)
    assert backend.read(None, 0, 3) == bytes(3)
    assert "null" in backend.describe()


def test_launches_are_recorded(backend: Backend) -> None:
    code = backend.compile("no text that any compiler takes", ["a", "b"], None)
    assert len(code.data) == 1
    module = backend.load(code)
    assert backend.library.gems_null_last().launches == 0
    backend.launch(module, 1, grid=(5, 4, 3), block=(64, 2, 1), shared=99, stream=0x10, name="add.Tensor")
    backend.launch(module, 1, grid=(5, 4, 3), block=(64, 2, 1), shared=99, stream=0x10, name="add.Tensor")
    last = backend.library.gems_null_last()
    assert (last.launches, last.entry, last.shared, last.stream) == (2, 1, 99, 0x10)
    assert last.name == b"add.Tensor"
    assert (tuple(last.grid), tuple(last.block)) == ((5, 4, 3), (64, 2, 1))
    with pytest.raises(GemsError, match="no kernel 2"):
        backend.launch(module, 2)
    backend.library.gems_null_clear()
    last = backend.library.gems_null_last()
    assert (last.launches, last.name, tuple(last.grid)) == (0, None, (0, 0, 0))
    backend.unload(module)
