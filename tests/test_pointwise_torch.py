"""Operators made of expressions under torch.compile, opcheck, transforms and excluded keys."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import pointwise
from torch import Tensor

from expressions import draw, swiglu

F = torch.nn.functional


@pytest.fixture
def fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_fullgraph(backend: str, fresh_compiler: Any) -> None:
    operator, leaky = swiglu(), pointwise("a > 0 ? a : slope * a", grad="auto", slope=0.01)

    def net(x: Tensor, y: Tensor) -> Tensor:
        out = torch.empty_like(x)
        operator(x.detach(), y.detach(), out0=out)
        return leaky(operator(x, y), slope=0.2) + flag_gems.fused.silu_and_mul(x, y) + out

    x, y = draw("real", 5, 7).requires_grad_(), draw("real", 7, seed=1).requires_grad_()
    expected = net(x, y)
    grads = torch.autograd.grad(expected.sum(), (x, y))
    flag_gems.reset_stats()
    result = torch.compile(net, backend=backend, fullgraph=True)(x, y)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(torch.autograd.grad(result.sum(), (x, y)), grads)
    assert flag_gems.stats()["flag_gems::swiglu"]["kernel"] == 2


def test_opcheck() -> None:
    x, y = draw("real", 5, 7).requires_grad_(), draw("real", 7, seed=1).requires_grad_()
    swiglu()
    torch.library.opcheck(torch.ops.flag_gems.swiglu.default, (x, y))
    torch.library.opcheck(torch.ops.flag_gems.swiglu.default, (x.detach().t(), draw("real", 7, 1).bfloat16()))
    leaky = pointwise("a > 0 ? a : slope * a", grad="auto", slope=0.01)
    torch.library.opcheck(getattr(torch.ops.flag_gems, leaky.name).default, (x,), {"slope": 0.5})
    both = pointwise("a * cos(b), a * sin(b)", grad="auto")
    torch.library.opcheck(getattr(torch.ops.flag_gems, both.name).default, (x, y))


def test_vmap_and_functional_gradients() -> None:
    operator = swiglu()
    x, y = draw("real", 4, 3, 5), draw("real", 5, seed=1)
    torch.testing.assert_close(torch.vmap(operator, (1, None))(x, y), operator(x, y).transpose(0, 1))
    torch.testing.assert_close(
        torch.vmap(operator)(x, draw("real", 4, seed=2)), operator(x, draw("real", 4, 1, 1, seed=2))
    )
    expected = torch.func.grad(lambda v: (F.silu(v) * y).sum())
    ours = torch.func.grad(lambda v: operator(v, y).sum())
    torch.testing.assert_close(ours(x[0]), expected(x[0]))
    torch.testing.assert_close(torch.vmap(ours)(x), torch.vmap(expected)(x))

    def hessian(function: Any) -> Any:
        return torch.func.jacrev(torch.func.jacrev(function))

    wanted = hessian(lambda v: (F.silu(v) * y).sum())(x[0, 0])
    torch.testing.assert_close(hessian(lambda v: operator(v, y).sum())(x[0, 0]), wanted)
    torch.testing.assert_close(torch.vmap(torch.ops.flag_gems.swiglu, (1, None))(x, y), operator(x, y).transpose(0, 1))


@pytest.mark.parametrize("key", ["FuncTorchDynamicLayerBackMode", "ADInplaceOrView"])
def test_excluded_keys_of_a_thread(key: str) -> None:
    """What torch excludes for a while, as backward passes may, costs no call: neither a key that no plain tensor has
    nor one that tensors have."""
    operator, x, y = swiglu(), draw("real", 5).requires_grad_(), draw("real", 5, seed=1)
    expected = operator(x, y)
    flag_gems.reset_stats()
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
        result = operator(x, y)
        with torch.no_grad():
            assert torch.equal(operator(x, y), expected)
        (grad,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(result, expected) and torch.equal(grad, torch.autograd.grad(expected.sum(), x)[0])
    assert all(not counts["fallback"] for counts in flag_gems.stats().values())


def test_forward_mode_is_an_error() -> None:
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError):
        swiglu()(torch.autograd.forward_ad.make_dual(draw("real", 5), draw("real", 5, seed=2)), draw("real", 5, seed=1))
