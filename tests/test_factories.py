"""Factories beside ATen: values, dtypes, devices, out tensors of every kind, errors; explicit functions too."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from torch import Tensor

from compare import FLOATS, Raised, assert_same, outcome

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
aten = torch.ops.aten


def ran(name: str, call: Callable[[], Any]) -> Any:
    """The result of a call that our kernel of an overload did."""
    flag_gems.reset_stats()
    with flag_gems.use_gems(include=[name]):
        result = call()
    stats = flag_gems.stats().get(name, {})
    assert stats.get("kernel") and not stats.get("fallback"), (name, stats)
    return result


def same(name: str, call: Callable[[], Any], exact: bool = True) -> None:
    expected = call()
    ours = ran(name, call)
    assert_same(ours, expected, None, name)
    if exact:
        assert torch.equal(ours, expected), (ours, expected)


def both(*calls: Callable[[], Any]) -> None:
    """Ours, or an error as ATen's; whichever kernel ran. All in one scope: opening one takes longer than the calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [outcome(call) for call in calls]
        with flag_gems.use_gems():
            ours = [outcome(call) for call in calls]
    for number, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        assert_same(mine, theirs, None, f"call {number}")


# ---- arange


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize(("start", "end", "step"), [(0, 100, 1), (-7, 50, 3), (50, -7, -4), (3, 3, 2), (0.5, 90.7, 2)])
def test_arange_of_integers(start: float, end: float, step: float, dtype: torch.dtype) -> None:
    same("arange.start_step", lambda: torch.arange(start, end, step, dtype=dtype, device=DEVICE))


def test_arange_of_large_integers() -> None:
    """In int64 from end to end: a double would lose the last digits."""
    top = 2**63 - 1
    for start, end, step in ((2**60, 2**60 + 1000, 7), (top - 9, top, 1), (-top, -top + 99, 5), (2**53, 2**53 + 9, 1)):
        same("arange.start_step", lambda a=start, b=end, c=step: torch.arange(a, b, c, device=DEVICE))
    same("arange.start_step", lambda: torch.arange(0, 300, 1, dtype=torch.uint8, device=DEVICE))  # wraps
    both(lambda: torch.arange(-top, top, top, device=DEVICE))
    both(lambda: torch.arange(-2, top, 3, device=DEVICE))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 63, 1000, 4099])
def test_arange_of_floats(count: int, dtype: torch.dtype) -> None:
    """Each element is start + step * i in the dtype that ATen accumulates in, rounded once."""
    start, step = 0.3, 0.7
    end = start + count * step - 0.1

    def call() -> Tensor:
        return torch.arange(start, end, step, dtype=dtype, device=DEVICE)

    ours = ran("arange.start_step", call)
    assert ours.shape == (count,) and ours.dtype == dtype
    wide = np.float32 if dtype in (torch.float16, torch.bfloat16) else np.float64
    if DEVICE == "cpu" and dtype != torch.float64:  # the product and the sum in one rounding
        exact = np.longdouble(wide(start)) + np.longdouble(wide(step)) * np.arange(count)
        assert torch.equal(ours, torch.from_numpy(exact.astype(wide)).to(dtype))
    assert_same(ours, call())


def test_arange_infers_its_dtype() -> None:
    for args in ((5,), (5.0,), (True,), (0, 5), (0, 5.0), (0.0, 5), (0, 5, 1), (0, 5, 1.0), (0, 5, True)):
        name = ("arange", "arange.start", "arange.start_step")[len(args) - 1]
        overload = getattr(aten.arange, name.partition(".")[2] or "default")
        same(name, lambda a=args, f=overload: f(*a, device=torch.device(DEVICE)))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        same("arange", lambda: aten.arange(4.5, device=torch.device(DEVICE)))
        same("linspace", lambda: torch.linspace(0, 1, 5, device=DEVICE))
        same("eye", lambda: torch.eye(3, device=DEVICE))
    finally:
        torch.set_default_dtype(before)


