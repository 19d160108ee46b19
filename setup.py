"""Builds flag_gems: one C extension with the kernel texts inside.

Needs a C compiler, Python's headers and NumPy's; neither torch nor CUDA. Objects are compiled one by one into the
temporary build directory and only when their sources, headers or flags changed.

Environment
-----------
CC, CFLAGS, LDFLAGS : the C compiler and additions to the flags
GEMS_WERROR=1 : warnings are errors
GEMS_SANITIZE=1 : AddressSanitizer and UndefinedBehaviorSanitizer
GEMS_JOBS : compilers at a time (default 2)
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
VERSION = "0.1.0"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes"]
FLAGS = ["-std=c11", "-O3", "-fPIC", "-D_GNU_SOURCE", "-fexceptions", "-fvisibility=hidden"]
KERNEL_SUFFIXES = {".cu", ".cuh", ".h"}


def c_sources() -> list[str]:
    """Paths of all C files, relative to the root, in a fixed order."""
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*.c"))


def kernel_files() -> list[Path]:
    """All kernel texts, in a fixed order."""
    return sorted(p for p in (ROOT / "kernels").rglob("*") if p.suffix in KERNEL_SUFFIXES)


def c_literal(text: bytes) -> str:
    """C string literals, one a line of text, that hold exactly these bytes."""
    escapes = {0x22: '\\"', 0x5C: "\\\\", 0x3F: "\\?", 0x0A: "\\n", 0x09: "\\t"}
    lines = []
    for line in text.splitlines(keepends=True):
        body = "".join(escapes.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in line)
        lines.append(f'        "{body}"')
    return "\n".join(lines) or '        ""'


def embedded_source() -> str:
    """The C file that holds the kernel texts, keyed by their path under kernels/."""
    rows = []
    for path in kernel_files():
        text = path.read_bytes()
        name = path.relative_to(ROOT / "kernels").as_posix()
        rows.append(f'    {{"{name}",\n{c_literal(text)},\n        {len(text)}}},\n')
    return (
        '/* Made by setup.py from kernels/. */\n#include "base/text.h"\n\n'
        "const gems_embedded gems_embedded_files[] = {\n" + "".join(rows) + "    {NULL, NULL, 0}};\n"
    )


def compiler() -> list[str]:
    """The C compiler: CC, else the one Python was built with if it is here, else gcc, cc or clang."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    configured = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
    for name in [*configured, "gcc", "cc", "clang"]:
        if shutil.which(name):
            return [name]
    raise CompileError("no C compiler found: install gcc or clang, or set CC")


def link_time_optimisation(flags: list[str]) -> list[str]:
    """The flags with which compiler and linker optimise across files; empty where they cannot do it together."""
    lto = ["-flto=auto"]
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "probe.c"
        source.write_text("int probe(int x);\nint probe(int x) { return x; }\n")
        command = [*compiler(), *flags, *lto, "-shared", str(source), "-o", str(source.with_suffix(".so"))]
        return lto if subprocess.run(command, capture_output=True).returncode == 0 else []


def check_python_header() -> None:
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").exists():
        raise CompileError(f"Python.h is not in {include}: install Python's development files (python3-dev)")


def depends_on(depfile: Path) -> list[str]:
    """The files a depfile of the compiler names; empty when there is none."""
    try:
        text = depfile.read_text()
    except OSError:
        return []
    return shlex.split(text.replace("\\\n", " ").partition(":")[2])


def is_current(output: Path, inputs: list[str], command: list[str]) -> bool:
    """True when output is newer than all its inputs and was made by the same command."""
    note = output.with_suffix(output.suffix + ".cmd")
    try:
        made = output.stat().st_mtime_ns
        if note.read_text() != shlex.join(command):
            return False
        return bool(inputs) and all(os.stat(ROOT / p).st_mtime_ns < made for p in inputs)
    except OSError:
        return False


def note_command(output: Path, command: list[str]) -> None:
    output.with_suffix(output.suffix + ".cmd").write_text(shlex.join(command))


