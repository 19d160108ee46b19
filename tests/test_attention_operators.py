"""Operators of attention that ATen has on GPUs alone, on a CPU: what they return, and where they decline."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch

from attention_cases import DEVICE, close, draw, of_sequence, operands, reference

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU leaves such small problems to ATen")
aten = torch.ops.aten


def sizes(results: Any) -> list[Any]:
    return [tuple(item.shape) if isinstance(item, torch.Tensor) else item for item in results]


@pytest.mark.parametrize("with_logs", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_operator_of_cudnn(with_logs: bool, direct: bool) -> None:
    """Numbers and undefined tensors stand where torch's schema has them, by the dispatcher and without it."""
    q, k, v = operands(2, 4, 4, 9, 13, 16, 16, torch.float32)
    args = (q, k, v, None, None, None, 9, 13, with_logs, 0.0, True, False)
    if direct:
        made = flag_gems.cudnn_attention_forward(*args, scale=0.2)
    else:
        with flag_gems.use_gems():
            made = aten._cudnn_attention_forward(*args, scale=0.2)
    assert sizes(made) == [(2, 4, 9, 16), (2, 4, 9, 1) if with_logs else None, None, None, 9, 13, (), (), None]
    assert made[6].dtype == made[7].dtype == torch.int64
    exact, logs = reference(q, k, v, None, True, 0.2)
    close(made[0], exact)
    assert made[0].stride() == q.stride()
    if with_logs:
        close(made[1][..., 0], logs, 20)


@pytest.mark.parametrize(
    "change", [{3: torch.zeros(9, 13)}, {6: 8}, {9: 0.5}, {11: True}], ids=["bias", "length", "dropout", "mask"]
)
def test_cudnn_declines(change: dict[int, Any]) -> None:
    q, k, v = operands(1, 2, 2, 9, 13, 16, 16, torch.float32)
    args: list[Any] = [q, k, v, None, None, None, 9, 13, True, 0.0, False, False]
    for i, value in change.items():
        args[i] = value
    with pytest.raises(NotImplementedError):
        flag_gems.cudnn_attention_forward(*args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_the_flash_kernel(dtype: torch.dtype) -> None:
    """Undefined tensors are no packed sequences; the last query is at the last key; gradients lie as their operands."""
    q, grad = (draw(2, 4, 9, 16, dtype=dtype, seed=i).transpose(1, 2) for i in (0, 5))
    k, v = (draw(2, 13, 2, 16, dtype=dtype, seed=i) for i in (1, 2))
    given = (None, None, 9, 13, 0.0, True)
    out, lse, seed, offset, _ = flag_gems.flash_attention_forward(q, k, v, *given, False)
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        made = aten._flash_attention_backward(grad, q, k, v, out, lse, *given, seed, offset)
    assert flag_gems.stats()["_flash_attention_backward"] == {"kernel": 1, "fallback": 0}
    wide = [t.double().requires_grad_() for t in (q, k, v)]
    exact = torch.stack([of_sequence(*(t[i] for t in wide), True, (-1, -1), 0, None)[0] for i in range(2)])
    for mine, theirs, t in zip(made, torch.autograd.grad(exact, wide, grad.double()), (q, k, v), strict=True):
        close(mine, theirs, 4)
        assert mine.stride() == t.stride()


def test_gradients_of_the_flash_kernel_decline() -> None:
    """Dropout, windows, and packed sequences where no kernel of sm_90a is."""
    q = draw(2, 9, 4, 16)
    lse, starts = torch.zeros(2, 4, 9), torch.tensor([0, 9, 18], dtype=torch.int32)
    more = torch.zeros(2, dtype=torch.uint64), torch.zeros((), dtype=torch.uint64)
    backward = flag_gems.flash_attention_backward
    with pytest.raises(NotImplementedError):
        backward(q, q, q, q, q, lse, None, None, 9, 9, 0.5, False, *more)
    with pytest.raises(NotImplementedError):
        backward(q, q, q, q, q, lse, None, None, 9, 9, 0.0, False, *more, window_size_left=3)
    flat = q.flatten(0, 1)
    with pytest.raises(NotImplementedError):
        backward(*[flat] * 5, torch.zeros(4, 18), starts, starts, 9, 9, 0.0, False, *more)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["none", "first", "last"])
def test_memory_efficient_operators(kind: int) -> None:
    """Forward and backward; the diagonal begins at the first key or ends at the last."""
    q, grad = (draw(2, 32, 4, 16, seed=i) for i in (0, 5))
    k, v = (draw(2, 40, 4, 16, seed=i) for i in (1, 2))
    with flag_gems.use_gems():
        made = aten._efficient_attention_forward(q, k, v, None, None, None, None, None, 0.0, kind, True, scale=0.2)
    assert sizes(made) == [(2, 32, 4, 16), (2, 4, 32), (), (), 32, 40]
    turned = [t.transpose(1, 2).double().requires_grad_() for t in (q, k, v)]
    mask = torch.ones(32, 40, dtype=torch.bool).tril(8 if kind == 2 else 0) if kind else None
    exact, logs = reference(*turned, mask, scale=0.2)
    close(made[0], exact.transpose(1, 2))
    close(made[1], logs, 20)
    given = (grad, q, k, v, None, made[0], None, None, 32, 40, made[1], 0.0, made[2], made[3], kind, False)
    with flag_gems.use_gems():
        found = aten._efficient_attention_backward(*given, scale=0.2)
    expected = torch.autograd.grad(exact, turned, grad.transpose(1, 2).double())
    assert found[3] is None
    assert all(t.is_contiguous() for t in found[:3])
    for mine, theirs in zip(found[:3], expected, strict=True):
        close(mine, theirs.transpose(1, 2), 4)


def test_memory_efficient_operators_decline() -> None:
    """A logsumexp of rounded length would need room that nobody fills; without it any length is taken."""
    q = draw(2, 9, 4, 16)
    forward = flag_gems.efficient_attention_forward
    assert sizes(forward(q, q, q, None, None, None, None, None, 0.0, 0))[1] == (2, 4, 0)
    for args in ((None, 0.0, 0, True), (None, 0.5, 0, False), (torch.zeros(9, 9), 0.0, 0, False)):
        with pytest.raises(NotImplementedError):
            forward(q, q, q, args[0], None, None, None, None, *args[1:])


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_of_cudnn(causal: bool) -> None:
    """The diagonal begins at the first key; gradients lie as their operands; the logsumexp has a dimension more."""
    q, k, v = operands(2, 4, 2, 9, 13, 16, 16, torch.float32)
    grad = draw(2, 4, 9, 16, seed=7)
    out, lse = flag_gems.cudnn_attention_forward(q, k, v, None, None, None, 9, 13, True, 0.0, causal, scale=0.2)[:2]
    given = (grad, q, k, v, out, lse, None, None, None, None, None, 9, 13, 0.0, causal)
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        made = aten._cudnn_attention_backward(*given, scale=0.2)
    assert flag_gems.stats()["_cudnn_attention_backward"] == {"kernel": 1, "fallback": 0}
    wide = [t.double().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(reference(*wide, None, causal, 0.2)[0], wide, grad.double())
    for mine, theirs, t in zip(made, expected, (q, k, v), strict=True):
        close(mine, theirs, 4)
        assert mine.stride() == t.stride()
    with pytest.raises(NotImplementedError):  # a bias
        flag_gems.cudnn_attention_backward(*given[:8], torch.zeros(9, 13), *given[9:])
