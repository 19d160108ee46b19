"""The disk cache and the program text as a small C library of their own, reached by ctypes."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["base/error.c", "jit/sha256.c", "jit/cache.c", "jit/cache_place.c", "jit/cache_care.c", "base/text.c"]
EMBEDDED = """
#include "jit/jit.h"
const gems_embedded gems_embedded_files[] = {{"one.cuh", "first\\n", 6}, {"cpu/two.h", "second", 6}, {NULL, NULL, 0}};
"""


class Blob(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Report(ctypes.Structure):
    _fields_ = [
        ("registers", ctypes.c_int),
        ("spill_bytes", ctypes.c_int),
        ("shared_bytes", ctypes.c_int),
        ("instructions", ctypes.c_int),
        ("milliseconds", ctypes.c_double),
    ]

    def values(self) -> tuple:
        return tuple(getattr(self, name) for name, _ in self._fields_)


class Identity(ctypes.Structure):
    _fields_ = [("arch", ctypes.c_char * 32), ("compiler", ctypes.c_char * 96), ("options", ctypes.c_char * 512)]


class Info(ctypes.Structure):
    _fields_ = [("entries", ctypes.c_int64), ("bytes", ctypes.c_int64)]


class Text(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
        ("failed", ctypes.c_bool),
    ]


def build(directory: Path) -> Path:
    """Compiles the library into a directory and returns its path."""
    library = directory / "libgems_cache.so"
    embedded = directory / "embedded.c"
    embedded.write_text(EMBEDDED)
    sources = [str(ROOT / "csrc" / name) for name in SOURCES]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    if os.environ.get("GEMS_SANITIZED"):
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, *flags, *sources, str(embedded), "-o", str(library), "-lpthread"], check=True)
    return library


class Cache:
    """The functions of csrc/jit/jit.h that concern the cache, with Python's types."""

    def __init__(self, library: Path) -> None:
        self.c = ctypes.CDLL(str(library))
        self.c.gems_cache_get.restype = ctypes.c_bool
        self.c.gems_cache_directory.restype = ctypes.c_char_p
        self.c.gems_cache_measure.restype = Info
        self.c.gems_cache_clear.restype = ctypes.c_int64
        self.c.gems_cache_prune.restype = ctypes.c_int64
        self.c.gems_cache_prune.argtypes = [ctypes.c_int64]
        self.c.gems_kernel_text.restype = ctypes.c_char_p
        self.free = ctypes.CDLL(None).free
        self.free.argtypes = [ctypes.c_void_p]

    def put(self, key: str, payload: bytes, report: tuple = (1, 2, 3, 4, 5.5)) -> str:
        """Stores an entry and returns its path; "" when it could not be stored."""
        path = ctypes.create_string_buffer(4096)
        held = ctypes.create_string_buffer(payload, len(payload))
        blob = Blob(ctypes.cast(held, ctypes.c_void_p), len(payload))
        self.c.gems_cache_put(key.encode(), ctypes.byref(blob), ctypes.byref(Report(*report)), path, len(path))
        return path.value.decode()

    def get(self, key: str) -> tuple[bytes, tuple, str] | None:
        """An entry's payload, report and path; None on a miss."""
        path = ctypes.create_string_buffer(4096)
        blob, report = Blob(), Report()
        if not self.c.gems_cache_get(key.encode(), ctypes.byref(blob), ctypes.byref(report), path, len(path)):
            assert path.value == b""
            return None
        payload = ctypes.string_at(blob.data, blob.size)
        self.free(blob.data)
        return payload, report.values(), path.value.decode()

    def key(self, text: str, arch: str = "sm_90a", compiler: str = "nvrtc 13.0", options: str = "-O3") -> str:
        key = ctypes.create_string_buffer(65)
        identity = Identity(arch.encode(), compiler.encode(), options.encode())
        self.c.gems_cache_key(ctypes.byref(identity), text.encode(), key)
        return key.value.decode()

    def sha256(self, data: bytes) -> str:
        digest = (ctypes.c_uint8 * 32)()
        self.c.gems_sha256(data, ctypes.c_size_t(len(data)), digest)
        return bytes(digest).hex()

    def directory(self) -> str | None:
        found = self.c.gems_cache_directory()
        return found.decode() if found is not None else None

    def measure(self) -> tuple[int, int]:
        info = self.c.gems_cache_measure()
        return info.entries, info.bytes

    def clear(self) -> int:
        return self.c.gems_cache_clear()

    def prune(self, keep: int) -> int:
        return self.c.gems_cache_prune(keep)

    def kernel_text(self, path: str) -> str | None:
        found = self.c.gems_kernel_text(path.encode())
        return found.decode() if found is not None else None

    def text(self, pieces: list[tuple]) -> str:
        """What gems_text_add makes of a list of (format, arguments...)."""
        text = Text()
        for form, *values in pieces:
            args = [v.encode() if isinstance(v, str) else ctypes.c_int(v) for v in values]
            self.c.gems_text_add(ctypes.byref(text), form.encode(), *args)
        assert not text.failed
        result = text.data.decode()
        assert len(result) == text.size
        self.c.gems_text_free(ctypes.byref(text))
        return result
