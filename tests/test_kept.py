"""Calls that are kept and launched again (csrc/engine/kept.c): whatever changes between two, the results are ATen's."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable

import flag_gems
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare import assert_same, outcome

DEVICE = flag_gems.device
SHAPES = [(4, 8), (8, 4), (32,), (2, 4, 4), (4, 8, 1), (64, 3), (3, 64), (1, 8), (4, 1)]


def pool() -> list[Tensor]:
    """Tensors that are alike in some way and not in another: shape, strides, dtype, alignment, memory."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in SHAPES:
        base = torch.randn(shape, generator=generator).to(DEVICE)
        made += [base, base + 1, base.half(), base.double(), base.bfloat16()]
        made.append(torch.randn((*shape[:-1], shape[-1] + 1), generator=generator).to(DEVICE)[..., 1:])
        made.append(torch.randn(shape[::-1], generator=generator).to(DEVICE).permute(*reversed(range(len(shape)))))
    made += [torch.tensor(number, device=DEVICE) for number in (2.0, 3.0)]
    made.append(torch.arange(32, device=DEVICE).view(4, 8))
    return made


CALLS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "add": lambda a, b, n: torch.add(a, b, alpha=n),
    "add number": lambda a, b, n: a + n,
    "mul": lambda a, b, n: a * b,
    "where": lambda a, b, n: torch.where(a > 0, a, b),
    "clamp": lambda a, b, n: torch.clamp(a, -n, n),
    "gelu": lambda a, b, n: F.gelu(a, approximate="tanh" if n > 1 else "none"),
    "div": lambda a, b, n: torch.div(a, n + 0.5, rounding_mode="floor" if n > 1 else None),
    "softmax": lambda a, b, n: torch.softmax(a, -1 if n > 1 else 0),
    "sum": lambda a, b, n: torch.sum(a, -1, keepdim=n > 1),
    "sum dtype": lambda a, b, n: torch.sum(a, 0, dtype=torch.float64 if n > 1 else torch.float32),
    "layer_norm": lambda a, b, n: F.layer_norm(a, a.shape[-1:], None, None, 1e-5 * n),
}


def walk(name: str, seed: int, steps: int) -> None:
    """The same few calls again and again in a random order, so that each is met kept, replaced and kept again."""
    draw, tensors = random.Random(seed), pool()
    few = [(draw.choice(tensors), draw.choice(tensors), draw.choice([1, 2, 0.5])) for _ in range(40)]
    few += [(a, a, n) for a, _, n in few[:10]]
    few += [(a, tensors[0], n) for a, _, n in few[:10]]
    wanted = [outcome(lambda c=c: CALLS[name](*c)) for c in few]
    with flag_gems.use_gems():
        for _ in range(steps):
            i = draw.randrange(len(few))
            result = outcome(lambda i=i: CALLS[name](*few[i]))
            assert_same(result, wanted[i], note=f"{name} {i}")


@pytest.mark.parametrize("name", CALLS)
def test_any_order_of_calls(name: str) -> None:
    walk(name, 1, 200)


def test_threads_keep_their_own() -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for name in ("add", "softmax", "sum"):
                walk(name, seed, 60)
        except BaseException as error:
            errors.append(error)

    for first in (0, 4):  # threads of the second round take over what those of the first left
        threads = [threading.Thread(target=work, args=(first + i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_the_default_dtype_counts() -> None:
    ints = torch.arange(8, device=DEVICE)
    try:
        with flag_gems.use_gems():
            for dtype in (torch.float32, torch.float64, torch.float32):
                torch.set_default_dtype(dtype)
                for _ in range(3):
                    assert torch.exp(ints).dtype == (ints + 1.5).dtype == (ints / 2).dtype == dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_value_of_a_0_dim_tensor_counts() -> None:
    x = torch.ones(4, 8, device=DEVICE)
    with flag_gems.use_gems():
        for i in range(5):
            number = torch.tensor(float(i))  # on a GPU too a number of the CPU
            assert_same(x * number, torch.full_like(x, float(i)), note=f"times {i}")
            assert_same(torch.where(x > number, x, number), torch.maximum(x, number), note=f"where {i}")


def test_gradients_of_a_kept_call() -> None:
    x = torch.randn(4, 8, device=DEVICE)
    with flag_gems.use_gems():
        for _ in range(4):
            torch.softmax(x, -1)  # kept without a gradient
        y = x.clone().requires_grad_()
        out = flag_gems.ops.mul(torch.softmax(y, -1), y)
        out.sum().backward()
        assert y.grad is not None
    z = x.clone().requires_grad_()
    (torch.softmax(z, -1) * z).sum().backward()
    assert_same(y.grad, z.grad, note="gradient")


def test_no_tensor_is_kept() -> None:
    with flag_gems.use_gems():
        x, y = torch.randn(5, 7, device=DEVICE), torch.randn(5, 7, device=DEVICE)
        for _ in range(3):
            result = x + y
        seen = [weakref.ref(t) for t in (x, y, result)]
        del x, y, result
        gc.collect()
        assert [ref() for ref in seen] == [None, None, None]
