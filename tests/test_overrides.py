"""Scopes over the registration: what is open when, what is restored, names, lists, counters, log records."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flag_gems
import pytest
import torch
from flag_gems import _C, overrides

from opinfo import of_this_torch

DEVICE = flag_gems.device


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    flag_gems.disable()
    flag_gems.reset_stats()
    yield
    flag_gems.disable()


def runs(name: str = "mm") -> bool:
    """True when torch's operator runs our kernel now."""
    flag_gems.reset_stats()
    x = torch.ones(2, 2, device=DEVICE)
    {"mm": lambda: torch.mm(x, x), "add.Tensor": lambda: torch.add(x, x), "mul.Tensor": lambda: torch.mul(x, x)}[name]()
    return flag_gems.stats().get(name, {}).get("kernel", 0) == 1


def test_enable_and_disable() -> None:
    assert not runs()
    flag_gems.enable()
    assert runs() and runs("add.Tensor")
    flag_gems.enable()
    assert runs()
    flag_gems.disable()
    assert not runs() and not runs("add.Tensor")


def test_leaving_out() -> None:
    flag_gems.enable(unused=["mm"])
    assert not runs() and runs("mul.Tensor")
    flag_gems.enable(exclude=["mul.Tensor"])
    assert runs() and not runs("mul.Tensor")
    flag_gems.only_enable(include=["mm"])
    assert runs() and not runs("mul.Tensor")
    flag_gems.only_enable(include=["aten::mul.Tensor"])
    assert not runs() and runs("mul.Tensor")


def test_an_overload_by_its_aten_name() -> None:
    x, out = torch.ones(2, 2, device=DEVICE), torch.empty(2, 2, device=DEVICE)
    with flag_gems.use_gems(exclude=["mm.out"]):
        torch.mm(x, x)
        torch.mm(x, x, out=out)
    assert flag_gems.stats() == {"mm": {"kernel": 1, "fallback": 0}}


@pytest.mark.parametrize("argument", ["exclude", "include", "unused"])
def test_unknown_names_are_errors(argument: str) -> None:
    with pytest.raises(ValueError, match="no such operator: mmm"), flag_gems.use_gems(**{argument: ["mmm"]}):
        pass
    assert not any(_C.gates())


def test_unknown_names_for_enable() -> None:
    for call in (
        lambda: flag_gems.enable(unused=["nonsense"]),
        lambda: flag_gems.enable(include=["nonsense"]),
        lambda: flag_gems.only_enable(include=["nonsense"]),
    ):
        with pytest.raises(ValueError, match="nonsense"):
            call()
    assert not any(_C.gates())


@pytest.mark.parametrize("text", ["exclude:\n  - mm  # slow\n  - 'add'\n", "exclude: [mm, 'add']\nother:\n- mul\n"])
def test_names_from_a_yaml_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    for given in (path, str(path)):
        with flag_gems.use_gems(exclude=given):
            assert not runs() and not runs("add.Tensor") and runs("mul.Tensor")
    path.write_text("include:\n- mm\n")
    with flag_gems.use_gems(include=path):
        assert runs() and not runs("mul.Tensor")
    path.write_text("include: [mm]\n")
    with flag_gems.use_gems(exclude=path):  # no such key: nothing is left out
        assert runs() and runs("mul.Tensor")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exclude: [mm", "is no YAML file"),
        ("- mm\n", "expected keys such as 'exclude:', found list"),
        ("exclude: mm\n", "expected a list of names under 'exclude:'"),
        ("exclude:\n- 3\n", "expected a list of names under 'exclude:'"),
    ],
)
def test_a_yaml_file_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message), flag_gems.use_gems(exclude=path):
        raise AssertionError


