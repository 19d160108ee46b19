"""The extension, the wheel and the source distribution: what is in them, and what they ask of a machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from flag_gems import _C

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = Path(_C.__file__).resolve()
# Where an undefined symbol may come from besides the C library: Python, ELF's start-up, the compiler's own helpers.
ALLOWED = re.compile(r"^_?_?Py|^__gmon_start__$|^_ITM_|@GCC_|^__cxa_finalize$|^__asan_|^__ubsan_")
LIBRARIES = {"libc", "libm", "libdl", "libpthread", "libgcc_s", "ld-linux-x86-64", "ld-linux-aarch64"}
SANITIZERS = {"libasan", "libubsan"}


def undefined() -> list[str]:
    text = subprocess.run(["nm", "-D", "--undefined-only", str(EXTENSION)], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in text.stdout.splitlines()]


def test_extension_needs_only_python_and_the_c_library() -> None:
    foreign = [name for name in undefined() if "@GLIBC_" not in name and not ALLOWED.search(name)]
    assert foreign == []


def test_extension_has_no_symbol_of_torch_cuda_or_cxx() -> None:
    wrong = re.compile(r"aoti|torch|c10|^_ZN|^cu[A-Z]|nvrtc|GLIBCXX|CXXABI")
    assert [name for name in undefined() if wrong.search(name)] == []


def test_extension_exports_its_entry_alone() -> None:
    text = subprocess.run(["nm", "-D", "--defined-only", str(EXTENSION)], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in text.stdout.splitlines()} <= {"PyInit__C", "_init", "_fini"}


def test_extension_links_no_torch_no_cuda() -> None:
    text = subprocess.run(["readelf", "-d", str(EXTENSION)], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.+?)\]", text.stdout)
    assert {name.split(".so")[0] for name in needed} <= LIBRARIES | SANITIZERS


def test_extension_asks_for_no_static_thread_storage() -> None:
    """The static block has little room left for a library that is opened after torch: the import would fail."""
    text = subprocess.run(["readelf", "-d", str(EXTENSION)], capture_output=True, text=True, check=True)
    assert "STATIC_TLS" not in text.stdout


def copy_of_tree(target: Path) -> Path:
    """The files that git knows or would take, so that nothing built here is in the way."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    names = [name for name in names if name and (ROOT / name).is_file()]
    if not names:  # an unpacked source distribution
        tops = ("csrc", "kernels", "gems", "tests", "docs", "benchmarks", "examples")
        names = [str(p.relative_to(ROOT)) for top in tops for p in (ROOT / top).rglob("*") if p.is_file()]
        names += [p.name for p in ROOT.iterdir() if p.is_file()]
    for name in names:
        if not name.endswith((".so", ".o", ".pyc")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


def setup(tree: Path, *arguments: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GEMS_")}
    done = subprocess.run([sys.executable, "setup.py", "--quiet", *arguments], cwd=tree, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def test_sdist_has_all_sources(tmp_path: Path) -> None:
    tree = copy_of_tree(tmp_path / "tree")
    setup(tree, "sdist", "--dist-dir", str(tmp_path), "--formats", "gztar")
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [p.relative_to(tree).as_posix() for top in ("csrc", "kernels", "gems") for p in (tree / top).rglob("*")]
    wanted = [name for name in wanted if (tree / name).is_file() and "/__pycache__/" not in name]
    wanted += ["LICENSE", "README.md", "setup.py", "pyproject.toml", "Makefile", "requirements-test.txt"]
    assert sorted(set(wanted) - packed) == []


@pytest.mark.slow
def test_wheel_is_whole_and_works_without_torch(tmp_path: Path) -> None:
    tree = copy_of_tree(tmp_path / "tree")
    setup(tree, "bdist_wheel", "--dist-dir", str(tmp_path))
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    modules = [p.relative_to(tree / "gems").as_posix() for p in (tree / "gems").rglob("*.py")]
    assert sorted(f"flag_gems/{name}" for name in modules) == sorted(n for n in names if n.endswith(".py"))
    assert sum(name.startswith("flag_gems/_C.") for name in names) == 1
    assert any(name.endswith("entry_points.txt") for name in names)
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing torch fails
        "import numpy, flag_gems\n"
        f"assert flag_gems.__file__.startswith({str(tmp_path)!r}), flag_gems.__file__\n"
        "x = numpy.arange(5, dtype=numpy.float32)\n"
        "assert (flag_gems.ops.mul(x, x) == x * x).all()\n"
    )
    env = dict(os.environ, PYTHONPATH=str(tmp_path / "site"), FLAGGEMS_CACHE_DIR=str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_embedded_texts_are_the_files(tmp_path: Path) -> None:
    """What setup.py writes for a kernel text is that text, byte by byte."""
    tree = tmp_path / "tree"
    (tree / "kernels/cpu").mkdir(parents=True)
    (tree / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
    texts = {
        "a.cu": b'quotes " and \\ backslash\n\ttab ??/ trigraph\n',
        "cpu/b.h": bytes(range(1, 256)) + b"0\n\n",
        "empty.cuh": b"",
    }
    for name, text in texts.items():
        (tree / "kernels" / name).write_bytes(text)
    code = (
        "import setuptools; setuptools.setup = lambda **k: None\n"
        "import runpy; print(runpy.run_path('setup.py')['embedded_source']())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True)
    main = (
        '\n#include <stdio.h>\nint main(void) { for (const gems_embedded *f = gems_embedded_files; f->path; f++) {'
        ' printf("%s %zu\\n", f->path, f->size); fwrite(f->text, 1, f->size, stdout); } return 0; }\n'
    )
    source, program = tmp_path / "embedded.c", tmp_path / "program"
    source.write_text(done.stdout + main)
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run([*compiler, "-std=c11", f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True)
    out = subprocess.run([str(program)], capture_output=True, check=True).stdout
    assert out == b"".join(f"{name} {len(text)}\n".encode() + text for name, text in sorted(texts.items()))
