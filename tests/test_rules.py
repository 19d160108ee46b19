"""What every row keeps, whatever it computes: layouts, empty and 0-dim tensors, the same bits twice, nothing kept."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_map

from compare import Raised, assert_same, outcome, tensors, to_float64
from layouts import LAYOUTS
from opinfo import RANDOM, base_of, copy_of, infos_of, reference_of, rows, samples

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
COUNT = 4  # samples of an OpInfo
# An index out of range, or a wrong count, stops a GPU's context for good, in ATen as here: no empty tensors for these
# there, and nothing that is an error on a CPU.
INDEXED = {
    "gather",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_reduce",
    "index_select",
    "nn.functional.cross_entropy",
    "nn.functional.embedding",
    "nn.functional.nll_loss",
    "put",
    "repeat_interleave",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "take",
}


# Where one of equal places wins: the last on a CPU, in ATen too; ATen does not say which on a GPU.
PLACED = {"index_copy", "index_put", "put", "scatter"}


def cases() -> list[Any]:
    """Each OpInfo that a row is reached by, once, in a float and in an integer dtype."""
    found = {}
    for row in rows():
        for info in [] if base_of(row) in RANDOM else infos_of(row):
            for dtype in (torch.float32, torch.int32):
                if dtype in info.supported_dtypes(DEVICE):
                    name = f"{info.name}.{info.variant_test_name}-{str(dtype).removeprefix('torch.')}"
                    found[name] = pytest.param(info, dtype, id=name)
    return list(found.values())


def map_tensors(change: Callable[[Tensor], Tensor | None], value: Any) -> Any:
    """The arguments with every tensor changed; one that the change does not concern stays."""

    def one(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        with torch.no_grad():
            changed = change(item)
        return item if changed is None else changed.detach().requires_grad_(item.requires_grad)

    return tree_map(one, value)


LAST: dict[str, list[tuple[Any, ...]]] = {}  # of the operator whose tests are running, by its name and dtype


def arguments(info: OpInfo, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """(input, args, kwargs) of a few samples, the ones with more dims first; not to be written."""
    key = f"{info.name} {info.variant_test_name} {dtype}"
    if key not in LAST:
        found = [(s.input, s.args, s.kwargs) for s in samples(info, DEVICE, dtype, False, 24)]
        found.sort(key=lambda case: -max((t.ndim for t in tensors(case)), default=0))
        LAST.clear()
        LAST[key] = found[:COUNT]
    return LAST[key]


def run(info: OpInfo, case: tuple[Any, ...]) -> Any:
    return call(info.op, case)


def call(function: Any, case: tuple[Any, ...]) -> Any:
    first, args, kwargs = case
    return function(first, *args, **kwargs)


def both(info: OpInfo, case: tuple[Any, ...], note: str) -> None:
    if DEVICE != "cpu" and info.name in INDEXED | PLACED:
        on_cpu = tree_map(lambda item: item.cpu() if isinstance(item, Tensor) else item, case)
        expected = outcome(lambda: call(reference_of(info), on_cpu))
        if isinstance(expected, Raised):
            return
    aten = outcome(lambda: call(reference_of(info), case))
    if DEVICE != "cpu" and info.name in PLACED and not isinstance(aten, Raised):
        aten = torch.empty_strided(aten.shape, aten.stride(), dtype=aten.dtype, device=aten.device)
        aten.copy_(expected)
    with flag_gems.use_gems():
        ours = outcome(lambda: run(info, case))
    assert_same(ours, aten, lambda: call(reference_of(info), to_float64(case)), note)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("info", "dtype"), cases())
def test_layout(info: OpInfo, dtype: torch.dtype, layout: str) -> None:
    for case in arguments(info, dtype):
        changed = map_tensors(LAYOUTS[layout], case)
        both(info, changed, f"{info.name} {layout} {[tuple(t.shape) for t in tensors(changed)]}")


@pytest.mark.parametrize(("info", "dtype"), cases())
def test_mixed_layouts(info: OpInfo, dtype: torch.dtype) -> None:
    """Each tensor of a call in another layout."""
    for case in arguments(info, dtype):
        position = itertools.cycle(LAYOUTS.values())
        both(info, map_tensors(lambda t, p=position: next(p)(t), case), f"{info.name} mixed")


@pytest.mark.parametrize(("info", "dtype"), cases())
def test_empty_and_0dim(info: OpInfo, dtype: torch.dtype) -> None:
    """A size of 0 in each dim, and 0-dim tensors: ATen's result, or its error."""
    if DEVICE != "cpu" and info.name in INDEXED:
        return
    for case in arguments(info, dtype)[:2]:
        rank = max((t.ndim for t in tensors(case)), default=0)
        for dim in range(rank):
            both(info, map_tensors(lambda t, d=dim: t.narrow(d, 0, 0) if d < t.ndim else None, case), f"empty {dim}")
        both(info, map_tensors(lambda t: t.reshape(-1)[0] if t.numel() else None, case), "0-dim")


@pytest.mark.parametrize(("info", "dtype"), cases())
def test_same_bits_twice(info: OpInfo, dtype: torch.dtype) -> None:
    for case in arguments(info, dtype)[:2]:
        with flag_gems.use_gems():
            first, second = outcome(lambda c=case: run(info, c)), outcome(lambda c=case: run(info, c))
        for a, b in zip(tensors(first), tensors(second), strict=True):
            assert a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()


@pytest.mark.parametrize(("info", "dtype"), cases())
def test_nothing_is_kept(info: OpInfo, dtype: torch.dtype) -> None:
    """After the call nobody but the caller holds an argument's memory."""
    for case in arguments(info, dtype)[:2]:
        fresh = copy_of(case, False)
        held = tensors(fresh)
        use = torch._C._storage_Use_Count
        before = [use(t.untyped_storage()._cdata) for t in held]
        with flag_gems.use_gems():
            result = outcome(lambda c=fresh: run(info, c))
        mine = {t.untyped_storage().data_ptr() for t in tensors(result)}
        if mine & {t.untyped_storage().data_ptr() for t in held}:
            continue  # a view or the input itself came back
        assert [use(t.untyped_storage()._cdata) for t in held] == before
        watched = [weakref.ref(t) for t in held]
        del fresh, held, result
        gc.collect()
        assert not any(w() is not None for w in watched)
