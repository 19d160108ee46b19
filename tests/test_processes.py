"""The whole library in processes of its own: warmed, on a cold cache, in many threads, with a broken kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Some operators of several families, held to ATen's results.
WORK = """
import json, numpy, torch, flag_gems
from flag_gems import _C
torch.manual_seed(0)
x, y = torch.randn(70, 33), torch.randn(33, 70)
calls = [
    lambda: x + x, lambda: torch.sigmoid(x), lambda: torch.mm(x, y), lambda: torch.softmax(x, -1),
    lambda: x.sum(1), lambda: torch.cat([x, x]),
]
expected = [call() for call in calls]
def check(k):  # with NumPy: comparing calls no operator
    numpy.testing.assert_allclose(calls[k]().numpy(), expected[k].numpy(), rtol=1e-4, atol=1e-4)
flag_gems.enable()
"""
CHECK = """
for k in range(len(calls)):
    check(k)
assert not any(count["fallback"] for count in flag_gems.stats().values()), flag_gems.stats()
print(json.dumps(_C.jit_stats()))
"""


def start(code: str, cache: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=dict(os.environ, FLAGGEMS_CACHE_DIR=str(cache), GEMS_VENDOR="cpu", **env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, float], str]:
    """The last line of a process, which is JSON, and what it wrote to standard error."""
    out, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1]), error


def test_after_warmup_nothing_is_compiled(tmp_path: Path) -> None:
    names = "add.Tensor,sigmoid,mm"
    command = [sys.executable, "-m", "flag_gems", "warmup", "--arch", "cpu", "--ops", names, "--dtypes", "float32"]
    env = dict(os.environ, FLAGGEMS_CACHE_DIR=str(tmp_path))
    done = subprocess.run([*command, "--json"], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    code = WORK.replace("expected", "calls = calls[:3]\nexpected", 1) + CHECK
    stats, _ = finish(start(code, tmp_path, FLAGGEMS_ASSERT_COMPILED="1"))
    assert stats["compiled"] == 0 and stats["failed"] == 0
    assert stats["disk_hits"] == stats["loaded"] >= 3


def test_a_compile_that_was_forbidden_says_which(tmp_path: Path) -> None:
    code = WORK + (
        "try: torch.sigmoid(x)\n"
        "except RuntimeError as error: print(json.dumps(str(error)))\n"
        "else: raise SystemExit('it compiled')\n"
    )
    text, _ = finish(start(code, tmp_path, FLAGGEMS_ASSERT_COMPILED="1"))
    assert "FLAGGEMS_ASSERT_COMPILED" in text and "sigmoid" in text and "not in the cache" in text


def test_sixteen_processes_on_a_cold_cache(tmp_path: Path) -> None:
    """All are right, whoever compiles; afterwards the cache has each program once and whole. Without torch, which takes
    long to import."""
    code = (
        "import json, sys; sys.modules['torch'] = None\n"
        "import numpy, flag_gems\n"
        "from flag_gems import ops\n"
        "x = numpy.random.default_rng(0).standard_normal((70, 33), dtype=numpy.float32)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "assert (ops.add(x, x) == x + x).all()\n"
        "assert numpy.allclose(ops.mm(x, x.T), x @ x.T, atol=1e-4)\n"
        "print(json.dumps(flag_gems._C.jit_stats()))\n"
    )
    processes = [start(code, tmp_path) for _ in range(16)]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [finish(process)[0] for process in processes]
    assert all(stats["failed"] == 0 and stats["loaded"] == 2 for stats in found), found
    assert all(stats["compiled"] + stats["disk_hits"] == 2 for stats in found), found
    last = start(code, tmp_path, FLAGGEMS_ASSERT_COMPILED="1")
    stats, _ = finish(last)
    assert (stats["compiled"], stats["disk_hits"]) == (0, 2)
    entries = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(entries) == 2, entries


def test_threads_on_cold_operators_compile_each_program_once(tmp_path: Path) -> None:
    code = WORK + (
        "import threading\n"
        "gate, wrong = threading.Barrier(8), []\n"
        "def loop(first):\n"
        "    gate.wait()\n"
        "    for i in range(len(calls)):\n"
        "        k = (first + i) % len(calls)\n"
        "        try: check(k)\n"
        "        except Exception as error: wrong.append(repr(error))\n"
        "threads = [threading.Thread(target=loop, args=(i,)) for i in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert not wrong, wrong\n"
        "assert not any(count['fallback'] for count in flag_gems.stats().values()), flag_gems.stats()\n"
        "print(json.dumps(_C.jit_stats()))\n"
    )
    threads, _ = finish(start(code, tmp_path / "threads"))
    alone, _ = finish(start(WORK + CHECK, tmp_path / "alone"))
    assert threads["compiled"] == threads["loaded"] == alone["compiled"] == alone["loaded"] > 0
    assert threads["disk_hits"] == threads["failed"] == 0


def broken_kernels(target: Path) -> Path:
    """A copy of the kernel texts in which elementwise operators do not compile."""
    shutil.copytree(ROOT / "kernels", target)
    with open(target / "elementwise.cu", "a") as file:
        file.write("\nthis_is_no_type broken;\n")
    return target


def test_a_broken_kernel_names_operator_dtypes_source_and_log(tmp_path: Path) -> None:
    """ATen's kernel runs instead, the error is told once, and the next call does not try again."""
    code = WORK + ("check(1); check(1); check(2)\nprint(json.dumps([_C.jit_stats(), flag_gems.stats()]))\n")
    kernels = broken_kernels(tmp_path / "kernels")
    (jit, stats), told = finish(start(code, tmp_path / "cache", GEMS_KERNEL_DIR=str(kernels)))
    assert jit["failed"] == 1 and stats["sigmoid"] == {"kernel": 0, "fallback": 2}
    assert stats["mm"] == {"kernel": 1, "fallback": 0}, "other families are not concerned"
    first = told.index("this_is_no_type")
    assert "sigmoid" in told[:first] and "float32" in told[:first], "operator and dtypes"
    number = len((kernels / "elementwise.cu").read_text().splitlines())
    assert f">{number:5} | this_is_no_type broken;" in told, "the numbered source"
    assert f"elementwise.cu:{number}" in told, "the log"
    assert told.count("no kernel, ATen's runs instead") == 1


