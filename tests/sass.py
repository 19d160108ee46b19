"""What NVRTC makes of a kernel: compile a text for an architecture, read the machine code's instructions.

Needs NVRTC and nvdisasm (wheels nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm, or a CUDA toolkit), no GPU.

>>> kernels = sass.kernels(sass.contract() + text, ["add"], "sm_90a")
>>> assert kernels["add"].has("LDG.E.128") and kernels["add"].spill_bytes == 0
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import native

ARCHS = ("sm_80", "sm_90a", "sm_100a", "sm_120")
# The others under make test-all.
SM_90A_QUICK = [pytest.param(arch, marks=[] if arch == "sm_90a" else pytest.mark.slow) for arch in ARCHS]


@dataclass(frozen=True)
class Kernel:
    """One kernel's machine code.

    Attributes
    ----------
    instructions : list of str
        In order, with predicates and operands, without the padding at the end: "LDG.E.128 R4, desc[UR4][R2.64]".
    registers, spill_bytes, shared_bytes : int
        A thread's registers; bytes of local memory a thread spills to (its stack frame counted);
        static shared memory of a block in bytes.
    """

    name: str
    arch: str
    instructions: list[str]
    registers: int
    spill_bytes: int
    shared_bytes: int

    @property
    def opcodes(self) -> list[str]:
        """The instructions without predicates and operands: "LDG.E.128.CONSTANT"."""
        return [re.sub(r"^@!?U?P\w+\s+", "", line).split()[0] for line in self.instructions]

    def has(self, *patterns: str) -> bool:
        """True when each pattern is found among the opcodes.

        A pattern names an opcode and some of its modifiers, in any order and with any others between:
        "STG.E.128", "LDG.128", "HMMA", "LDGSTS.E.BYPASS.128".
        """
        return all(self.count(pattern) for pattern in patterns)

    def count(self, pattern: str) -> int:
        """How many instructions match a pattern of `has`."""
        head, *modifiers = pattern.split(".")
        found = 0
        for opcode in self.opcodes:
            name, *others = opcode.split(".")
            found += name == head and set(modifiers) <= set(others)
        return found


@functools.cache
def tool(name: str) -> str:
    """Path of nvdisasm or cuobjdump: beside the wheels, on PATH, in a CUDA toolkit."""
    places = [site / "nvidia" for site in map(Path, sys.path) if (site / "nvidia").is_dir()]
    for place in places:
        for found in sorted(place.glob(f"*/bin/{name}"), reverse=True):
            if os.access(found, os.X_OK):
                return str(found)
    homes = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)])
    found = shutil.which(name, path=f"{path}{os.pathsep}/usr/local/cuda/bin")
    if found is None:
        raise FileNotFoundError(f"{name} is neither in a wheel under {places} nor on {path}")
    return found


def contract() -> str:
    """The text that every kernel sees first: kernels/gems.cuh."""
    return (native.ROOT / "kernels" / "gems.cuh").read_text()


def compile_cubin(text: str, entries: Sequence[str], arch: str) -> bytes:
    """Compiles a program with the cuda backend and returns its cubin.

    Raises
    ------
    native.GemsError
        With the compiler's log and the numbered source.
    """
    code = native.cuda().compile(text, entries, arch, name="sass " + " ".join(entries))
    assert code.data[:4] == b"\x7fELF", f"{code.arch} is PTX: this NVRTC does not know {arch}"
    return code.data


def _run(name: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool(name), *options, file.name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return done.stdout


def disassemble(cubin: bytes) -> dict[str, list[str]]:
    """Instructions of each kernel of a cubin, by nvdisasm, without the padding after the last one."""
    kernels: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in _run("nvdisasm", cubin, "-c").splitlines():
        section = re.match(r"\s*\.section\s+(\S+?),", line) or re.match(r"\s*\.section\s+(\S+)", line)
        if section:
            name = section[1].strip('"')
            lines = kernels.setdefault(name[6:], []) if name.startswith(".text.") else None
            continue
        instruction = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)
        if instruction and lines is not None:
            lines.append(instruction[1])
    for found in kernels.values():
        while found and found[-1] == "NOP":
            found.pop()
    return kernels


def resources(cubin: bytes) -> dict[str, dict[str, int]]:
    """What each kernel of a cubin uses, by cuobjdump: REG, STACK, SHARED, LOCAL ..."""
    used: dict[str, dict[str, int]] = {}
    name = None
    for line in _run("cuobjdump", cubin, "--dump-resource-usage").splitlines():
        function = re.match(r"\s*Function\s+(\S+?):", line)
        if function:
            name = function[1]
        elif name and "REG:" in line:
            used[name] = {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", line)}
            name = None
    return used


def kernels_of(cubin: bytes, arch: str) -> dict[str, Kernel]:
    """The kernels of a cubin, by name."""
    used = resources(cubin)
    return {
        name: Kernel(
            name,
            arch,
            instructions,
            used[name]["REG"],
            used[name]["STACK"] + used[name]["LOCAL"],
            used[name]["SHARED"],
        )
        for name, instructions in disassemble(cubin).items()
        if name in used  # not the functions that a kernel calls
    }


def kernels(text: str, entries: Sequence[str], arch: str) -> dict[str, Kernel]:
    """Compiles a program for an architecture ("sm_90a") and reads its kernels back, by name.

    text is the whole program, `contract()` included where it is wanted; entries are its extern "C" kernels.
    """
    return kernels_of(compile_cubin(text, entries, arch), arch)
