"""How results are compared with ATen's.

A result passes when it is within torch.testing's default tolerance of its dtype from ATen's; where it is not, it still
passes when it is as near to the float64 result as ATen's own is (both round, on different paths); gradients of halves
three times that, since each of their steps rounds and which of two paths ends nearer is chance. Integers, booleans,
shapes, dtypes, strides of non-views, NaNs and infinities have to be the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flag_gems
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
ALL_DTYPES = (
    *FLOATS,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.float8_e4m3fn,
)


HALVES = (torch.float16, torch.bfloat16)


class WithGradients(NamedTuple):
    """Results, and the gradients that go back through them."""

    results: Any
    gradients: Any


class Raised:
    """What a call raised, comparable by type and by the first line of its text."""

    def __init__(self, error: Exception):
        self.error = error

    def same_as(self, other: Any) -> bool:
        return isinstance(other, Raised) and type(self.error) is type(other.error)

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}: {str(self.error).splitlines()[0] if str(self.error) else ''}"


def outcome(call: Callable[[], Any]) -> Any:
    """The result of a call, or what it raised."""
    try:
        return call()
    except Exception as error:
        return Raised(error)


@contextlib.contextmanager
def kernels(*names: str) -> Iterator[None]:
    """Our own kernels ran for these operators, and ATen's never."""
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        yield
    stats = flag_gems.stats()
    for name in names:
        assert name in stats and stats[name]["kernel"] and not stats[name]["fallback"], (name, stats)


def counts(name: str) -> dict[str, int]:
    """How often calls of an operator ran in our kernel and were left to ATen."""
    return flag_gems.stats().get(name, {"kernel": 0, "fallback": 0})


def both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives with our kernels and with ATen's: a result, or the type of the error."""
    results = []
    for scope in (flag_gems.use_gems(), contextlib.nullcontext()):
        with scope:
            try:
                results.append(call())
            except (RuntimeError, IndexError, NotImplementedError, TypeError) as error:
                results.append(type(error))
    return results[0], results[1]


def tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]


def to_float64(value: Any) -> Any:
    """The same arguments with every floating tensor and dtype in float64, every complex one in complex128."""

    def wide(item: Any) -> Any:
        if isinstance(item, torch.dtype):
            return torch.float64 if item in FLOATS else torch.complex128 if item in COMPLEX else item
        if not isinstance(item, Tensor):
            return item
        return item.double() if item.dtype in FLOATS else item.cdouble() if item.dtype in COMPLEX else item

    return tree_map(wide, value)


def error_of(result: Tensor, reference: Tensor) -> Tensor:
    return (result.to(reference.dtype) - reference).abs()


def near(ours: Tensor, aten: Tensor, reference: Callable[[], Any] | None, index: int, slack: float = 1.0) -> str:
    """Empty when `ours` passes beside `aten`, else what is wrong; slack: how much further from float64 it may be."""
    if ours.dtype != aten.dtype or ours.shape != aten.shape:
        return f"{ours.dtype} {tuple(ours.shape)} instead of {aten.dtype} {tuple(aten.shape)}"
    if ours.stride() != aten.stride() and ours.numel() > 1 and ours.layout == torch.strided:
        return f"strides {ours.stride()} instead of {aten.stride()} for {tuple(aten.shape)}"
    try:
        torch.testing.assert_close(ours, aten, equal_nan=True)
        return ""
    except AssertionError as error:
        text = str(error)
    if ours.dtype not in (*FLOATS, *COMPLEX) or reference is None:
        return text
    exact = outcome(reference)
    if isinstance(exact, Raised):
        return text
    exact = tensors(exact)[index]
    if exact.shape != ours.shape or exact.dtype not in (torch.float64, torch.complex128):
        return text
    finite = exact.isfinite() & aten.isfinite()
    if not torch.equal(ours.isfinite(), aten.isfinite()):
        return text
    unit = torch.finfo(ours.dtype).eps * exact.abs().clamp(min=torch.finfo(ours.dtype).tiny)
    if not finite.any():
        return text
    worst_of_aten = error_of(aten, exact)[finite].max()
    bad = (error_of(ours, exact) > slack * worst_of_aten + unit) & finite
    return text if bad.any() else ""


def assert_same(ours: Any, aten: Any, reference: Callable[[], Any] | None = None, note: str = "") -> None:
    """Fails unless a result (or what was raised) is ATen's.

    Parameters
    ----------
    ours, aten : results, possibly nested, or `Raised`
    reference : computes the same in float64, asked only where the two are not within tolerance
    note : what was called, for the message
    """
    if isinstance(aten, Raised) or isinstance(ours, Raised):
        if isinstance(ours, Raised) and not isinstance(aten, Raised):
            raise AssertionError(f"{note}: raised {ours!r}") from ours.error
        assert isinstance(aten, Raised) and aten.same_as(ours), f"{note}: {ours!r} instead of {aten!r}"
        return
    mine, theirs = tree_flatten(ours)[0], tree_flatten(aten)[0]
    assert len(mine) == len(theirs), f"{note}: {len(mine)} results instead of {len(theirs)}"
    forward = len(tensors(aten.results)) if isinstance(aten, WithGradients) else len(theirs)
    index = 0
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(b, Tensor):
            assert isinstance(a, Tensor), f"{note}: {type(a)} instead of a tensor"
            slack = 3.0 if index >= forward and b.dtype in HALVES else 1.0
            wrong = near(a.detach(), b.detach(), reference, index, slack)
            assert not wrong, f"{note}: {wrong}"
            index += 1
        else:
            assert a == b or (a != a and b != b), f"{note}: {a!r} instead of {b!r}"


def check(name: str, call: Callable[[], Any], kernel: bool = True, reference: Callable[[], Any] | None = None) -> None:
    """The call gives under use_gems() what ATen gives; `name` runs in our kernel, or is left to ATen."""
    expected = outcome(call)
    with flag_gems.use_gems(include=[name]):
        before = counts(name)
        got = outcome(call)
        after = counts(name)
    assert_same(got, expected, reference, name)
    which = "kernel" if kernel else "fallback"
    assert after[which] > before[which], (name, before, after)


def same(ours: Any, theirs: Any, **tolerance: float) -> None:
    """Same type of error, or results with the same dtype, shape, strides and values."""
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, (ours, theirs)
        return
    pairs = [(ours, theirs)] if isinstance(theirs, Tensor) else list(zip(ours, theirs, strict=True))
    for a, b in pairs:
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)
        assert a.numel() < 2 or a.stride() == b.stride(), (a.stride(), b.stride())