def test_import_needs_no_torch_no_compiler_no_gpu(tmp_path: Path) -> None:
    """In a bare environment: torch cannot be imported, PATH is empty, the home is read nowhere."""
    code = (
        "import json, sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'triton', 'rich', 'yaml'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import flag_gems\n"
        "seen = flag_gems._C.jit_stats()\n"
        "assert not flag_gems.has_torch and 'torch' not in sys.modules\n"
        "opened = open('/proc/self/maps').read()\n"
        "assert 'libcuda' not in opened and 'libnvrtc' not in opened\n"
        "assert flag_gems.config.has_c_extension and flag_gems.info()['torch'] is None\n"
        "from flag_gems import *\n"
        "print(json.dumps(seen))\n"
    )
    home = tmp_path / "no-home"
    env = {
        "PATH": str(tmp_path / "nothing"),
        "HOME": str(home),
        "CUDA_CACHE_DISABLE": "1",  # the driver's own, made when info() asks for devices
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        **{name: value for name, value in os.environ.items() if name.startswith(("GEMS_SAN", "ASAN", "UBSAN", "LD_"))},
    }
    # What the interpreter itself writes at its start (a sitecustomize of the machine's, say) is not ours.
    subprocess.run([sys.executable, "-c", "import numpy"], env=env, capture_output=True, timeout=120)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout.splitlines()[-1])
    assert stats["compiled"] == stats["loaded"] == stats["failed"] == 0
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