def test_scopes_nest_and_restore_exactly() -> None:
    states = [_C.gates()]
    with flag_gems.use_gems(include=["mm", "add"]):
        states.append(_C.gates())
        with flag_gems.use_gems(exclude=["mm"]):
            states.append(_C.gates())
            assert not runs() and runs("mul.Tensor")
            with flag_gems.use_gems(include=["mm"]):
                assert runs() and not runs("add.Tensor")
            assert _C.gates() == states[2]
        assert _C.gates() == states[1]
        assert runs() and runs("add.Tensor") and not runs("mul.Tensor")
    assert _C.gates() == states[0]
    assert not runs()


def test_a_scope_inside_enable() -> None:
    flag_gems.enable(exclude=["mul"])
    before = _C.gates()
    with flag_gems.use_gems(["mm"]):
        assert not runs() and runs("mul.Tensor")
    assert _C.gates() == before
    assert runs() and not runs("mul.Tensor")


def test_a_scope_is_left_when_its_body_raises() -> None:
    with pytest.raises(KeyError), flag_gems.use_gems():
        raise KeyError
    assert not any(_C.gates())


def test_a_scope_can_be_entered_again() -> None:
    scope = flag_gems.use_gems(include=["mm"])
    for _ in range(3):
        with scope:
            assert runs()
            with scope:
                assert runs()
            assert runs()
        assert not runs()


