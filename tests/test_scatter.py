"""scatter and its reductions, index_add and its kin, put beside ATen: order, ranges, gradients."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import check, counts, outcome
from layouts import LAYOUTS

DEVICE = flag_gems.device
aten = torch.ops.aten
# A few dtypes: every other one is a program of its own to compile, and test_opinfo.py has them all.
MOVED = (torch.float32, torch.bool, torch.complex128)
SUMMED = (torch.float32, torch.bfloat16)
REDUCES = ("sum", "prod", "mean", "amax", "amin")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*beta", "ignore:.*deprecated"),
    pytest.mark.usefixtures("registered"),
]


def draw(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Small numbers whose sums and products stay near what halves hold."""
    made = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed))
    made = made / 2 if dtype.is_floating_point else made
    return made.to(dtype).to(DEVICE)


def places(high: int, shape: tuple[int, ...], seed: int = 1, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def apart(high: int, shape: tuple[int, ...], dim: int) -> Tensor:
    """Indices that do not repeat along dim."""
    order = torch.rand((*shape[:dim], high, *shape[dim + 1 :]), generator=torch.Generator().manual_seed(2))
    return order.argsort(dim).narrow(dim, 0, min(high, shape[dim])).to(DEVICE)


def laid_out(t: Tensor, layout: str) -> Tensor:
    changed = LAYOUTS[layout](t)
    return t if changed is None else changed


SHAPES = st.lists(st.one_of(st.integers(1, 9), st.sampled_from([31, 32, 33, 64, 130])), min_size=1, max_size=3).filter(
    lambda shape: torch.Size(shape).numel() < 20000
)
LAYOUT = st.sampled_from(sorted(LAYOUTS))
QUICK = settings(max_examples=8, deadline=None, derandomize=True, database=None)


# ---- scatter


@QUICK
@given(shape=SHAPES, data=st.data())
def test_scatter(shape: list[int], data: st.DataObject) -> None:
    """Elements and numbers: on a CPU ATen too lets the last of equal places win."""
    dtype, dim = data.draw(st.sampled_from(MOVED)), data.draw(st.integers(0, len(shape) - 1))
    own = [data.draw(st.integers(0, size)) for size in shape]
    own[dim] = data.draw(st.integers(0, 140))
    self = laid_out(draw(dtype, tuple(shape)), data.draw(LAYOUT))
    layout = data.draw(LAYOUT)
    if DEVICE == "cpu":
        index = laid_out(places(shape[dim], tuple(own)), layout)
    else:  # there nobody says which of equal places wins in ATen
        index = laid_out(apart(shape[dim], tuple(own), dim), "contiguous" if layout == "expanded" else layout)
    src = laid_out(draw(dtype, tuple(size + 1 for size in own), 5), data.draw(LAYOUT))
    check("scatter.src", lambda: self.scatter(dim, index, src))
    check("scatter.value", lambda: self.scatter(dim, index, 1))
    check("scatter_.src", lambda: self.clone().scatter_(dim, index, src))
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    check("scatter.src_out", lambda: torch.scatter(self, dim, index, src, out=out.resize_(0)))


@QUICK
@given(shape=SHAPES, reduce=st.sampled_from(REDUCES), include=st.booleans(), data=st.data())
def test_scatter_reduce(shape: list[int], reduce: str, include: bool, data: st.DataObject) -> None:
    dtype, dim = data.draw(st.sampled_from(SUMMED)), data.draw(st.integers(0, len(shape) - 1))
    own = [data.draw(st.integers(0, size)) for size in shape]
    own[dim] = data.draw(st.integers(0, 60))
    self = laid_out(draw(dtype, tuple(shape)), data.draw(LAYOUT))
    index = laid_out(places(shape[dim], tuple(own)), data.draw(LAYOUT))
    src = laid_out(draw(dtype, tuple(own), 5), data.draw(LAYOUT))

    def call(of: torch.dtype = dtype) -> Tensor:
        return self.to(of).scatter_reduce(dim, index, src.to(of), reduce, include_self=include)

    check("scatter_reduce.two", call, reference=lambda: call(torch.float64))
    check(
        "scatter_reduce_.two",
        lambda: self.clone().scatter_reduce_(dim, index, src, reduce, include_self=include),
        reference=lambda: call(torch.float64),
    )


@pytest.mark.parametrize("dtype", SUMMED)
@pytest.mark.parametrize("word", ["add", "multiply"])
@pytest.mark.parametrize("length", [5, 40])
def test_scatter_with_a_word(length: int, word: str, dtype: torch.dtype) -> None:
    self, index, src = draw(dtype, (6, 8)), places(6, (length, 7)), draw(dtype, (length, 7), 3)
    wide = lambda: self.double().scatter(0, index, src.double(), reduce=word)  # noqa: E731
    number = lambda: self.double().scatter(0, index, 2, reduce=word)  # noqa: E731
    check("scatter.reduce", lambda: self.scatter(0, index, src, reduce=word), reference=wide)
    check("scatter_.reduce", lambda: self.clone().scatter_(0, index, src, reduce=word), reference=wide)
    check("scatter.value_reduce", lambda: self.scatter(0, index, 2, reduce=word), reference=number)


def test_extremes_keep_nan_and_zero_signs() -> None:
    nan, inf = float("nan"), float("inf")
    self, index = torch.tensor([1.0, nan, -inf, -0.0, 0.0], device=DEVICE), torch.arange(5, device=DEVICE).repeat(9)
    src = torch.tensor([nan, 2.0, -inf, 0.0, -0.0], device=DEVICE).repeat(9)
    for reduce, include in itertools.product(REDUCES, (True, False)):
        call = lambda r=reduce, i=include: self.scatter_reduce(0, index, src, r, include_self=i)  # noqa: E731
        check("scatter_reduce.two", call)
    for value in (nan, inf, -0.0, 1e300):
        check("scatter.value", lambda v=value: self.double().scatter(0, index, v))


# ---- along a dim


@QUICK
@given(shape=SHAPES, data=st.data())
def test_along_a_dim(shape: list[int], data: st.DataObject) -> None:
    dtype, dim = data.draw(st.sampled_from(SUMMED)), data.draw(st.integers(0, len(shape) - 1))
    count = data.draw(st.one_of(st.integers(0, 40), st.just(100)))
    own = list(shape)
    own[dim] = count
    self = laid_out(draw(dtype, tuple(shape)), data.draw(LAYOUT))
    src = laid_out(draw(dtype, tuple(own), 7), data.draw(LAYOUT))
    index = laid_out(places(shape[dim], (count,)), data.draw(LAYOUT))
    once = apart(shape[dim], (count,), 0)
    few = src.narrow(dim, 0, once.numel())
    exact = lambda: self.double().index_add(dim, index, src.double(), alpha=2)  # noqa: E731
    check("index_add", lambda: self.index_add(dim, index, src, alpha=2), reference=exact)
    check("index_add_", lambda: self.clone().index_add_(dim, index.int(), src, alpha=2), reference=exact)
    check("index_copy", lambda: self.index_copy(dim, once, few))
    check("index_copy_", lambda: self.clone().index_copy_(dim, once, few))
    check("index_fill.int_Scalar", lambda: self.index_fill(dim, index, 3))
    check("index_fill.int_Tensor", lambda: self.index_fill(dim, index, torch.tensor(3, dtype=dtype)))
    check("index_fill_.int_Scalar", lambda: self.clone().index_fill_(dim, index - shape[dim], 3))
    reduce, include = data.draw(st.sampled_from(REDUCES[1:])), data.draw(st.booleans())

    def call(of: torch.dtype = dtype) -> Tensor:
        return self.to(of).index_reduce(dim, index, src.to(of), reduce, include_self=include)

    check("index_reduce", call, reference=lambda: call(torch.float64))


@pytest.mark.parametrize("dtype", MOVED)
def test_the_last_of_equal_places_wins(dtype: torch.dtype) -> None:
    count = 3000
    index, src = places(50, (count,)), torch.arange(count, device=DEVICE)[:, None].expand(count, 12).to(dtype)
    wanted = torch.zeros(50, 12, dtype=dtype)
    for i, at in enumerate(index.tolist()):
        wanted[at] = src[i].cpu()
    zero = torch.zeros(50, 12, dtype=dtype, device=DEVICE)
    with flag_gems.use_gems():
        assert zero.index_copy(0, index, src).cpu().equal(wanted)
        assert zero.scatter(0, index[:, None].expand(count, 12), src.contiguous()).cpu().equal(wanted)
        assert zero.index_put((index,), src).cpu().equal(wanted)
        assert aten.put(zero, index, src[:, 0].contiguous()).view(-1)[:50].cpu().equal(wanted[:, 0])


# ---- put


@QUICK
@given(shape=SHAPES, accumulate=st.booleans(), data=st.data())
def test_put(shape: list[int], accumulate: bool, data: st.DataObject) -> None:
    dtype, self_count = data.draw(st.sampled_from(SUMMED)), torch.Size(shape).numel()
    self = draw(dtype, tuple(shape))
    count = data.draw(st.integers(0, 60))
    index = places(self_count, (count, 2)) if accumulate else apart(self_count, (count,), 0)
    index = torch.where(index % 2 == 0, index, index - self_count)
    src = laid_out(draw(dtype, tuple(index.shape), 3), data.draw(LAYOUT))
    exact = lambda: aten.put(self.double(), index, src.double(), accumulate)  # noqa: E731
    check("put", lambda: aten.put(self, index, src, accumulate), reference=exact)
    check("put_", lambda: self.clone().put_(index, src, accumulate), reference=exact)


# ---- ranges


@pytest.mark.parametrize("bad", [-7, 6, 1 << 40])
def test_out_of_range(bad: int) -> None:
    """ATen's own error, and self is untouched."""
    if DEVICE != "cpu":
        return  # there it is a device-side assertion, after which the process has no device
    self, src = torch.zeros(6, 8), torch.ones(40, 8)
    index = places(6, (40,)).clone()
    index[33] = bad
    wide = index[:, None].expand(40, 8)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "scatter_.src": lambda t: t.scatter_(0, wide, src),
        "scatter_.value": lambda t: t.scatter_(0, wide, 1),
        "scatter_reduce_.two": lambda t: t.scatter_reduce_(0, wide, src, "sum"),
        "index_add_": lambda t: t.index_add_(0, index, src),
        "index_copy_": lambda t: t.index_copy_(0, index, src),
        "index_fill_.int_Scalar": lambda t: t.index_fill_(0, index, 2),
    }
    for name, call in calls.items():
        given_self = self.clone()
        check(name, lambda c=call, t=given_self: c(t), kernel=False)
    with flag_gems.use_gems():
        for name, call in calls.items():
            entry = counts(name)["kernel"]
            outcome(lambda c=call: c(self.clone()))
            assert counts(name)["kernel"] == entry


