"""torch.compile sees through enabled operators: no graph break that ATen has not, and our kernels run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
import torch._dynamo.utils
import torch.nn.functional as F
from flag_gems import ops
from flag_gems.modules import GemsRMSNorm, GemsRope
from torch import Tensor

pytestmark = pytest.mark.usefixtures("fresh_compiler")
DEVICE = flag_gems.device


def net(x: Tensor, w: Tensor, scale: float) -> Tensor:
    """Rows of most families: matmul, elementwise with a number, norm, softmax, reduction, copies."""
    h = F.layer_norm(torch.mm(x, w) * scale, (w.shape[1],))
    h = torch.where(h > 0, h, h.sigmoid()) + 1
    return torch.softmax(torch.cat([h, h.t().contiguous().t()], 1), -1).sum(0)


SLOW_INDUCTOR = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", SLOW_INDUCTOR)
def test_fullgraph_with_gradients(backend: str) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(6, 5, device=DEVICE, requires_grad=True), torch.randn(5, 7, device=DEVICE, requires_grad=True)
    weight = torch.randn(14, device=DEVICE)
    expected = net(x, w, 0.5)
    expected_grads = torch.autograd.grad((expected * weight).sum(), (x, w))
    flag_gems.enable()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    for _ in range(2):
        result = compiled(x, w, 0.5)
        grads = torch.autograd.grad((result * weight).sum(), (x, w))
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(grads, expected_grads)
    stats = flag_gems.stats()
    # inductor writes a program of its own for all but products
    for name in ("mm.out",) if backend == "inductor" else ("mm", "native_layer_norm", "_softmax", "where.self", "cat"):
        assert stats[name]["kernel"] >= 2, (name, stats)


def test_in_place_and_random_operators() -> None:
    def step(p: Tensor, g: Tensor) -> Tensor:
        p.mul_(0.9).add_(g, alpha=-0.1)
        return F.dropout(p, 0.5)

    flag_gems.enable()
    p, g = torch.ones(64, device=DEVICE), torch.ones(64, device=DEVICE)
    with torch.no_grad():
        torch.manual_seed(3)
        expected = step(p.clone(), g)
        torch.manual_seed(3)
        result = torch.compile(step, backend="eager", fullgraph=True)(p, g)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(p, torch.full_like(p, 0.8))


def test_a_scope_entered_after_compiling_is_seen() -> None:
    x, w = torch.randn(4, 4, device=DEVICE), torch.randn(4, 4, device=DEVICE)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    expected = compiled(x, w, 2.0)
    assert "mm" not in flag_gems.stats()
    with flag_gems.use_gems():
        torch.testing.assert_close(compiled(x, w, 2.0), expected)
    assert flag_gems.stats()["mm"]["kernel"] == 1


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def functions() -> dict[str, Callable[..., Any]]:
    """Functions of a square tensor that call this package's own."""
    eight, ids = draw(8), torch.arange(8, device=DEVICE)
    starts = torch.tensor([0, 3, 8], dtype=torch.int32, device=DEVICE)
    angles = draw(9, 4)
    keys, values = (torch.zeros(4, 4, 2, 8, device=DEVICE) for _ in range(2))
    norm, rope = GemsRMSNorm(8, device=DEVICE), GemsRope(8, 16, 1e4, False, torch.float32, DEVICE)

    def cached(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.stack((x, x + 1), 1)
        flag_gems.reshape_and_cache_flash(rows, rows, keys, values, ids, "auto", None, None)
        return keys + 1, values + 1

    def attended(x: Tensor, **options: Any) -> Tensor:
        rows = torch.stack((x, x + 1), 1)
        return flag_gems.flash_attn_varlen_func(rows, rows, rows, 5, starts, 5, starts, causal=True, **options)

    return {
        "ops.mm": lambda x: ops.mm(x, x) + 1,
        "ops.add_": lambda x: ops.add_(x.clone(), 1.5),
        "ops.mm_out": lambda x: ops.mm_out(x, x, out=torch.empty_like(x)),
        "ops.max": lambda x: ops.max(x, 1)[0],
        "ops.isclose": lambda x: ops.isclose(x, x),  # made of other operators
        "GemsRMSNorm": lambda x: norm(x),
        "GemsRMSNorm, residual": lambda x: norm(x.clone(), x.clone()),
        "GemsRope": lambda x: rope(x.view(1, 4, 2, 8), x.view(1, 4, 2, 8)),
        "silu_and_mul": lambda x: flag_gems.silu_and_mul(x, x.t()),
        "silu_and_mul_out": lambda x: flag_gems.silu_and_mul_out(x, x.t(), torch.empty_like(x)),
        "skip_layer_norm": lambda x: flag_gems.skip_layer_norm(x, x.t(), [8], eight, eight),
        "apply_rotary_pos_emb": lambda x: flag_gems.apply_rotary_pos_emb(
            x.view(4, 2, 8).clone(), x.view(4, 2, 8).clone(), angles.cos(), angles.sin(), inplace=True
        ),
        "reshape_and_cache_flash": cached,
        "flash_attn_varlen_func": attended,
        "flash_attn_varlen_func, out": lambda x: attended(x, out=x.new_empty(8, 2, 8)),
        "cross_entropy_loss": lambda x: flag_gems.cross_entropy_loss(x, ids),
        "scaled_dot_product_attention": lambda x: flag_gems.scaled_dot_product_attention(x[None], x[None], x[None]),
    }


@pytest.mark.parametrize("backend", SLOW_INDUCTOR)
@pytest.mark.parametrize("name", functions())
def test_own_functions(name: str, backend: str) -> None:
    function, x = functions()[name], draw(8, 8)
    expected = function(x)
    with torch._inductor.config.patch(fx_graph_cache=False):
        torch.testing.assert_close(torch.compile(function, backend=backend, fullgraph=True)(x), expected)


def differentiable() -> dict[str, Callable[[Tensor], Tensor]]:
    weight, ids, angles = draw(8), torch.arange(8, device=DEVICE), draw(9, 4)
    norm = GemsRMSNorm(8, device=DEVICE)

    def attended(x: Tensor) -> Tensor:
        return flag_gems.scaled_dot_product_attention(x[None], x[None] * 2, x[None] * 3, is_causal=True)

    def turned(x: Tensor) -> Tensor:
        rows = x.view(4, 2, 8)
        return flag_gems.apply_rotary_pos_emb(rows, rows * 2, angles.cos(), angles.sin())[1]

    return {
        "ops": lambda x: ops.mm(ops.mul(x, 2.0), x),
        "GemsRMSNorm": lambda x: norm(x.clone(), x * 2)[0],
        "silu_and_mul": lambda x: flag_gems.silu_and_mul(x, x + 1),
        "skip_layer_norm": lambda x: flag_gems.skip_layer_norm(x, x * 2, [8], weight, weight),
        "cross_entropy_loss": lambda x: flag_gems.cross_entropy_loss(x, ids),
        "apply_rotary_pos_emb": turned,
        "scaled_dot_product_attention": attended,
    }


@pytest.mark.parametrize("backend", SLOW_INDUCTOR)
@pytest.mark.parametrize("name", differentiable())
def test_gradients_of_own_functions(name: str, backend: str) -> None:
    function, x = differentiable()[name], draw(8, 8).requires_grad_()
    expected = torch.autograd.grad((function(x) ** 2).sum(), x)
    with torch._inductor.config.patch(fx_graph_cache=False):
        compiled = torch.compile(function, backend=backend, fullgraph=True)
        torch.testing.assert_close(torch.autograd.grad((compiled(x) ** 2).sum(), x), expected)


def test_what_torch_breaks_at_is_right() -> None:
    """The shape of a result depends on values."""
    x = draw(8, 8)
    compiled = torch.compile(lambda x: ops.nonzero(x > 0) + 1, backend="eager")
    assert torch.equal(compiled(x), torch.nonzero(x > 0) + 1)
    assert torch.compile(lambda x: ops.allclose(x, x), backend="eager")(x) is True


@pytest.mark.slow
def test_explicit_functions_are_known_whenever_dynamo_comes() -> None:
    """It is not imported with this package, and finds the functions however late it is."""
    code = (
        "import sys, torch, flag_gems\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "call = torch.compile(lambda x: flag_gems.ops.add(x, 1), backend='eager', fullgraph=True)\n"
        "assert torch.equal(call(torch.ones(3)), torch.full((3,), 2.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def of_any_length() -> dict[str, Callable[[Tensor], Any]]:
    def attended(x: Tensor) -> Tensor:
        rows, n = torch.stack((x, x + 1), 1), x.shape[0]
        starts = torch.arange(2, dtype=torch.int32, device=DEVICE) * n
        return flag_gems.flash_attn_varlen_func(rows, rows, rows, n, starts, n, starts, causal=True)

    return {
        "silu_and_mul": lambda x: flag_gems.silu_and_mul(x, x + 1),
        "skip_layer_norm": lambda x: flag_gems.skip_layer_norm(x.t(), x.t(), [x.shape[0]], None, None),
        "ops.mm": lambda x: ops.mm(x, x.t()),
        "flash_attn_varlen_func": attended,
        "per_token_group_quant_fp8": lambda x: flag_gems.per_token_group_quant_fp8(x, 8)[1],
    }


@pytest.mark.parametrize("backend", SLOW_INDUCTOR)
@pytest.mark.parametrize("name", of_any_length())
def test_one_graph_for_all_lengths(name: str, backend: str) -> None:
    function = of_any_length()[name]
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)
    with torch._inductor.config.patch(fx_graph_cache=False):
        for length in (6, 9, 12):
            x = draw(length, 8)
            torch.testing.assert_close(compiled(x), function(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("backend", SLOW_INDUCTOR)
def test_out_forms_of_torchs_operators(backend: str) -> None:
    """Written to an argument, to a view of it and to what the program makes."""
    operator = torch.ops.flag_gems.silu_and_mul

    def call(x: Tensor, out: Tensor, wide: Tensor) -> Tensor:
        operator.out(x, x + 1, out=out)
        operator.out(x, out, out=wide[1])
        return operator.out(out, x, out=torch.empty_like(x)) + wide.sum()

    x = draw(8, 8)
    expected, given = ((torch.zeros(8, 8, device=DEVICE), torch.zeros(2, 8, 8, device=DEVICE)) for _ in range(2))
    result = call(x, *expected)
    with torch._inductor.config.patch(fx_graph_cache=False):
        compiled = torch.compile(call, backend=backend, fullgraph=True)(x, *given)
    torch.testing.assert_close((compiled, *given), (result, *expected))
