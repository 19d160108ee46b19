"""Compiling for a GPU without one: NVRTC found, programs compiled, errors told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import native
import sass
from native import GemsError

KERNEL = """
extern "C" __global__ void {name}(float *p, int n) {{
    __shared__ float held[64];
    held[threadIdx.x & 63] = n;
    __syncthreads();
    if (threadIdx.x < n) p[threadIdx.x] += held[(threadIdx.x + {shift}) & 63];
}}
"""

# Opens the backend in a process of its own and prints what came of it as JSON. argv: the library; what to do.
PROBE = r"""
import ctypes as C, json, sys
sys.path.insert(0, sys.argv[2])
import native
for path in sys.argv[4:]:
    C.CDLL(path)
backend = native.Backend(sys.argv[1], "cuda")
native.set_search_path(backend, json.loads(sys.argv[3]))
out = {"error": None}
try:
    backend.open()
    out["where"] = backend.describe()
    out["arch"] = backend.identity("sm_90").arch.decode()
    out["unknown"] = backend.identity("sm_120").arch.decode()
    code = backend.compile('extern "C" __global__ void one(float *p) { *p = 1.0f; }', ["one"], "sm_90")
    out["bytes"] = len(code.data)
except native.GemsError as error:
    out["error"] = str(error)
print(json.dumps(out))
"""


def probe(
    packages: list[Path] | None = None, env: dict[str, str] | None = None, loaded: list[Path] | None = None
) -> dict:
    """What a new process finds; without the environment's wheels unless `packages` names them."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "FLAGGEMS_", "LD_LIBRARY"))}
    done = subprocess.run(
        [
            *(sys.executable, "-S", "-c", PROBE, str(native.backend_library()), str(Path(__file__).parent)),
            *(json.dumps([str(p) for p in packages or []]), *map(str, loaded or [])),
        ],
        capture_output=True,
        text=True,
        env=clean | (env or {}),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def real_library() -> Path:
    """The NVRTC that the tests compile with."""
    first = native.cuda().describe().splitlines()[0]
    return Path(first.split(": ", 1)[1])


def put_nvrtc(folder: Path, release: tuple[int, int], builtins: bool = True, name: str | None = None) -> Path:
    """A stand-in libnvrtc that knows its version, with or without the builtins beside it."""
    major, minor = release
    source = native.build(
        f"nvrtc-{major}.{minor}.so",
        (native.FAKES / "fake_nvrtc.c",),
        (f"-DMAJOR={major}", f"-DMINOR={minor}"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    if builtins:
        shutil.copy(source, folder / f"libnvrtc-builtins.so.{major}.{minor}")
    return Path(shutil.copy(source, folder / (name or f"libnvrtc.so.{major}")))


# ---- programs ----


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_report_is_what_the_code_says(arch: str) -> None:
    code = native.cuda().compile(
        KERNEL.format(name="a", shift=1) + KERNEL.format(name="b", shift=2), ["a", "b"], arch
    )
    kernels = sass.kernels_of(code.data, arch)
    report = code.report
    assert report.registers == max(k.registers for k in kernels.values())
    assert report.shared_bytes == 256
    assert report.spill_bytes == 0
    assert report.instructions == sum(len(k.instructions) for k in kernels.values())
    assert report.milliseconds > 0


def test_spills_are_reported() -> None:
    body = "\n".join(f"float v{i} = p[{i} * n];" for i in range(64))
    text = f"""extern "C" __global__ void __launch_bounds__(1024, 2) full(float *p, int n) {{
        {body}
        __syncthreads();
        {"".join(f"p[{i}] = v{i} * v{63 - i} + v{(i * 7) % 64};" for i in range(64))}
    }}"""
    code = native.cuda().compile(text, ["full"], "sm_80")
    assert code.report.registers <= 32
    assert code.report.spill_bytes > 0
    assert sass.kernels_of(code.data, "sm_80")["full"].spill_bytes > 0


def test_identity() -> None:
    backend = native.cuda()
    for asked, given in [
        ("sm_80", "sm_80"),
        ("sm_90a", "sm_90a"),
        ("sm_90", "sm_90a"),
        ("sm_100", "sm_100a"),
        ("sm_120", "sm_120"),
        ("sm_120a", "sm_120a"),
        ("compute_90", "compute_90"),
        ("compute_80", "compute_80"),
    ]:
        identity = backend.identity(asked)
        assert identity.arch.decode() == given
        assert f"--gpu-architecture={given} " in identity.options.decode()
        assert identity.compiler.decode().startswith("nvrtc ")
        release = int(identity.compiler.decode().split()[1].split(".")[0])
        assert ("--no-cache" in identity.options.decode()) == (release >= 13), "else it writes into HOME"
    for wrong in ("sm_90x", "90", "sm_", "sm_90aa", "gfx90a", "", "sm_99999", "x" * 100):
        with pytest.raises(GemsError, match="is no CUDA architecture"):
            backend.identity(wrong)


def test_arch_that_nvrtc_does_not_know() -> None:
    code = native.cuda().compile(KERNEL.format(name="k", shift=1), ["k"], "sm_190")
    assert code.arch.startswith("compute_1")
    assert b".entry k(" in code.data and code.data.endswith(b"\0")
    assert code.report.registers == code.report.instructions == code.report.spill_bytes == -1
    with pytest.raises(GemsError, match=r"compiles for sm_\d+ and later, not for sm_20"):
        native.cuda().identity("sm_20")


def test_same_text_gives_the_same_code() -> None:
    text = KERNEL.format(name="k", shift=3)
    assert (
        native.cuda().compile(text, ["k"], "sm_90a").data == native.cuda().compile(text, ["k"], "sm_90a").data
    )


def test_threads_compile_at_once() -> None:
    texts = {f"k{i}": KERNEL.format(name=f"k{i}", shift=i) for i in range(12)}

    def compile_one(name: str) -> bytes:
        try:
            return native.cuda().compile(texts[name], [name], "sm_90a").data
        except GemsError as error:
            return str(error).encode()

    def fail_one(name: str) -> str:
        with pytest.raises(GemsError) as failure:
            native.cuda().compile(f"int {name} = ;", [name], "sm_90a", name=f"op {name}")
        return str(failure.value)

    with ThreadPoolExecutor(6) as pool:
        good = pool.map(compile_one, texts)
        bad = pool.map(fail_one, texts)
        at_once, errors = list(good), list(bad)
    assert at_once == [compile_one(name) for name in texts]
    for name, error in zip(texts, errors, strict=True):
        assert error.startswith(f"op {name}:") and f"int {name} = ;" in error


def test_broken_expression_tells_all() -> None:
    lines = ["typedef float T;"] * 300 + ['#line 1 "elementwise.cu"'] + ["// body"] * 40
    lines += ["__device__ float apply(float a, float b) { return a + ; }"] + ["// more"] * 40
    with pytest.raises(GemsError) as failure:
        native.cuda().compile("\n".join(lines), ["k"], "sm_90a", name="add.Tensor dense float32")
    text = str(failure.value)
    assert text.startswith("add.Tensor dense float32: NVRTC")
    assert "sm_90a" in text and "NVRTC_ERROR_COMPILATION" in text
    assert "elementwise.cu(41): error: expected an expression" in text
    assert ">    41 | __device__ float apply(float a, float b) { return a + ; }" in text
    assert "     45 | // more" in text and "     46 | // more" not in text
    assert "typedef" not in text


def test_listings() -> None:
    def broken(text: str) -> str:
        with pytest.raises(GemsError) as failure:
            native.cuda().compile(text, ["k"], "sm_80")
        return str(failure.value)

    short = broken("int a;\nint b = ;")
    assert "      1 | int a;\n>     2 | int b = ;" in short, "a short text is shown whole"
    long = broken("\n" * 200 + "int x = ;" + "\n" * 200 + '# 7 "tile.cuh"\nint y = ;\n' + "\n" * 100)
    assert "  program.cu\n" in long and ">   201 | int x = ;" in long
    assert "  tile.cuh\n" in long and ">     7 | int y = ;" in long
    assert "    210 |" not in long
    many = broken("int a = ;\n" * 5000)
    assert len(many) < 20000, "an error's text stays readable"


def test_entry_that_is_not_there() -> None:
    with pytest.raises(GemsError, match="the program has no kernel other"):
        native.cuda().compile(KERNEL.format(name="k", shift=1), ["k", "other"], "sm_80")


# ---- where NVRTC is ----


def test_no_environment(tmp_path: Path) -> None:
    """CUDA_HOME unset, a HOME and a TMPDIR that nothing may be written to, of non-ASCII names."""
    home = tmp_path / "Ünïcødé 家"
    home.mkdir()
    packages = [Path(p) for p in sys.path if Path(p, "nvidia").is_dir()]
    env = {"HOME": str(home), "TMPDIR": str(home), "PATH": "", "CUDA_HOME": ""}
    env["FLAGGEMS_CUDA_LIBRARY"] = "/nowhere"  # a driver writes into HOME by itself
    env |= {"FLAGGEMS_NVRTC_LIBRARY": "" if packages else str(real_library())}
    found = probe(packages, env)
    assert found["error"] is None and found["bytes"] > 1000
    assert list(home.iterdir()) == []


def test_library_apart_from_its_builtins(tmp_path: Path) -> None:
    """A link to the library alone: its builtins lie beside the file that it leads to."""
    home = tmp_path / "家"
    home.mkdir()
    link = home / "libnvrtc.so"
    link.symlink_to(real_library().resolve())
    found = probe(env={"FLAGGEMS_NVRTC_LIBRARY": str(link)})
    assert found["error"] is None and str(link) in found["where"]


def test_order_of_the_search(tmp_path: Path) -> None:
    site = tmp_path / "site"
    toolkit = tmp_path / "cuda"
    env = {"CUDA_HOME": str(tmp_path / "none"), "CUDA_PATH": str(toolkit)}
    apart = put_nvrtc(tmp_path / "torch" / "lib", (12, 4), name="libnvrtc-672ee683.so.12")
    put_nvrtc(toolkit / "lib64", (12, 1))
    found = probe([site], env)
    assert str(toolkit / "lib64") in found["where"] and "12.1" in found["where"]
    put_nvrtc(site / "nvidia" / "cuda_nvrtc" / "lib", (12, 8))
    assert "cuda_nvrtc" in probe([site], env)["where"]
    put_nvrtc(site / "nvidia" / "cu13" / "lib", (13, 0))
    assert "cu13" in probe([site], env)["where"]
    put_nvrtc(site / "nvidia" / "cu14" / "lib", (14, 1))
    assert "cu14" in probe([tmp_path / "none", site], env)["where"]
    assert str(apart) in probe([site], env, [apart])["where"], "what torch has loaded comes first"


def test_builtins_that_do_not_fit(tmp_path: Path) -> None:
    """A library without its builtins is passed over; when there is no other, the error names them."""
    site = tmp_path / "site"
    lone = put_nvrtc(tmp_path / "torch", (13, 91), builtins=False)
    (tmp_path / "torch" / "libnvrtc-builtins.so.13.0").write_bytes(b"")
    env = {"CUDA_HOME": str(tmp_path / "none")}
    whole = put_nvrtc(site / "nvidia" / "cu13" / "lib", (13, 0))
    assert str(whole) in probe([site], env, [lone])["where"]
    shutil.rmtree(site)
    beside = tmp_path / "links"
    put_nvrtc(beside, (13, 91)).unlink()
    (beside / "libnvrtc.so").symlink_to(lone)
    assert "may not work" not in probe(env={"FLAGGEMS_NVRTC_LIBRARY": str(beside / "libnvrtc.so")})["where"]
    found = probe(env={"FLAGGEMS_NVRTC_LIBRARY": str(lone)})
    assert "NVRTC may not work: libnvrtc-builtins.so.13.91" in found["where"]
    assert "BUILTIN_OPERATION_FAILURE" in found["error"]
    assert "libnvrtc-builtins.so.13.91, which NVRTC 13.91 needs" in found["error"]


def test_archs_of_an_older_nvrtc(tmp_path: Path) -> None:
    old = put_nvrtc(tmp_path, (12, 2))
    found = probe(env={"FLAGGEMS_NVRTC_LIBRARY": str(old)})
    assert found["arch"] == "sm_90a"
    assert found["unknown"] == "compute_90", "PTX of the highest arch that it knows"


def test_nothing_found(tmp_path: Path) -> None:
    """The error lists every place; where the machine itself has an NVRTC, that one is found last."""
    site, home = tmp_path / "site", tmp_path / "cuda"
    (site / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    (home / "lib64").mkdir(parents=True)
    (home / "lib64" / "libnvrtc.so.12").write_bytes(b"no library")
    found = probe([site], {"CUDA_HOME": str(home)})
    if found["error"] is None:
        assert str(tmp_path) not in found["where"]
        return
    for line in (
        "NVRTC was not found; install it with `pip install nvidia-cuda-nvrtc`",
        "loaded in this process: no libnvrtc",
        f"{site}/nvidia/cu13/lib: no libnvrtc.so",
        f"{site}/nvidia/cuda_nvrtc/lib: no such directory",
        f"CUDA_HOME: {home}",
        f"{home}/lib64/libnvrtc.so.12: file too short",
        f"{home}/targets/x86_64-linux/lib: no such directory",
        "CUDA_PATH: not set",
        "libnvrtc.so.13: cannot open shared object file",
        "libnvrtc.so.12: cannot open shared object file",
        "libnvrtc.so.11.2: cannot open shared object file",
    ):
        assert line in found["error"]


def test_named_library_is_the_only_one() -> None:
    found = probe([Path(p) for p in sys.path], {"FLAGGEMS_NVRTC_LIBRARY": "/nowhere/libnvrtc.so"})
    assert "FLAGGEMS_NVRTC_LIBRARY:\n  /nowhere/libnvrtc.so: cannot open" in found["error"]
    assert "wheels" not in found["error"]


def test_library_of_another_kind(tmp_path: Path) -> None:
    other = native.FakeDriver().path
    found = probe(env={"FLAGGEMS_NVRTC_LIBRARY": str(other)})
    assert "has no nvrtcVersion" in found["error"]


def test_extension_looks_in_sys_path(tmp_path: Path) -> None:
    """No library of the wheels' directory is loaded: only sys.path leads there (a venv over system packages)."""
    extension = importlib.util.find_spec("flag_gems._C").origin
    library = put_nvrtc(tmp_path / "site" / "nvidia" / "cu99" / "lib", (99, 1))
    text = """
import importlib.machinery, importlib.util, sys
sys.path.append(sys.argv[2])
loader = importlib.machinery.ExtensionFileLoader("flag_gems._C", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("flag_gems._C", loader))
print(module.backends())
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text, extension, str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env={"PATH": "", "FLAGGEMS_CUDA_LIBRARY": "/nowhere"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert str(library) in done.stdout