def test_arange_refuses_what_aten_refuses() -> None:
    refused = (
        (0, 5, 0),
        (5, 0, 1),
        (0, 5, -1),
        (0, float("inf")),
        (float("nan"), 1),
        (0, 1, float("nan")),
        (0, 5, 1j),
        (0, 1e300, 1e-300),
        (2**70,),
    )
    both(*(lambda a=args: torch.arange(*a, device=DEVICE) for args in refused))
    dtypes = (torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn)
    both(*(lambda d=dtype: torch.arange(4, dtype=d, device=DEVICE) for dtype in dtypes))
    both(lambda: torch.arange(0, 2.0**70, 2.0**69, dtype=torch.int64, device=DEVICE))
    both(lambda: torch.arange(0, 1e39, 5e38, dtype=torch.float32, device=DEVICE))


@pytest.mark.parametrize(("start", "end", "step"), [(0, 10, 1), (1, 9.5, 0.5), (9, -3, -2), (2, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64])
def test_range(start: float, end: float, step: float, dtype: torch.dtype) -> None:
    device = torch.device(DEVICE)
    if dtype == torch.bfloat16 and DEVICE != "cpu":  # ATen has it on a CPU only
        both(lambda: aten.range.step(start, end, step, dtype=dtype, device=device))
        return
    if dtype.is_floating_point or step == int(step):
        same("range.step", lambda: aten.range.step(start, end, step, dtype=dtype, device=device), exact=False)
        out = torch.empty(0, dtype=dtype, device=DEVICE)
        same("range.out", lambda: aten.range.out(start, end, step, out=out.clone()), exact=False)
    if step == 1:
        same("range", lambda: aten.range.default(start, end, dtype=dtype, device=device))


# ---- linspace, logspace


ENDS = [(0, 1), (-3.5, 8.25), (7, -7), (2, 2), (1, 100), (0, 120)]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 64, 127, 1001])
def test_linspace(steps: int, dtype: torch.dtype) -> None:
    """Bit for bit: up from the start in the first half, down from the end in the second."""
    for start, end in ENDS:
        if dtype == torch.uint8 and min(start, end) < 0:
            both(lambda a=start, b=end: torch.linspace(a, b, steps, dtype=dtype, device=DEVICE))
            continue
        same("linspace", lambda a=start, b=end: torch.linspace(a, b, steps, dtype=dtype, device=DEVICE))


def test_linspace_is_symmetrical() -> None:
    for steps in (2, 9, 100, 1001):
        x = ran("linspace", lambda n=steps: torch.linspace(-1, 1, n, device=DEVICE))
        assert x[0] == -1 and x[-1] == 1 and torch.equal(x[: steps // 2], -x.flip(0)[: steps // 2])


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32, torch.int64])
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 64, 101])
def test_logspace(steps: int, dtype: torch.dtype) -> None:
    for start, end, base in ((0, 3, 10.0), (-2.5, 1.5, 2.0), (1, 0, 3.5), (0, 1, 1.0)):
        if not dtype.is_floating_point and start < 0:
            continue

        def call(a: float = start, b: float = end, c: float = base) -> Tensor:
            return torch.logspace(a, b, steps, c, dtype=dtype, device=DEVICE)

        if isinstance(outcome(call), Raised):
            both(call)
        else:
            same("logspace", call, exact=False)


@pytest.mark.parametrize("name", ["linspace", "logspace"])
def test_ends_as_tensors(name: str) -> None:
    function = getattr(aten, name)
    start, end = torch.tensor(1.5), torch.tensor(4, dtype=torch.int32)
    device = torch.device("cpu")  # on a GPU ATen has to wait for the ends, and does
    for overload, a, b in (("Tensor_Tensor", start, end), ("Tensor_Scalar", start, 4), ("Scalar_Tensor", 1.5, end)):
        call = getattr(function, overload)
        if DEVICE == "cpu":
            same(f"{name}.{overload}", lambda f=call, x=a, y=b: f(x, y, 9, device=device), exact=False)
        both(lambda f=call, x=a, y=b: f(x, y, 9, dtype=torch.float64, device=device))
    both(lambda: function.Tensor_Tensor(torch.ones(2), end, 9))
    both(lambda: getattr(torch, name)(start, end, 5, out=torch.empty(3, 5)[1]))