def test_what_is_left_to_aten() -> None:
    self, index = draw(torch.float32, (6, 8)), places(6, (6, 8))
    src = draw(torch.float32, (6, 8))
    check("scatter.src", lambda: self.scatter(0, index, src.double()), kernel=False)
    check("scatter.src", lambda: self.scatter(0, index, src[:2]), kernel=False)
    check("scatter.src", lambda: self.scatter(5, index, src), kernel=False)
    check("scatter.value", lambda: self.to(torch.int8).scatter(0, index, 1000), kernel=False)
    check("scatter_reduce.two", lambda: self.scatter_reduce(0, index, src, "median"), kernel=False)
    check("index_copy", lambda: self.index_copy(0, index[0].int(), src), kernel=False)
    check("index_add", lambda: self.index_add(0, index, src), kernel=False)
    check("scatter_.src", lambda: self[:1].expand(6, 8).scatter_(0, index, src), kernel=False)


# ---- gradients, bits, modes


def test_gradients() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    s = torch.randn(7, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
    index, once = places(4, (7,)), torch.tensor([2, 0, 3], device=DEVICE)
    wide = index[:, None].expand(7, 5)
    calls = (
        lambda a, b: a.scatter(0, once[:, None].expand(3, 5), b[:3]),
        lambda a, b: a.scatter_reduce(0, wide, b, "sum"),
        lambda a, b: a.scatter_reduce(0, wide, b, "mean", include_self=False),
        lambda a, b: a.scatter_reduce(0, wide, b, "prod"),
        lambda a, b: a.index_add(0, index, b, alpha=2),
        lambda a, b: a.index_copy(0, once, b[:3]),
        lambda a, b: a.index_fill(0, once, 2.0) * b[:4],
        lambda a, b: a.index_put((index,), b, True),
        lambda a, b: a.put(index, b[:, 0], True),
        lambda a, b: a[index] * b,
        lambda a, b: a.take(index) * b[:, 0],
        lambda a, b: a.repeat_interleave(2, 0)[:7] * b,
        lambda a, b: a.take_along_dim(wide, 0) * b,
    )
    with flag_gems.use_gems():
        for call in calls:
            assert torch.autograd.gradcheck(call, (x, s))


def test_same_bits_twice() -> None:
    index = places(40, (5000,))
    src = torch.randn(5000, 6, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    zero = torch.zeros(40, 6, device=DEVICE)
    wide = index[:, None].expand(5000, 6)
    with flag_gems.use_gems():
        for call in (
            lambda: zero.index_add(0, index, src),
            lambda: zero.index_put((index,), src, True),
            lambda: zero.index_put((index,), src),
            lambda: zero.scatter(0, wide, src),
            *(lambda r=r: zero.scatter_reduce(0, wide, src, r) for r in REDUCES),
        ):
            assert call().equal(call())


MODES = """
import torch, flag_gems
torch.manual_seed(0)
aten = torch.ops.aten
x, y = torch.randn(6, 70), torch.randn(5, 12, 8)
w, s = torch.randint(0, 70, (6, 90)), torch.randn(6, 90)
i, j, v = torch.randint(-5, 5, (40,)), torch.randint(-12, 12, (40,)), torch.randn(40, 8)
r, u = torch.randint(0, 5, (50,)), torch.randn(50, 12, 8)
calls = {
    "scatter.src": lambda: x.scatter(1, w, s),
    "scatter.value": lambda: x.t().scatter(0, w.t(), 2),
    "scatter_reduce.two": lambda: x.scatter_reduce(1, w, s, "mean", include_self=False),
    "scatter_reduce_.two": lambda: x.t().clone().scatter_reduce_(0, w.t(), s.t(), "amax"),
    "index.Tensor": lambda: y[i, :, j % 8],
    "take": lambda: x.take(j),
    "index_put": lambda: aten.index_put(y, [None, j, j % 8], v.t()[:5], True),
    "index_put_": lambda: aten.index_put_(y.clone(), [i, j], v),
    "index_add": lambda: y.index_add(0, r, u, alpha=3),
    "index_add_": lambda: y.clone().index_add_(0, r[:7], u[:7]),
    "index_copy": lambda: y.index_copy(0, r, u),
    "index_fill.int_Scalar": lambda: y.index_fill(0, r, 2),
    "index_reduce": lambda: y.index_reduce(0, r, u, "prod", include_self=False),
    "put": lambda: aten.put(x, w[0], s[0], True),
    "put_": lambda: x.clone().put_(w[0], s[0]),
}
expected = {name: call() for name, call in calls.items()}
with flag_gems.use_gems(include=list(calls)):
    ours = {name: call() for name, call in calls.items()}
for name in calls:
    torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-4, msg=name)
    assert flag_gems.stats()[name]["kernel"] and not flag_gems.stats()[name]["fallback"], name
"""


@pytest.mark.parametrize("mode", ["checked", pytest.param("faithful", marks=pytest.mark.slow)])
def test_modes(mode: str) -> None:
    """What a GPU runs and the fast cpu backend does not: claims, the sort, ordered segments; no race."""
    environment = os.environ | {"GEMS_CPU_MODE": mode, "GEMS_VENDOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", MODES], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
