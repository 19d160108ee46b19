"""Functions of flag_gems:: : the fused ones beside torch, the modules over them, torch.ops.flag_gems."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from flag_gems import _C, composites, fused, library, modules, own, rows, warm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass

DEVICE = flag_gems.device
F = torch.nn.functional
OPS = torch.ops.flag_gems

FUSED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "silu_and_mul": (fused.silu_and_mul, lambda x, y: F.silu(x) * y),
    "gelu_and_mul": (fused.gelu_and_mul, lambda x, y: F.gelu(x) * y),
    "gelu_and_mul tanh": (
        lambda x, y: fused.gelu_and_mul(x, y, approximate="tanh"),
        lambda x, y: F.gelu(x, approximate="tanh") * y,
    ),
}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


@pytest.mark.parametrize("name", FUSED)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 17, 130]), max_size=3),
    kept=st.lists(st.booleans(), min_size=3, max_size=3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    turned=st.booleans(),
)
def test_values_and_gradients(name: str, shape: list[int], kept: list[bool], dtype: torch.dtype, turned: bool) -> None:
    ours, reference = FUSED[name]
    x = draw(*shape, dtype=dtype)
    x = x.transpose(0, -1) if turned and x.dim() > 1 else x
    other = [n if k else 1 for n, k in zip(x.shape, kept, strict=False)]
    y = draw(*other, dtype=dtype, seed=1)
    weight = draw(*x.shape, dtype=dtype, seed=2)
    mine, wide = [t.clone().requires_grad_() for t in (x, y)], [t.double().requires_grad_() for t in (x, y)]
    result, expected = ours(*mine), reference(*wide)
    assert result.dtype == dtype and result.shape == expected.shape
    eps = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-12
    torch.testing.assert_close(result.double(), expected, rtol=2 * eps, atol=2 * eps)
    grads = torch.autograd.grad(result, mine, weight)
    wanted = torch.autograd.grad(expected, wide, weight.double())
    for grad, want in zip(grads, wanted, strict=True):
        assert grad.dtype == dtype
        terms = max(1, result.numel() // max(1, grad.numel()))
        torch.testing.assert_close(grad.double(), want, rtol=8 * eps, atol=8 * eps * terms)


@pytest.mark.parametrize("name", FUSED)
def test_gradients_of_gradients(name: str) -> None:
    x, y = draw(3, 4).requires_grad_(), draw(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(FUSED[name][0], (x, y))
    assert torch.autograd.gradgradcheck(FUSED[name][0], (x, y))


def test_one_kernel_each_way() -> None:
    x, y = draw(8, 33).requires_grad_(), draw(8, 33, seed=1).requires_grad_()
    flag_gems.reset_stats()
    fused.silu_and_mul(x, y).backward(draw(8, 33, seed=2))
    assert {name: c["kernel"] for name, c in flag_gems.stats().items()} == {
        "flag_gems::silu_and_mul": 1,
        "flag_gems::silu_and_mul_backward": 1,
    }


def test_out() -> None:
    x, y = draw(5, 7), draw(7, seed=1)
    out = torch.empty(7, 5, dtype=torch.float64, device=DEVICE).t()
    assert fused.silu_and_mul_out(x, y, out) is out
    torch.testing.assert_close(out, F.silu(x) * y)
    empty = torch.empty(0, dtype=torch.float64, device=DEVICE)
    assert fused.silu_and_mul_out(x, y, empty) is empty and empty.shape == (5, 7)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        fused.silu_and_mul_out(x.requires_grad_(), y, out)


def test_outer() -> None:
    x, y = draw(5).requires_grad_(), draw(7, seed=1).requires_grad_()
    torch.testing.assert_close(fused.outer(x, y), torch.outer(x, y))
    assert torch.autograd.gradcheck(fused.outer, (x, y))
    assert fused.outer(np.ones(3, np.float32), np.ones(2, np.float32)).shape == (3, 2)
    with pytest.raises(ValueError, match="two vectors"):
        fused.outer(x, draw(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rwkv_mm_sparsity(dtype: torch.dtype) -> None:
    k = draw(257, dtype=torch.float32).relu().square().to(dtype)
    v = draw(257, 33, dtype=torch.float32, seed=1).to(dtype)
    exact = k.double() @ v.double()
    torch.testing.assert_close(fused.rwkv_mm_sparsity(k, v).double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=1e-4)
    wanted = k.double().requires_grad_(), v.double().requires_grad_()
    assert torch.autograd.gradcheck(fused.rwkv_mm_sparsity, tuple(t[:9] for t in wanted))
    with pytest.raises(RuntimeError):
        fused.rwkv_mm_sparsity(k[:-1], v)


def test_arrays_of_numpy() -> None:
    x = np.linspace(-3, 3, 20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_allclose(fused.silu_and_mul(x, x), x * x / (1 + np.exp(-x)), rtol=1e-6)


def test_wrong_arguments() -> None:
    x = draw(3)
    with pytest.raises(RuntimeError, match=r"gelu_and_mul: .*a word that this operator does not know"):
        fused.gelu_and_mul(x, x, "erf")
    with pytest.raises(RuntimeError, match=r"silu_and_mul: .*the shapes do not broadcast"):
        fused.silu_and_mul(x, draw(4))


def test_module() -> None:
    x, y = draw(5, 7).requires_grad_(), draw(5, 7, seed=1)
    gate = modules.GemsSiluAndMul()
    torch.testing.assert_close(gate(x, y), F.silu(x) * y)
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    compiled(x, y).sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad((F.silu(x) * y).sum(), x)[0])
    torch.compiler.reset()


# ---- the table ----


def test_own_rows_are_no_aten_operators() -> None:
    """What is registered behind torch, listed or gated is aten's; own rows stand beside."""
    names = [row["schema"].split("(")[0] for row in rows.all_rows()]
    mine = [name for name in names if "::" in name]
    assert mine and all(name.startswith("flag_gems::") for name in mine)
    assert not any("::" in entry["name"] for entry in _C.entries())
    assert not any("::" in name for name in flag_gems.all_ops())
    assert len(_C.gates()) == len(_C.entries())
    with flag_gems.use_gems():
        fused.silu_and_mul(draw(3), draw(3))