def test_spaced_refuses_what_aten_refuses() -> None:
    both(lambda: torch.linspace(0, 1, -1, device=DEVICE))
    both(lambda: torch.linspace(0, 1e6, 5, dtype=torch.float16, device=DEVICE))
    both(lambda: torch.linspace(0, 300, 5, dtype=torch.uint8, device=DEVICE))
    both(lambda: torch.linspace(0, 1j, 5, device=DEVICE))
    both(lambda: torch.linspace(0, 1, 5, dtype=torch.bool, device=DEVICE))
    both(lambda: torch.linspace(0, float("inf"), 5, device=DEVICE))
    both(lambda: torch.linspace(0, float("nan"), 5, dtype=torch.int32, device=DEVICE))


# ---- eye, triangles


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, torch.bool, torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 3), (5, 9), (9, 5), (1, 40), (40, 1), (33, 65), (0, 3), (3, 0)]
)
def test_eye(rows: int, columns: int, dtype: torch.dtype) -> None:
    same("eye.m", lambda: torch.eye(rows, columns, dtype=dtype, device=DEVICE))
    if rows == columns:
        same("eye", lambda: torch.eye(rows, dtype=dtype, device=DEVICE))
    both(lambda: torch.eye(-1, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize("name", ["tril_indices", "triu_indices"])
def test_triangles(name: str) -> None:
    function = getattr(torch, name)
    for rows, columns, offset in itertools.product((0, 1, 4, 7), (0, 1, 5, 7), (-9, -7, -6, -3, -1, 0, 1, 2, 6, 7, 11)):
        for dtype in (torch.int64, torch.int32):
            same(name, lambda a=rows, b=columns, c=offset, d=dtype: function(a, b, c, dtype=d, device=DEVICE))
    both(lambda: function(-1, 2, device=DEVICE))
    both(lambda: function(3, 4, dtype=torch.float32, device=DEVICE))


# ---- out tensors


def outs(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    def make(*sizes: int) -> Tensor:
        return torch.full(sizes, 9, dtype=dtype, device=DEVICE)

    return {
        "same": lambda: make(*shape),
        "empty": lambda: make(0),
        "stepped": lambda: make(*shape, 2)[..., 1],
        "turned": lambda: make(*shape[::-1]).permute(list(range(len(shape) - 1, -1, -1))),
        "offset": lambda: make(torch.Size(shape).numel() + 1)[1:].view(shape),
        "flat": lambda: make(torch.Size(shape).numel()),
    }


CALLS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Any]]] = {
    "arange.out": ((12,), lambda out: aten.arange.out(12, out=out)),
    "arange.start_out": ((12,), lambda out: aten.arange.start_out(3, 27, 2, out=out)),
    "linspace.out": ((12,), lambda out: aten.linspace.out(-1, 5, 12, out=out)),
    "logspace.out": ((12,), lambda out: aten.logspace.out(0, 2, 12, 2.0, out=out)),
    "range.out": ((12,), lambda out: aten.range.out(1, 12, 1, out=out)),
    "eye.out": ((4, 4), lambda out: aten.eye.out(4, out=out)),
    "eye.m_out": ((4, 6), lambda out: aten.eye.m_out(4, 6, out=out)),
    "tril_indices.out": ((2, 6), lambda out: aten.tril_indices.out(3, 4, 0, out=out)),
    "zeros.out": ((3, 5), lambda out: aten.zeros.out([3, 5], out=out)),
    "zeros_like.out": ((3, 5), lambda out: aten.zeros_like.out(torch.ones(3, 5, device=DEVICE), out=out)),
    "ones_like.out": ((3, 5), lambda out: aten.ones_like.out(torch.ones(3, 5, device=DEVICE), out=out)),
    "full_like.out": ((3, 5), lambda out: aten.full_like.out(torch.ones(3, 5, device=DEVICE), 7, out=out)),
    "new_zeros.out": ((3, 5), lambda out: aten.new_zeros.out(torch.ones(3, device=DEVICE), [3, 5], out=out)),
    "new_ones.out": ((3, 5), lambda out: aten.new_ones.out(torch.ones(3, device=DEVICE), [3, 5], out=out)),
    "new_full.out": ((3, 5), lambda out: aten.new_full.out(torch.ones(3, device=DEVICE), [3, 5], 7, out=out)),
    "scalar_tensor.out": ((), lambda out: aten.scalar_tensor.out(7, out=out)),
}


