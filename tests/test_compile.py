"""torch.compile sees through enabled operators: no graph break that ATen has not, and our kernels run."""

from __future__ import annotations

from collections.abc import Iterator

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = flag_gems.device


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    flag_gems.reset_stats()
    yield
    flag_gems.disable()
    torch.compiler.reset()


def net(x: Tensor, w: Tensor, scale: float) -> Tensor:
    """Rows of most families: matmul, elementwise with a number, norm, softmax, reduction, copies."""
    h = F.layer_norm(torch.mm(x, w) * scale, (w.shape[1],))
    h = torch.where(h > 0, h, h.sigmoid()) + 1
    return torch.softmax(torch.cat([h, h.t().contiguous().t()], 1), -1).sum(0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
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
    for name in ("mm", "native_layer_norm", "_softmax", "where.self", "cat"):
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