@pytest.mark.parametrize("name", own.rows())
def test_every_own_row(name: str) -> None:
    """Each has torch's view: a schema that torch reads, a fake kernel, and a gradient that keeps to the rule."""
    operator = own.RowOperator(own.rows()[name])
    assert operator.elementwise or name in library.SHAPES or not operator.outputs
    packet = getattr(OPS, name)
    assert str(packet.default._schema).split("(")[0] == f"flag_gems::{name}"
    backward = own.rows().get(f"{name}_backward")
    if backward is None:
        return
    grads = set(own.grad_names(operator.outputs))
    taken = {p.name for p in own.parameters_of(backward["schema"])}
    assert operator.constant or grads <= taken
    assert taken - grads <= {p.name for p in operator.parameters} | set(operator.kept)
    tensors = [p for p in operator.parameters if p.type is None]
    assert 1 <= backward["schema"].rpartition("->")[2].count("Tensor") <= len(tensors)


@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_nvrtc_without_spills(arch: str) -> None:
    items = [
        warm.Item("cuda", arch, row["id"], "bfloat16") for row in own.rows().values() if row["family"] == "elementwise"
    ]
    for item in items:
        reports = warm.compile_item(item)
        assert reports
        for report in reports:
            assert report["error"] is None and report["spill_bytes"] == 0, report


# ---- torch.ops.flag_gems ----


def _x(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, dtype=torch.float32, seed=seed).requires_grad_()


def _of_one_sequence(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores.softmax(-1) @ v).transpose(0, 1), scores.logsumexp(-1)


