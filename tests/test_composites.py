"""Explicit functions of composite operators: torch's result, by way of our kernels, and nothing is left switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import _C, ops, rows

from compare import assert_same

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device


def x(*shape: int) -> torch.Tensor:
    return torch.linspace(-2, 3, max(1, torch.Size(shape).numel()), device=DEVICE).view(shape)


ARGUMENTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "contiguous": lambda: (x(5, 7).t(),),
    "diag": lambda: (x(6),),
    "divide": lambda: (x(5, 7), 3.0),
    "true_divide": lambda: (x(5, 7), x(7) + 5),
    "embedding_backward": lambda: (x(3, 7), torch.tensor([1, 0, 1], device=DEVICE), 4, -1, False, False),
    "gather_backward": lambda: (x(2, 3), x(2, 5), 1, torch.tensor([[0, 4, 0], [1, 1, 2]], device=DEVICE), False),
    "hstack": lambda: ([x(2, 3), x(2, 4)],),
    "vstack": lambda: ([x(2, 3), x(4, 3)],),
    "isclose": lambda: (x(5, 7), x(5, 7) + 1e-7),
    "isfinite": lambda: (x(5, 7) / x(5, 7).round(),),
    "allclose": lambda: (x(5, 7), x(5, 7)),
    "kron": lambda: (x(2, 3), x(3, 2)),
    "log_sigmoid": lambda: (x(5, 7),),
    "pad": lambda: (x(2, 3, 4), [1, 2, 3, 0], "constant", 1.5),
    **{f"conv{n}d": lambda n=n: (x(1, 2, *[5] * n), x(3, 2, *[3] * n), x(3)) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": lambda n=n: (x(1, 2, *[5] * n), x(2, 3, *[3] * n), x(3)) for n in (1, 2)},
    "max_pool2d": lambda: (x(1, 2, 6, 7), [3, 3], [2, 2]),
    "quantile": lambda: (x(5, 7), torch.tensor([0.25, 0.9], device=DEVICE), 1),
    "repeat_interleave": lambda: (x(5, 7), torch.tensor([2, 0, 3, 1, 1], device=DEVICE), 0),
    "repeat_interleave_self_tensor": lambda: (x(5, 7), torch.tensor([2, 0, 3, 1, 1], device=DEVICE), 0),
    "repeat_interleave_self_int": lambda: (x(5, 7), 3, 1),
    "resolve_conj": lambda: (torch.complex(x(5), x(5)).conj(),),
    "resolve_neg": lambda: (torch.complex(x(5), x(5)).conj().imag,),
    "rms_norm": lambda: (x(5, 8), [8], x(8), 1e-6),
    "tile": lambda: (x(2, 3), [2, 2]),
}
# What they are made of takes the conjugation and negation away before our kernels see the tensors.
WITHOUT_KERNEL = {"resolve_conj", "resolve_neg"}


@pytest.mark.parametrize("row", _C.composite_rows(), ids=lambda row: row["id"])
def test_torchs_result_by_our_kernels(row: dict[str, Any]) -> None:
    with flag_gems.use_gems():
        pass  # all are registered from here on, so that whatever is reached is seen
    for name in rows.functions_of(row):
        if name.endswith("_"):
            continue
        base = name.removesuffix("_out")
        arguments = ARGUMENTS[base]()

        def out(name: str = name) -> dict[str, torch.Tensor]:
            return {"out": torch.empty(0, device=DEVICE)} if name.endswith("_out") else {}

        aten = getattr(torch.ops.aten, base, None) or getattr(torch.ops.aten, rows.name_of(row).split(".")[0])
        wanted = aten(*arguments, **out())
        flag_gems.reset_stats()
        result = getattr(ops, name)(*arguments, **out())
        ran = {entry.split(".")[0]: counts for entry, counts in flag_gems.stats().items()}
        assert_same(result, wanted, note=name)
        assert base in WITHOUT_KERNEL or any(counts["kernel"] for counts in ran.values()), f"{name}: {ran}"
        stray = set(ran) - set(row["expr"].split(","))
        assert not stray, f"{name} reaches {stray}, which its row does not name"


def test_in_place_and_gradients() -> None:
    y = x(5, 7)
    assert ops.divide_(y, 2) is y
    assert_same(y, x(5, 7) / 2)
    z = x(5, 7).requires_grad_()
    ops.tile(z, [2, 1]).sum().backward()
    assert_same(z.grad, torch.full_like(z, 2))


def test_gates_are_closed_again() -> None:
    ops.tile(x(2, 3), [2, 2])
    flag_gems.reset_stats()
    x(2, 3).repeat(2, 2)
    assert "repeat" not in flag_gems.stats()
    with pytest.raises((RuntimeError, TypeError)):
        ops.tile(x(2, 3), "no list")
    x(2, 3).repeat(2, 2)
    assert "repeat" not in flag_gems.stats()
