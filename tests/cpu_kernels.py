"""Kernels on the cpu backend, apart from the extension: compiled from text, launched on NumPy arrays."""

from __future__ import annotations

import ctypes as C
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import native
from native import CSRC, ROOT, Backend, GemsError, Launch

KERNELS = ROOT / "kernels"
CPU_SOURCES = tuple(
    [*(f"backend/cpu/{path.name}" for path in sorted((CSRC / "backend" / "cpu").glob("*.c")))]
    + ["backend/backend.c", "base/error.c", "base/text.c"]
)
NO_EMBEDDED = '#include "jit/jit.h"\nconst gems_embedded gems_embedded_files[] = {{0, 0, 0}};\n'


class Extent(C.Structure):
    _fields_ = [("start", C.c_void_p), ("bytes", C.c_size_t), ("writable", C.c_bool)]


@functools.cache
def library() -> Path:
    """The cpu backend in a library of its own; kernel texts are read from GEMS_KERNEL_DIR."""
    source = native._directory() / "no_embedded.c"
    source.write_text(NO_EMBEDDED)
    return native.build("libgems_cpu.so", (*CPU_SOURCES, source), ("-ldl", "-lpthread"))


def opened(mode: str = "fast", order: str = "forward", **environment: str | None) -> Backend:
    """A cpu backend of its own, opened under these settings.

    Parameters
    ----------
    mode, order : str
        GEMS_CPU_MODE and GEMS_CPU_ORDER.
    **environment : str or None
        Further variables for the length of the opening; None removes one.

    Raises
    ------
    GemsError
        The backend cannot be opened.
    """
    settings: dict[str, str | None] = {"GEMS_CPU_MODE": mode, "GEMS_CPU_ORDER": order, **environment}
    os.environ["GEMS_KERNEL_DIR"] = str(KERNELS)
    before = {name: os.environ.get(name) for name in settings}
    backend = Backend(native.copy_of(library()), "cpu")
    try:
        _set(settings)
        backend.open()
    finally:
        _set(before)
    return backend


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@functools.cache
def shared(mode: str = "fast", order: str = "forward") -> Backend:
    """The same, one for all tests of the process."""
    return opened(mode, order)


class Program:
    """A compiled and loaded kernel text.

    Parameters
    ----------
    backend : Backend
        An opened cpu backend.
    text : str
        What a kernel file holds; kernels/gems.cuh comes before it.
    entries : sequence of str
        Names of its kernels.
    """

    def __init__(self, backend: Backend, text: str, entries: Sequence[str] = ("kernel",)) -> None:
        contract = (KERNELS / "gems.cuh").read_text()
        self.backend = backend
        self.first_line = contract.count("\n") + 3  # of text's own first line, in reports
        self.code = backend.compile(contract + "\n\nusing namespace gems;" + text, entries, None)
        self.module = backend.load(self.code)

    def __call__(
        self,
        *args: np.ndarray | int | float,
        grid: int | Sequence[int] = 1,
        block: int = 32,
        shared: int = 0,
        entry: int = 0,
        constant: Sequence[int] = (),
    ) -> None:
        """Launches a kernel; arrays go as pointers, ints as int64_t, floats as float.

        constant: the positions of arguments that the kernel may only read.
        """
        pointers, extents = [], []
        for i, arg in enumerate(args):
            if isinstance(arg, np.ndarray):
                pointers.append(C.c_void_p(arg.ctypes.data))
                extents.append(Extent(arg.ctypes.data, arg.nbytes, i not in constant))
            elif isinstance(arg, float):
                pointers.append(C.c_float(arg))
            else:
                pointers.append(C.c_int64(arg))
        args_array = (C.c_void_p * max(1, len(pointers)))(*(C.addressof(p) for p in pointers))
        extent_array = (Extent * max(1, len(extents)))(*extents)
        sizes = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
        launch = Launch(
            (C.c_uint32 * 3)(*sizes),
            (C.c_uint32 * 3)(block, 1, 1),
            shared,
            0,
            None,
            args_array,
            C.cast(extent_array, C.c_void_p),
            len(extents),
            b"test kernel",
        )
        self.backend._check(self.backend.table.launch(0, self.module, entry, launch))


def report_of(program: Program, *args: np.ndarray | int | float, **how: object) -> str:
    """Launches and returns what the checked mode has to say; an empty string: nothing."""
    try:
        program(*args, **how)
    except GemsError as error:
        return str(error)
    return ""
