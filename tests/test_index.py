"""index, take, index_put beside ATen: mixes of index tensors, masks and None, places of the result's dims, strides."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from test_scatter import DEVICE, LAYOUT, MOVED, SUMMED, aten, check, counts, draw, laid_out, places

pytestmark = pytest.mark.usefixtures("registered")

QUICK = settings(max_examples=12, deadline=None, derandomize=True, database=None)
SIZES = st.lists(st.one_of(st.integers(1, 6), st.sampled_from([16, 33, 130])), min_size=1, max_size=5).filter(
    lambda shape: torch.Size(shape).numel() < 20000
)


def indices_of(shape: list[int], data: st.DataObject, masks: bool) -> list[Any]:
    """A list of indices for a shape: None, tensors that broadcast with each other, at most one mask."""
    common = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    found: list[Any] = []
    kind = data.draw(st.sampled_from([torch.int64, torch.int64, torch.int32]))
    mask_at = data.draw(st.integers(-1, len(shape) - 1)) if masks and DEVICE == "cpu" else -1
    for dim, size in enumerate(shape):
        if dim == mask_at:
            mask = torch.zeros(size, dtype=torch.bool)
            mask[torch.randperm(size, generator=torch.Generator().manual_seed(3))[: common[-1]]] = True
            found.append(mask if mask.sum() in (1, common[-1]) else None)
        elif data.draw(st.booleans()):
            own = [data.draw(st.sampled_from([1, n])) for n in common][data.draw(st.integers(0, len(common) - 1)) :]
            index = places(2 * size, tuple(own), seed=dim, dtype=kind) - size
            found.append(laid_out(index, data.draw(LAYOUT)))
        else:
            found.append(None)
    tensors = [t for t in found if t is not None]
    if any(t.dtype == torch.bool for t in tensors):
        found = [t.long() if t is not None and t.dtype == torch.int32 else t for t in found]
    if not tensors:
        found[0] = places(shape[0], tuple(common))
    return found


@QUICK
@given(shape=SIZES, data=st.data())
def test_index(shape: list[int], data: st.DataObject) -> None:
    self = laid_out(draw(data.draw(st.sampled_from(MOVED)), tuple(shape)), data.draw(LAYOUT))
    indices = indices_of(shape, data, masks=True)
    check("index.Tensor", lambda: aten.index.Tensor(self, indices))
    masked = any(t is not None and t.dtype == torch.bool for t in indices)
    check("_unsafe_index.Tensor", lambda: aten._unsafe_index.Tensor(self, indices), not masked)
    out = torch.empty(0, dtype=self.dtype, device=DEVICE)
    name = "index.Tensor_out"
    before = counts(name)
    expected = aten.index.Tensor(self, indices).clone(memory_format=torch.contiguous_format)
    with flag_gems.use_gems(include=[name]):
        aten.index.Tensor_out(self, indices, out=out)
    assert out.equal(expected)
    assert counts(name) != before


@QUICK
@given(shape=SIZES, accumulate=st.booleans(), data=st.data())
def test_index_put(shape: list[int], accumulate: bool, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(SUMMED))
    self = laid_out(draw(dtype, tuple(shape)), data.draw(LAYOUT))
    indices = indices_of(shape, data, masks=False)
    like = aten.index.Tensor(self, indices).shape
    values = draw(dtype, tuple(size if data.draw(st.booleans()) else 1 for size in like), 9)
    values = laid_out(values, data.draw(LAYOUT))
    if not accumulate:  # which of equal places wins is not specified in ATen
        values = values.flatten()[:1].reshape([1] * len(like))

    def call(of: torch.dtype = dtype) -> Tensor:
        return aten.index_put(self.to(of), indices, values.to(of), accumulate)

    exact = lambda: call(torch.float64)  # noqa: E731
    check("index_put", call, reference=exact)
    check("index_put_", lambda: aten.index_put_(self.clone(), indices, values, accumulate), reference=exact)
    check("_index_put_impl_", lambda: aten._index_put_impl_(self.clone(), indices, values, accumulate), True, exact)
    check("_unsafe_index_put", lambda: aten._unsafe_index_put(self, indices, values, accumulate), True, exact)


def test_index_put_of_halves_rounds_once() -> None:
    self, index = torch.full((3, 4), 256.0, dtype=torch.bfloat16, device=DEVICE), places(1, (600,))
    with flag_gems.use_gems(include=["index_put"]):
        got = self.index_put((index,), torch.ones(600, 4, dtype=torch.bfloat16, device=DEVICE), accumulate=True)
    assert got[0].tolist() == [torch.tensor(856.0).bfloat16().item()] * 4


def test_masks() -> None:
    """Expanded on a CPU; on a GPU, where the count would have to be waited for, left to ATen."""
    here = DEVICE == "cpu"
    self = draw(torch.float32, (6, 8, 10))
    mask = (torch.arange(480, device=DEVICE) % 3 == 0).view(6, 8, 10)
    for layout in ("contiguous", "transposed", "stepped", "flipped"):
        m = laid_out(mask, layout)
        check("index.Tensor", lambda m=m: self[m], here)
        check("index.Tensor", lambda m=m: self[:, m[0]], here)
        check("index.Tensor", lambda m=m: self[m[:, :, 0]], here)
        check("index.Tensor", lambda m=m: laid_out(self, "permuted")[m[:, 0, 0], :, 3], here)
        check("index.Tensor", lambda m=m: self[m[:, 0, 0].logical_not().logical_and(m[:, 0, 0])], here)
        check("index_put_", lambda m=m: self.clone().index_put_((m,), self[m] * 2), here)
    check("index.Tensor", lambda: self[mask[:, :5]], kernel=False)
    check("index.Tensor", lambda: self[mask[:, 0].byte()[:, 0]], kernel=False)
    check("index_put_", lambda: self.clone().index_put_((mask,), torch.tensor(2.0, device=DEVICE)), kernel=False)


def test_out_of_range() -> None:
    if DEVICE != "cpu":
        return  # there it is a device-side assertion, after which the process has no device
    self, index = torch.zeros(6, 8), places(6, (40,)).clone()
    for bad in (6, -7, 1 << 40):
        index[20] = bad
        check("index.Tensor", lambda: self[index], kernel=False)
        check("index.Tensor", lambda: self[index, index % 8], kernel=False)
        check("take", lambda: self.take(index * 8), kernel=False)
        for accumulate in (False, True):
            for indices in ((index,), (index, index % 8)):
                name = "index_put_"
                check(name, lambda i=indices, a=accumulate: self.index_put_(i, torch.ones(()), a), kernel=False)
                with flag_gems.use_gems(include=[name]), pytest.raises(IndexError):
                    self.index_put_(indices, torch.ones(()), accumulate)
    self.zero_()


def test_what_is_left_to_aten() -> None:
    self, i = draw(torch.float32, (4, 5, 6)), places(4, (3,))
    check("index.Tensor", lambda: aten.index.Tensor(self, [i, i, i, i]), kernel=False)
    check("index.Tensor", lambda: self[i, places(4, (2,))], kernel=False)
    check("index.Tensor", lambda: aten.index.Tensor(self, [i, i.int()]), kernel=False)
    check("index.Tensor", lambda: self[:, :0][:, i], kernel=False)
    check("index_put", lambda: self.index_put((i,), torch.ones(2, device=DEVICE)), kernel=False)
    check("index_put", lambda: self.index_put((i,), torch.ones((), device=DEVICE).double()), kernel=False)
    check("take", lambda: self.take(i.int()), kernel=False)


@QUICK
@given(shape=SIZES, data=st.data())
def test_take(shape: list[int], data: st.DataObject) -> None:
    self = laid_out(draw(data.draw(st.sampled_from(MOVED)), tuple(shape)), data.draw(LAYOUT))
    own = tuple(data.draw(st.lists(st.integers(0, 40), min_size=0, max_size=2)))
    index = laid_out(places(2 * self.numel(), own) - self.numel(), data.draw(LAYOUT))
    check("take", lambda: self.take(index))
    out = torch.empty(0, dtype=self.dtype, device=DEVICE)
    check("take.out", lambda: torch.take(self, index, out=out.resize_(0)))


def test_composites_land_here() -> None:
    """take_along_dim, one_hot, repeat_interleave and assignments by index are made of these rows."""
    self, index = draw(torch.float32, (6, 8)), places(6, (3, 8))
    with flag_gems.use_gems():
        flag_gems.reset_stats()
        self.take_along_dim(index, 0)
        torch.nn.functional.one_hot(index, 6)
        self.repeat_interleave(3, 0)
        self.clone()[index[0]] = 1.0
        ran = {name for name, count in flag_gems.stats().items() if count["kernel"]}
    assert {"gather", "scatter_.value"} <= ran, ran
    assert ran & {"index_put_", "index_fill_.int_Scalar", "_index_put_impl_"}, ran


def test_autograd_shares_its_indices() -> None:
    """torch hands one list of indices to two operators: none may take the tensors out of it."""
    x = torch.randn(5, 6, device=DEVICE, requires_grad=True)
    v = torch.randn(3, 6, device=DEVICE, requires_grad=True)
    index = torch.tensor([0, 2, 4], device=DEVICE)
    wanted = torch.autograd.grad((torch.index_put(x, (index,), v) ** 2).sum(), (x, v))
    with flag_gems.use_gems():
        got = torch.autograd.grad((torch.index_put(x, (index,), v) ** 2).sum(), (x, v))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