def test_registrations_are_taken_back_with_the_last_scope() -> None:
    code = (
        "import torch, flag_gems\n"
        "dump = lambda: torch._C._dispatch_dump('aten::mm') + torch._C._dispatch_dump('aten::add.Tensor')\n"
        "before = dump()\n"
        "with flag_gems.use_gems():\n"
        "    assert dump() != before\n"
        "    with flag_gems.use_gems(['mm']): pass\n"
        "    assert dump() != before\n"
        "assert dump() == before\n"
        "flag_gems.enable(); flag_gems.disable()\n"
        "assert dump() != before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Overriding a previously registered kernel" not in done.stderr


def test_gems_disable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMS_DISABLE", "mm, add.Tensor")
    assert "mm" not in flag_gems.all_ops() and "mul.Tensor" in flag_gems.all_ops()
    flag_gems.enable()
    assert not runs() and not runs("add.Tensor") and runs("mul.Tensor")
    monkeypatch.setenv("GEMS_DISABLE", "nonsense")
    with pytest.raises(ValueError, match="GEMS_DISABLE: no such operator: nonsense"):
        flag_gems.enable()


def test_lists_of_what_is_registered() -> None:
    assert {"mm", "mm.out", "add.Tensor", "add_.Tensor"} <= set(flag_gems.all_ops())
    assert flag_gems.all_registered_keys() == flag_gems.all_ops()
    assert {"mm", "mm_out", "add", "add_"} <= set(flag_gems.all_registered_ops())
    with flag_gems.use_gems(include=["mm"]):
        assert flag_gems.all_ops() == ["mm"]
        assert "mm" in flag_gems.current_work_registrar.get_all_ops()
        assert flag_gems.current_work_registrar.get_all_keys() == ["mm"]


def test_counters() -> None:
    flag_gems.enable()
    x = torch.ones(2, 2, device=DEVICE)
    for _ in range(3):
        torch.mm(x, x)
    z = torch.ones(2, 2, dtype=torch.complex64, device=DEVICE)
    torch.mm(z, z)
    assert flag_gems.stats()["mm"] == {"kernel": 3, "fallback": 1}
    flag_gems.reset_stats()
    assert flag_gems.stats() == {}


def test_explain_tells_what_ran() -> None:
    x = torch.ones(3, 3, device=DEVICE)

    def work(a: torch.Tensor, scale: float) -> torch.Tensor:
        torch.mm(a.to(torch.complex64).conj(), a.to(torch.complex64))
        return torch.mm(a, a.t()) * scale

    table = flag_gems.explain(work, x, scale=2.0)
    assert torch.equal(table.result, torch.full((3, 3), 6.0, device=DEVICE))
    ran = {(line.operator, line.ran) for line in table}
    assert ("mm", "kernel") in ran and ("mul.Tensor", "kernel") in ran
    assert any(operator == "mm" and what.startswith("fallback: ") for operator, what in ran)
    strided = [line for line in table if line.operator == "mm" and line.ran == "kernel"]
    assert strided[0].shapes == "strided float32" and strided[0].calls == 1
    assert "operator" in str(table) and "fallback: " in str(table)
    assert not any(_C.gates())


def test_info() -> None:
    found = flag_gems.info()
    assert found["torch"] == torch.__version__ and found["operators"] == len(_C.rows())
    assert {backend["name"] for backend in found["backends"]} == {"cpu", "cuda", "null"}
    assert found["cache"]["entries"] >= 0 and found["device"] == flag_gems.device


# ---- log records ----


def test_records_go_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.log"
    x = torch.ones(2, 2, device=DEVICE)
    with flag_gems.use_gems(record=True, path=path):
        for _ in range(2):
            torch.mm(x, x)
        x.add_(x)
    torch.mm(x, x)
    assert path.read_text().splitlines() == [
        "[DEBUG] flag_gems.ops.mm.mm: GEMS MM",
        "[DEBUG] flag_gems.ops.mm.mm: GEMS MM",
        "[DEBUG] flag_gems.ops.add.add_: GEMS ADD_",
    ]


def test_once_is_one_line_a_call_site(tmp_path: Path) -> None:
    path = tmp_path / "calls.log"
    x = torch.ones(2, 2, device=DEVICE)
    with flag_gems.use_gems(record=True, once=True, path=path):
        for _ in range(5):
            torch.mm(x, x)
        torch.mm(x, x)
    assert len(path.read_text().splitlines()) == 2


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from flag_gems import logging_utils

    logging_utils.setup_flaggems_logging(record=True)
    with flag_gems.use_gems():
        torch.mm(torch.ones(2, 2, device=DEVICE), torch.ones(2, 2, device=DEVICE))
    logging_utils.teardown_flaggems_logging()
    assert (tmp_path / ".flaggems" / "oplist.log").read_text().count("GEMS MM") == 1


@pytest.mark.parametrize("logger", ["flag_gems.ops.mm", "flag_gems.ops", "flag_gems", None])
def test_records_without_a_file(logger: str | None, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.ones(2, 2, device=DEVICE)
    with flag_gems.use_gems(include=["mm"]):
        torch.mm(x, x)
        assert not [r for r in caplog.records if r.name.startswith("flag_gems.ops")]
        with caplog.at_level(logging.DEBUG, logger=logger):
            torch.mm(x, x)
            flag_gems.ops.mm(x, x)
        torch.mm(x, x)
    records = [r for r in caplog.records if r.name == "flag_gems.ops.mm"]
    assert [(r.funcName, r.getMessage(), r.levelno) for r in records] == [("mm", "GEMS MM", logging.DEBUG)] * 2
    assert os.path.basename(records[0].pathname) == "test_overrides.py"


# ---- the rules of registration ----


def test_what_may_not_be_registered() -> None:
    why = overrides.why_not
    assert why("mm", "mm(Tensor self, Tensor mat2) -> Tensor", "CPU") is None
    assert "no such operator" in str(why("bitwise_left_shift", "bitwise_left_shift(Tensor self) -> Tensor", "CPU"))
    assert "differs" in str(why("mm", "mm(Tensor self, Tensor other) -> Tensor", "CPU"))
    composite = "outer(Tensor self, Tensor vec2) -> Tensor"
    assert "cut its gradient" in str(why("outer", composite, "CPU"))


OLDER = """
import torch, flag_gems
from flag_gems import _C, overrides
entry = next(e for e in _C.entries() if e["name"] == "_flash_attention_forward")
overrides._schema_of_torch = lambda name: "aten::" + entry["schema"]
assert overrides.shortened(entry["name"], entry["schema"]) == (entry["schema"], 17)
theirs = "aten::" + entry["schema"].replace(", Tensor? block_table=None, int? num_splits=None", "")
overrides._schema_of_torch = lambda name: theirs
assert overrides.shortened(entry["name"], entry["schema"]) == (theirs[6:], 15)
assert overrides.shortened("x", entry["schema"].replace("int? num_splits=None", "int num_splits=1"))[1] == 17
overrides.has_kernel = lambda *args: True
registrations = overrides._Registrations()
assert registrations.usable([entry["index"]]) == [entry["index"]], registrations.refused
assert not _C.shorten(entry["index"], 9) and _C.shorten(entry["index"], 15)
q = torch.randn(1, 5, 2, 8)
out = flag_gems.flash_attention_forward(q, q, q, None, None, 5, 5, 0.0, False, False, scale=0.5)[0]
exact = torch.nn.functional.scaled_dot_product_attention(*[q.transpose(1, 2)] * 3, scale=0.5)
torch.testing.assert_close(out, exact.transpose(1, 2))
"""


def test_an_older_torch_has_fewer_arguments() -> None:
    done = subprocess.run([sys.executable, "-c", OLDER], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_what_torch_has_no_kernel_of_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """narrow_copy.out is the CPU's alone: elsewhere torch's own error is to be raised."""
    index = next(entry["index"] for entry in _C.entries() if entry["name"] == "narrow_copy.out")
    assert overrides.has_kernel("narrow_copy.out", "CPU")
    if flag_gems.device == "cpu":
        assert overrides._Registrations().usable([index]) == [index]
    monkeypatch.setattr(overrides, "has_kernel", lambda name, key: False)
    registrations = overrides._Registrations()
    assert registrations.usable([index]) == [] and "no kernel" in registrations.refused[index]


def test_every_overload_of_the_table_is_registered() -> None:
    wrong = {}
    for entry in filter(of_this_torch, _C.entries()):
        reason = overrides.why_not(entry["name"], entry["schema"], "CPU")
        if reason:
            wrong[entry["name"]] = reason
    assert not wrong
    names = [entry["name"] for entry in _C.entries()]
    assert len(names) == len(set(names))


def test_a_user_of_the_same_operator_is_given_back_its_kernel() -> None:
    """On the CPU, and on the CPU's key."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("tril", lambda x, diagonal=0: torch.full((1,), 7.0), "CPU")
    try:
        assert torch.tril(torch.ones(2, 2)).item() == 7
        with flag_gems.use_gems():
            pass
        assert torch.tril(torch.ones(2, 2)).item() == 7
    finally:
        library._destroy()


def test_importing_compiles_nothing_and_needs_no_compiler(tmp_path: Path) -> None:
    code = "import flag_gems; s = flag_gems._C.jit_stats(); assert not s['compiled'] and not s['loaded'], s"
    env = {**os.environ, "PATH": str(tmp_path), "CXX": "/nonexistent", "CUDA_HOME": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr


def test_importing_brings_little() -> None:
    """What some functions need (YAML, SymPy, the bench) is imported when they are called; nothing is compiled."""
    code = (
        "import sys, torch, numpy, numpy.random\n"
        "before = set(sys.modules)\n"
        "import flag_gems\n"
        "print(flag_gems._C.jit_stats()['compiled'], *sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    compiled, *modules = done.stdout.split()
    assert compiled == "0"
    assert {name.partition(".")[0] for name in modules} == {"flag_gems"}, modules
    assert not any(name.startswith(("flag_gems.bench", "flag_gems.warm", "flag_gems.expressions")) for name in modules)


def test_without_torch_functions_take_arrays(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    code = (
        "import numpy as np, flag_gems\n"
        "assert not flag_gems.has_torch\n"
        "a = np.ones((3, 4), np.float32)\n"
        "assert (flag_gems.ops.mm(a, a.T) == 4).all() and (flag_gems.add(a, 1) == 2).all()\n"
        "assert flag_gems.info()['torch'] is None\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.pathsep.join(sys.path)}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