@contextlib.contextmanager
def locked(directory: Path):
    """One build at a time in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class BuildExtension(build_ext):
    """Compiles with flags of our own, whatever Python was built with."""

    def build_extension(self, ext: Extension) -> None:
        import numpy

        check_python_header()
        temp = Path(self.build_temp).absolute() / "objects"
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        flags = [*FLAGS, *WARNINGS]
        if os.environ.get("GEMS_WERROR") == "1":
            flags.append("-Werror")
        # The module's entry alone is seen from outside.
        link = ["-shared", "-ldl", "-lpthread", "-lm", f"-Wl,--version-script={ROOT / 'csrc/python/exports.map'}"]
        if os.environ.get("GEMS_SANITIZE") == "1":
            sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
            flags += ["-g", "-O1", "-fno-omit-frame-pointer", *sanitize]
            link += sanitize
        else:
            lto = link_time_optimisation(flags)
            flags += lto
            link += ["-O3", *lto]
        includes = ["-Icsrc", "-isystem", sysconfig.get_paths()["include"], "-isystem", numpy.get_include()]
        flags += [*includes, *shlex.split(os.environ.get("CFLAGS", ""))]
        link += shlex.split(os.environ.get("LDFLAGS", ""))
        with locked(temp):
            generated = temp / "embedded.c"
            text = embedded_source()
            if not generated.exists() or generated.read_text() != text:
                generated.write_text(text)
            objects = self.compile_all([*c_sources(), str(generated)], temp, flags)
            self.link(objects, target, link)

    def compile_all(self, sources: list[str], temp: Path, flags: list[str]) -> list[str]:
        """Compiles what is out of date, and returns all objects. Every error is shown before it fails."""
        cc = compiler()

        def one(source: str) -> tuple[str, str | None]:
            name = source.replace("/", "_") if not os.path.isabs(source) else Path(source).name
            output = temp / (name[:-2] + ".o")
            depfile = output.with_suffix(".d")
            command = [*cc, *flags, "-MMD", "-MF", str(depfile), "-c", source, "-o", str(output)]
            if is_current(output, depends_on(depfile), command):
                return str(output), None
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            print(f"  {Path(cc[0]).name} {source}\n{done.stderr}", end="", flush=True)
            if done.returncode != 0:
                output.unlink(missing_ok=True)
                return str(output), source
            note_command(output, command)
            return str(output), None

        jobs = int(os.environ.get("GEMS_JOBS", "2"))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            results = list(pool.map(one, sources))
        failed = [source for _, source in results if source]
        if failed:
            raise CompileError(f"{len(failed)} of {len(sources)} files did not compile: {' '.join(failed)}")
        return [output for output, _ in results]

    def link(self, objects: list[str], target: Path, flags: list[str]) -> None:
        command = [*compiler(), *objects, *flags, "-o", str(target)]
        note = Path(objects[0]).parent / target.name
        if target.exists() and is_current(note, objects, command):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        command[-1] = str(fresh)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise CompileError(f"linking failed\n{done.stderr}")
        self.check_symbols(fresh)
        os.replace(fresh, target)  # a process that has the old file loaded keeps it
        command[-1] = str(target)
        note.touch()
        note_command(note, command)
        print(f"  linked {target.name}", flush=True)

    def check_symbols(self, library: Path) -> None:
        """A shared object links with functions missing; say so here, not at import."""
        nm = shutil.which("nm")
        if nm is None:
            return
        text = subprocess.run([nm, "-D", "--undefined-only", str(library)], capture_output=True, text=True).stdout
        missing = sorted({line.split()[-1] for line in text.splitlines() if " gems_" in line})
        if missing:
            library.unlink()
            raise CompileError("used but not defined anywhere in csrc/: " + " ".join(missing))

    def copy_extensions_to_source(self) -> None:
        """In place: by rename, so that a process that has the old file loaded keeps it."""
        for ext in self.extensions:
            made = Path(self.build_lib, self.get_ext_filename(ext.name))
            placed = ROOT / "gems" / made.name
            if placed.exists() and made.stat().st_mtime_ns == placed.stat().st_mtime_ns:
                continue
            fresh = placed.with_name(f".{made.name}.{os.getpid()}")
            shutil.copy2(made, fresh)
            os.replace(fresh, placed)

    def get_source_files(self) -> list[str]:
        return c_sources()


class BuildPython(build_py):
    """Leaves an extension that was built in place out of the wheel: build_ext puts the right one there."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        return [p for p in super().find_data_files(package, src_dir) if not p.endswith(".so")]


os.chdir(ROOT)
setup(
    name="flag_gems",
    version=VERSION,
    description="PyTorch operators whose CUDA and CPU kernels are compiled at run time, in C",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=["numpy", "rich", "pyyaml"],
    extras_require={"torch": ["torch>=2.9"], "nvrtc": ["nvidia-cuda-nvrtc"], "plot": ["matplotlib"]},
    package_dir={"flag_gems": "gems"},
    packages=["flag_gems", *(f"flag_gems.{name}" for name in find_packages("gems"))],
    package_data={"flag_gems": ["*.yaml", "**/*.yaml", "py.typed"]},
    ext_modules=[Extension("flag_gems._C", sources=[])],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
    entry_points={"console_scripts": ["flag-gems = flag_gems.cli:main"]},
    zip_safe=False,
)
