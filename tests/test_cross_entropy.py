"""cross_entropy_loss beside torch.nn.functional.cross_entropy: values, gradients, layouts, what is not a number."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

from compare import FLOATS, HALVES

DEVICE = flag_gems.device
F = torch.nn.functional
OPS = torch.ops.flag_gems
REDUCTIONS = ("none", "mean", "sum")


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).to(DEVICE)


def classes(*shape: int, axis: int = 1, ignored: int | None = -100) -> Tensor:
    """Targets of logits of a shape, some of them ignored."""
    axis = min(axis, len(shape) - 1)
    generator = torch.Generator().manual_seed(7)
    found = torch.randint(0, shape[axis], shape[:axis] + shape[axis + 1 :], generator=generator)
    if ignored is not None and found.numel() > 4:
        found.view(-1)[1::5] = ignored
    return found.to(DEVICE)


def both(x: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any) -> None:
    """Loss and gradient beside torch's in float64."""
    given = {k: v for k, v in options.items() if k != "ignore_index"}
    mine = x.detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact_target = target if target.dtype == torch.int64 else target.double()
    exact_weight = None if weight is None else weight.double()
    exact = F.cross_entropy(wide, exact_target, exact_weight, ignore_index=options.get("ignore_index", -100), **given)
    flag_gems.reset_stats()
    ours = flag_gems.cross_entropy_loss(mine, target, weight, **options)
    grad = draw(*exact.shape, dtype=torch.float64, seed=9)
    (found,) = torch.autograd.grad(ours, mine, grad.to(ours.dtype))
    stats = flag_gems.stats()
    for name in ("flag_gems::cross_entropy", "flag_gems::cross_entropy_backward"):
        assert stats[name] == {"kernel": 1, "fallback": 0}, stats
    (wanted,) = torch.autograd.grad(exact, wide, grad)
    eps = {torch.float64: 1e-12, torch.float32: 4e-6}.get(x.dtype, 2 * torch.finfo(x.dtype).eps)
    for a, b in ((ours, exact), (found, wanted)):
        assert a.dtype == x.dtype and a.shape == b.shape
        torch.testing.assert_close(a.double(), b, rtol=eps, atol=eps, equal_nan=True)


# Programs that differ by nothing but the dtype are compiled in the long run.
SOME = [d if d in (torch.float32, torch.bfloat16) else pytest.param(d, marks=pytest.mark.slow) for d in FLOATS]
OTHERS = [(0.1, False), (0.0, True)]
SHAPES = [(7,), (5, 7), (6, 1), (3, 1000), (4, 257), (3, 5, 4, 6), (2, 7, 130), (2, 3, 1, 5)]


@pytest.mark.parametrize("dtype", SOME)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("smoothing", "weighted"), [(0.0, False), (0.1, True), *(pytest.param(*o, marks=pytest.mark.slow) for o in OTHERS)]
)
def test_classes(shape: tuple[int, ...], dtype: torch.dtype, smoothing: float, weighted: bool) -> None:
    x, target = draw(*shape, dtype=dtype), classes(*shape)
    count = shape[1] if len(shape) > 1 else shape[0]
    weight = (draw(count, seed=3).abs() + 0.1).to(dtype) if weighted else None
    for reduction in REDUCTIONS:
        both(x, target, weight, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", SOME)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[-1] != 257])
def test_distributions(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    axis = min(1, len(shape) - 1)
    x, target = draw(*shape, dtype=dtype), draw(*shape, seed=4).softmax(axis).to(dtype)
    weight = (draw(shape[axis], seed=3).abs() + 0.1).to(dtype)
    both(x, target, reduction="mean", label_smoothing=0.2)
    both(x, target, weight, reduction="none", label_smoothing=0.2)
    both(x, target, weight, reduction="sum", label_smoothing=0.2)


@pytest.mark.parametrize("distribution", [False, True])
def test_layouts(distribution: bool) -> None:
    wide = draw(4, 12, 5, 6)
    for x in (
        draw(6, 5).t(),
        draw(6, 20)[:, ::2],
        draw(6, 20)[::2, 3:17],
        draw(5)[None].expand(4, 5),
        draw(31)[1:].view(3, 10),
        wide.to(memory_format=torch.channels_last),
        wide.transpose(0, 3),
        wide[:, ::2],
        wide[:, :, 1:, ::2],
        wide.movedim(1, -1),
    ):
        target = draw(*x.shape, seed=4).softmax(1) if distribution else classes(*x.shape)
        for reduction in ("mean", "none"):
            both(x, target, reduction=reduction)
            both(x, target.transpose(0, -1).contiguous().transpose(0, -1), reduction=reduction)


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 127, 128, 129, 511, 513, 4097])
def test_every_length(count: int) -> None:
    """Rows of every length, whose starts are aligned to nothing."""
    for dtype in (torch.float32, torch.bfloat16):
        both(draw(5, count, dtype=dtype), classes(5, count))