@pytest.mark.parametrize("name", CALLS)
def test_out_tensors(name: str) -> None:
    shape, call = CALLS[name]
    makers = {
        f"{kind} {dtype}": make for dtype in (torch.float32, torch.int64) for kind, make in outs(shape, dtype).items()
    }
    pairs = {kind: (make(), make()) for kind, make in makers.items()}
    expected = {kind: outcome(lambda t=wanted: call(t)) for kind, (wanted, _) in pairs.items()}
    with flag_gems.use_gems():
        results = {kind: outcome(lambda t=ours: call(t)) for kind, (_, ours) in pairs.items()}
    for kind, (wanted, ours) in pairs.items():
        assert_same(results[kind], expected[kind], None, f"{name} {kind}")
        if not isinstance(expected[kind], Raised):
            assert results[kind] is ours and ours.stride() == wanted.stride() and torch.equal(ours, wanted), kind
    same_out = outs(shape, torch.float32)["same"] if "indices" not in name else outs(shape, torch.int64)["same"]
    ran(name, lambda: call(same_out()))


def test_out_of_another_shape_but_as_many() -> None:
    same("arange.start_out", lambda: torch.arange(12, out=torch.empty(3, 4, device=DEVICE)))
    same("arange.start_out", lambda: torch.arange(12, out=torch.empty(4, 3, device=DEVICE).t()))
    same("linspace.out", lambda: torch.linspace(0, 1, 12, out=torch.empty(3, 8, device=DEVICE)[:, ::2]))
    same("arange.start_out", lambda: torch.arange(12, out=torch.empty(24, device=DEVICE).view(2, 3, 4)[1]))
    with pytest.warns(UserWarning, match="resized"), flag_gems.use_gems():
        assert torch.arange(12, out=torch.empty(5, device=DEVICE)).shape == (12,)
    both(lambda: torch.arange(3, out=torch.zeros(1, device=DEVICE).expand(3)))


# ---- options


def test_options() -> None:
    device = torch.device(DEVICE)
    for call in (
        lambda: torch.arange(4, device=DEVICE, requires_grad=False),
        lambda: torch.arange(4.0, device=DEVICE, requires_grad=True),
        lambda: torch.linspace(0, 1, 5, device=DEVICE, requires_grad=True),
        lambda: torch.eye(3, device=DEVICE, requires_grad=True),
        lambda: torch.arange(3, device="meta"),
        lambda: torch.eye(3, device="meta"),
        lambda: torch.linspace(0, 1, 3, device="meta"),
        lambda: torch.arange(3, dtype=torch.float32, layout=torch.strided, device=device, pin_memory=False),
    ):
        expected = call()
        with flag_gems.use_gems():
            ours = call()
        assert ours.requires_grad == expected.requires_grad and ours.device == expected.device
        assert ours.layout == expected.layout and ours.dtype == expected.dtype and ours.is_leaf
        if expected.device.type != "meta":
            assert torch.equal(ours, expected)
    both(lambda: torch.eye(3, device=DEVICE, layout=torch.sparse_coo))
    both(lambda: torch.zeros(3, device=DEVICE, layout=torch.sparse_coo).to_dense())
    both(lambda: torch.arange(3, pin_memory=True))