def samples() -> Iterator[tuple[str, list[Any], dict[str, Any], Callable[..., Any]]]:
    """Overload, arguments, and what it stands for."""
    aten = torch.ops.aten
    index = torch.tensor([[1, 2], [0, 1]], device=DEVICE)
    plain = _x(3, 4).detach()
    yield "add_tensor", [_x(3, 4), _x(4, seed=1)], {"alpha": 2}, torch.add
    yield "add_tensor_inplace", [plain, _x(4).detach()], {}, torch.add
    yield "add_scalar", [_x(3), 2], {}, torch.add
    yield "add_scalar_inplace", [plain, 2, 3], {}, lambda x, y, a: torch.add(x, y, alpha=a)
    for name in ("div", "divide", "true_divide"):
        yield f"{name}.Tensor", [_x(3), _x(3, seed=1)], {}, torch.div
        yield f"{name}_.Tensor", [plain, plain + 9], {}, torch.div
    yield "div.Tensor_mode", [_x(3), _x(3, seed=1)], {"rounding_mode": "floor"}, torch.div
    yield "div_.Tensor_mode", [plain, plain + 9], {"rounding_mode": "trunc"}, torch.div
    yield "floor_divide", [plain, plain + 9], {}, torch.floor_divide
    yield "floor_divide_.Tensor", [plain, plain + 9], {}, torch.floor_divide
    yield "remainder.Tensor", [plain, plain + 9], {}, torch.remainder
    yield "remainder_.Tensor", [plain, plain + 9], {}, torch.remainder
    yield "mm", [_x(3, 4), _x(4, 5, seed=1)], {}, torch.mm
    yield "rwkv_mm_sparsity", [_x(8), _x(8, 16, seed=1)], {}, lambda k, v: k @ v
    yield "bmm", [_x(2, 3, 4), _x(2, 4, 5, seed=1)], {}, torch.bmm
    yield "addmm", [_x(5), _x(3, 4), _x(4, 5, seed=1)], {"beta": 0.5}, torch.addmm
    yield "zeros", [[2, 3]], {"device": torch.device(DEVICE)}, torch.zeros
    yield "sum", [_x(3, 4)], {}, torch.sum
    yield "sum.dim_IntList", [_x(3, 4), [1], True], {}, torch.sum
    yield "max", [_x(3, 4)], {}, torch.max
    yield "max.dim", [_x(3, 4), 1], {}, lambda x, d: tuple(torch.max(x, d))
    outs = {"max": torch.empty(3, device=DEVICE), "max_values": torch.empty(3, dtype=torch.int64, device=DEVICE)}
    yield "max.dim_max", [plain, 1], outs, lambda x, d, **_: tuple(torch.max(x, d))
    yield "argmax", [plain, 1], {}, torch.argmax
    yield "fill.Scalar", [plain, 2.5], {}, torch.full_like
    yield "fill.Tensor", [plain, torch.tensor(2.5)], {}, lambda x, v: torch.full_like(x, 2.5)
    yield "fill_.Scalar", [plain, 2.5], {}, torch.full_like
    yield "fill_.Tensor", [plain, torch.tensor(2.5)], {}, lambda x, v: torch.full_like(x, 2.5)
    yield "copy_", [plain, _x(4).detach()], {}, lambda x, y: y.expand_as(x)
    yield "to_copy", [_x(3, 4)], {"dtype": torch.float16}, aten._to_copy
    yield "cat", [[_x(3, 2), _x(3, 4)], 1], {}, torch.cat
    yield "contiguous", [_x(3, 4).t()], {}, lambda x: x.contiguous()
    yield "softmax", [_x(3, 4), 1], {}, torch.softmax
    yield "softmax_backward", [plain, plain.softmax(1), 1, torch.float32], {}, aten._softmax_backward_data
    yield "embedding", [_x(5, 3), index], {}, lambda w, i: F.embedding(i, w)
    packed, starts = _x(7, 2, 4).detach(), torch.tensor([0, 7], dtype=torch.int32, device=DEVICE)
    yield "flash_attn_varlen_func", [packed, packed, packed, 7, starts, 7, starts], {}, _of_one_sequence
    yield "embedding_backward", [_x(2, 2, 3).detach(), index, 5, -1, False, False], {}, aten.embedding_backward


SAMPLES = list(samples())


def overload(name: str) -> Any:
    base, _, rest = name.partition(".")
    return getattr(getattr(OPS, base), rest or "default")


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and not value.requires_grad else value


def test_every_composite_has_a_sample() -> None:
    later = {"nonzero", "topk", "sort", "sort.stable", "exponential_", "divide.Tensor_mode", "divide_.Tensor_mode"}
    assert set(composites.OPERATORS) - later == {sample[0] for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample[0] for sample in SAMPLES])
def test_composites(sample: Any) -> None:
    """Values are torch's, the kernel that runs is ours, and opcheck passes."""
    name, args, kwargs, reference = sample
    expected = reference(*args, **kwargs)
    flag_gems.reset_stats()
    result = overload(name)(*map(copied, args), **kwargs)
    torch.testing.assert_close(result, expected)
    if not name.startswith(("add", "zeros")):
        assert flag_gems.stats() and all(c["kernel"] for c in flag_gems.stats().values()), flag_gems.stats()
    torch.library.opcheck(overload(name), tuple(map(copied, args)), kwargs)


def test_exponential() -> None:
    x = torch.empty(1000, device=DEVICE)
    torch.manual_seed(3)
    assert OPS.exponential_(x, 2.0) is x
    torch.manual_seed(3)
    y = flag_gems.ops.exponential_(torch.empty(1000, device=DEVICE), 2.0)
    assert torch.equal(x, y) and abs(x.mean().item() - 0.5) < 0.1


def test_namespace_is_lazy() -> None:
    code = (
        "import sys, torch, flag_gems\n"
        "assert 'flag_gems.composites' not in sys.modules and not flag_gems.library._defined\n"
        "assert 'silu_and_mul' in dir(torch.ops.flag_gems) and hasattr(torch.ops.flag_gems, 'mm')\n"
        "assert set(flag_gems.library._defined) == {'mm'}\n"
        "assert not hasattr(torch.ops.flag_gems, 'nothing_of_this_name')\n"
        "torch.ops.flag_gems.silu_and_mul(torch.ones(2), torch.ones(2))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = OPS.nothing_of_this_name
    assert library.is_taken("mm") and library.is_taken("silu_and_mul") and not library.is_taken("nothing")