def test_not_finite() -> None:
    inf, nan = float("inf"), float("nan")
    x = draw(7, 9)
    x[0, 3], x[1, 3], x[2], x[3, 2], x[4, 0] = -inf, inf, -inf, nan, -inf
    x[5] = 1e4
    target = classes(7, 9, ignored=None)
    target[0] = 3
    for weight in (None, draw(9, seed=3).abs()):
        for smoothing in (0.0, 0.1):
            exact = F.cross_entropy(
                x.double(),
                target,
                None if weight is None else weight.double(),
                reduction="none",
                label_smoothing=smoothing,
            )
            ours = flag_gems.cross_entropy_loss(x, target, weight, "none", label_smoothing=smoothing)
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5, equal_nan=True)
    share = draw(7, 9, seed=4).softmax(1)
    exact = F.cross_entropy(x.double(), share.double(), reduction="none")
    ours = flag_gems.cross_entropy_loss(x, share, None, "none")
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_large_logits_keep_their_digits() -> None:
    """The loss is made of differences to the largest logit, not of that itself."""
    x = draw(4, 50) + 3e4
    share = draw(4, 50, seed=4).softmax(1)
    for target, smoothing in ((classes(4, 50), 0.0), (classes(4, 50), 0.1), (share, 0.0)):
        exact = F.cross_entropy(x.double(), target if target.ndim == 1 else target.double(), label_smoothing=smoothing)
        ours = flag_gems.cross_entropy_loss(x, target, label_smoothing=smoothing)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_ignored_rows() -> None:
    x, target = draw(6, 5).requires_grad_(), torch.full((6,), 2, device=DEVICE)
    assert flag_gems.cross_entropy_loss(x, target, ignore_index=2).isnan()
    assert flag_gems.cross_entropy_loss(x, target, ignore_index=2, reduction="sum") == 0
    both(draw(6, 5), classes(6, 5, ignored=3), ignore_index=3)
    both(draw(6, 5), classes(6, 5, ignored=-1), ignore_index=-1, label_smoothing=0.1)
    target[0] = 0
    (grad,) = torch.autograd.grad(flag_gems.cross_entropy_loss(x, target, ignore_index=2), x)
    assert torch.equal(grad[1:], torch.zeros_like(grad[1:])) and grad[0].abs().sum() > 0


def test_no_rows_and_no_classes() -> None:
    for reduction in REDUCTIONS:
        for x, target in (
            (draw(0, 5), classes(0, 5)),
            (draw(2, 5, 0), classes(2, 5, 0)),
            (draw(0, 5), draw(0, 5)),
        ):
            ours = flag_gems.cross_entropy_loss(x, target, reduction=reduction)
            torch.testing.assert_close(ours, F.cross_entropy(x, target, reduction=reduction), equal_nan=True)