def test_explicit_functions() -> None:
    """Without a scope, with and without a device: a CPU when none is named, as in torch."""
    ops = flag_gems.ops
    for device in (None, "cpu", torch.device("cpu"), DEVICE, torch.device(DEVICE)):
        assert torch.equal(ops.arange(10, device=device), torch.arange(10, device=device))
        assert torch.equal(ops.arange(1, 10, 2.5, device=device), torch.arange(1, 10, 2.5, device=device))
        short = {"dtype": torch.int16, "device": device}
        assert torch.equal(ops.arange(2, 9, **short), torch.arange(2, 9, **short))
        assert torch.equal(ops.eye(3, 4, device=device), torch.eye(3, 4, device=device))
        assert torch.equal(ops.linspace(0, 1, 7, device=device), torch.linspace(0, 1, 7, device=device))
        assert torch.equal(ops.full((2, 3), 7, device=device), torch.full((2, 3), 7, device=device))
    assert ops.arange(3).device.type == "cpu"
    assert ops.arange(3, device="meta").device.type == "meta"
    out = torch.empty(4, device=DEVICE)
    assert ops.arange_out(4, out=out) is out and out.tolist() == [0, 1, 2, 3]
    assert ops.eye_out(2, out=torch.empty(0, device=DEVICE)).shape == (2, 2)
    with torch.device("meta"):
        assert ops.arange(3).device.type == "meta"


def test_modes_see_factories() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with flag_gems.use_gems(), FakeTensorMode():
        assert type(torch.arange(4)).__name__ == "FakeTensor"
    with flag_gems.use_gems():
        compiled = torch.compile(lambda n: torch.arange(8) + n, backend="eager", fullgraph=True)
        assert compiled(2).tolist() == list(range(2, 10))


# ---- zeros, ones, full: every overload

LIKE = {
    "zeros_like": lambda x, **k: torch.zeros_like(x, **k),
    "ones_like": lambda x, **k: torch.ones_like(x, **k),
    "full_like": lambda x, **k: torch.full_like(x, 3, **k),
}


@pytest.mark.parametrize("name", LIKE)
def test_like(name: str) -> None:
    x = torch.arange(120, dtype=torch.float32, device=DEVICE).view(2, 3, 4, 5)
    formats = (torch.preserve_format, torch.contiguous_format, torch.channels_last)
    views = (x, x.mT, x[:, 1], x.to(memory_format=torch.channels_last), x[..., ::2], x[:, :1].expand(2, 3, 4, 5))
    both(
        *(
            lambda v=view, m=form, d=dtype: LIKE[name](v, memory_format=m, dtype=d)
            for view in views
            for form in formats[: 3 if view.ndim == 4 else 2]
            for dtype in (None, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2)
        )
    )
    same(name, lambda: LIKE[name](x.mT))


@pytest.mark.parametrize("value", [True, 3, 2.5, -1, float("inf"), float("nan"), 1 + 2j, 300, 1e300])
def test_full_infers_and_refuses(value: Any) -> None:
    calls: list[Callable[[], Any]] = []
    for dtype in (None, *FLOATS, *INTS, torch.bool, torch.complex64, torch.uint16):
        calls += [
            lambda d=dtype: torch.full((2, 3), value, dtype=d, device=DEVICE),
            lambda d=dtype: torch.scalar_tensor(value, dtype=d, device=DEVICE),
            lambda d=dtype: torch.ones(2, device=DEVICE).new_full((2,), value, dtype=d),
        ]
    both(*calls)


def test_names_are_torchs() -> None:
    """Named dimensions are no case of ours, and stay what they are."""
    for call in (
        lambda: torch.zeros(2, 3, names=("a", "b"), device=DEVICE),
        lambda: torch.ones(2, 3, names=("a", "b"), device=DEVICE),
        lambda: torch.full((2, 3), 1.0, names=("a", "b"), device=DEVICE),
        lambda: torch.rand(2, names=("a",), device=DEVICE),
    ):
        with warnings.catch_warnings(), flag_gems.use_gems():
            warnings.simplefilter("ignore")
            result = outcome(call)
        if not isinstance(result, Raised):
            assert result.names in (("a", "b"), ("a",))