def test_wrong_arguments() -> None:
    x, target = draw(3, 5), classes(3, 5)
    with pytest.raises(ValueError, match="not a valid value for reduction"):
        flag_gems.cross_entropy_loss(x, target, reduction="most")
    with pytest.raises(RuntimeError):
        flag_gems.cross_entropy_loss(x, target, label_smoothing=1.5)
    with pytest.raises((RuntimeError, ValueError)):
        flag_gems.cross_entropy_loss(x, target[:2])
    with pytest.raises(RuntimeError):
        flag_gems.cross_entropy_loss(x, target, draw(4))
    if DEVICE == "cpu":  # on a GPU the kernel stops, as ATen's does
        target[1] = 5
        with pytest.raises(IndexError, match="out of bounds"):
            flag_gems.cross_entropy_loss(x, target)
        image = classes(2, 3, 4, 4, ignored=None)
        image[0, 1, 2] = -7
        with pytest.raises((IndexError, RuntimeError)):
            flag_gems.cross_entropy_loss(draw(2, 3, 4, 4), image)


def test_gradients() -> None:
    x = draw(4, 5, dtype=torch.float64).requires_grad_()
    share = draw(4, 5, dtype=torch.float64, seed=4).softmax(1).requires_grad_()
    weight = draw(5, dtype=torch.float64, seed=3).abs().requires_grad_()
    target = classes(4, 5)
    for reduction in REDUCTIONS:
        for function, args in (
            (lambda x, r=reduction: flag_gems.cross_entropy_loss(x, target, weight.detach(), r, -100, 0.1), (x,)),
            (lambda x, t, r=reduction: flag_gems.cross_entropy_loss(x, t, None, r), (x, share)),
            (lambda x, t, w, r=reduction: flag_gems.cross_entropy_loss(x, t, w, r), (x, share, weight)),
        ):
            assert torch.autograd.gradcheck(function, args)
            assert torch.autograd.gradgradcheck(function, args)


def test_operators_of_torch() -> None:
    x, target, share = draw(3, 5).requires_grad_(), classes(3, 5), draw(3, 5, seed=4).softmax(1)
    torch.library.opcheck(OPS.cross_entropy, (x, target))
    torch.library.opcheck(OPS.cross_entropy, (x, share, draw(5).abs(), 0, -100, 0.1))
    image = draw(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(OPS.cross_entropy, (image, classes(2, 3, 4, 4), None, 2))
    loss, saved = OPS.cross_entropy(x, target)
    assert loss.requires_grad and not saved.requires_grad
    torch.testing.assert_close(saved[:3], x.logsumexp(1))


def test_compiled_and_transformed() -> None:
    x, target = draw(3, 6, 5), classes(3, 6, 5, axis=2, ignored=None)
    loss = lambda x, t: flag_gems.cross_entropy_loss(x, t, label_smoothing=0.1)  # noqa: E731
    wanted = torch.stack([F.cross_entropy(x[i], target[i], label_smoothing=0.1) for i in range(3)])
    torch.testing.assert_close(torch.vmap(loss)(x, target), wanted)
    grad = torch.func.grad(loss)(x[0], target[0])
    torch.testing.assert_close(
        grad, torch.func.grad(lambda x: F.cross_entropy(x, target[0], label_smoothing=0.1))(x[0])
    )
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    mine = x[0].clone().requires_grad_()
    compiled(mine, target[0]).backward()
    torch.testing.assert_close(mine.grad, grad)
    torch.compiler.reset()


def test_the_same_bits_twice() -> None:
    x, target = draw(40000, 3), classes(40000, 3)  # rows that several blocks add up
    first, second = (flag_gems.cross_entropy_loss(x, target) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.double(), F.cross_entropy(x.double(), target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_means_of_many_halves(dtype: torch.dtype) -> None:
    x, target = draw(3000, 4, dtype=dtype), classes(3000, 4)
    ours = flag_gems.cross_entropy_loss(x, target).double()
    torch.testing.assert_close(ours, F.cross_entropy(x.double(), target), rtol=torch.finfo(dtype).eps, atol=0)
