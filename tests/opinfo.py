"""Rows of the operator table beside torch's own database of operators and samples (OpInfo)."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from flag_gems import _C, overrides
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import set_rng_seed
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_map

aten = torch.ops.aten

TABLE = (2, 13)  # the torch whose schemas the table has

# Rows whose OpInfo has another name than the rules of `infos_of` find: an aten name, then OpInfo names.
NAMES = {
    "_to_copy": ("to",),
    "copy_": ("to",),
    "fill_": ("fill",),
    "zero_": ("zeros_like",),
    "native_dropout": (),
    "nll_loss_forward": ("nn.functional.nll_loss", "nn.functional.cross_entropy"),
    "nll_loss2d_forward": ("nn.functional.nll_loss", "nn.functional.cross_entropy"),
    "nll_loss_backward": ("nn.functional.nll_loss",),
    "nll_loss2d_backward": ("nn.functional.nll_loss",),
    "_fused_rms_norm": ("nn.functional.rms_norm",),
    "_fused_rms_norm_backward": ("nn.functional.rms_norm",),
    "embedding_dense_backward": ("nn.functional.embedding",),
    "_softmax_backward_data": ("softmax",),
    "_log_softmax_backward_data": ("log_softmax",),
    "native_dropout_backward": (),
    "_unique2": ("unique",),
    "unique_dim": ("unique",),
    "unique_dim_consecutive": ("unique_consecutive",),
    "threshold_backward": ("nn.functional.relu",),
    "constant_pad_nd": ("nn.functional.pad",),
    "max_pool2d_with_indices": ("nn.functional.max_pool2d",),
    "max_pool2d_with_indices_backward": ("nn.functional.max_pool2d", "max_pool2d_with_indices_backward"),
    "upsample_nearest2d": ("nn.functional.upsample_nearest",),
    "upsample_nearest2d_backward": ("nn.functional.upsample_nearest",),
    "convolution": tuple(f"nn.functional.conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
    "convolution_backward": ("nn.functional.conv2d",),
    **{
        f"{kind}_pad{n}d{backward}": ("nn.functional.pad",)
        for kind in ("reflection", "replication")
        for n in (1, 2, 3)
        for backward in ("", "_backward")
    },
}
# Rows that two calls give different numbers of.
DISTRIBUTIONS = ("uniform", "normal", "exponential", "bernoulli", "cauchy", "log_normal", "geometric", "random")
RANDOM = {"native_dropout", "normal_functional", "rand", "randn", "rand_like", "randn_like", "randint", "randint_like"}
RANDOM |= {*DISTRIBUTIONS, *(name + "_" for name in DISTRIBUTIONS), "multinomial", "randperm"}


def base_of(row: dict[str, Any]) -> str:
    """aten name without overload: "add" of "add.Tensor(...)"."""
    return row["schema"].split("(")[0].split(".")[0]


@functools.cache
def infos_by_name() -> dict[str, list[OpInfo]]:
    found: dict[str, list[OpInfo]] = {}
    for info in op_db:
        names = {info.name, info.aten_name or info.name, *(alias.name for alias in info.aliases)}
        for name in names:
            found.setdefault(name, []).append(info)
    return found


def infos_of(row: dict[str, Any]) -> list[OpInfo]:
    """The OpInfos whose samples reach a row: by name, then by the forward operator of a backward one."""
    base = base_of(row)
    names = NAMES.get(base)
    if names is None:
        forward = base.removesuffix("_backward").strip("_") if base.endswith("_backward") else base
        plain = forward.strip("_").removesuffix("_forward")
        names = (forward, f"nn.functional.{forward}", plain, f"nn.functional.{plain}", plain.removeprefix("native_"))
        names += (f"nn.functional.{plain.removeprefix('native_')}",)
    infos = itertools.chain.from_iterable(infos_by_name().get(name, []) for name in names)
    return list({id(info): info for info in infos}.values())


def stable_sort(x: Tensor, dim: int = -1, descending: bool = False, **_: Any) -> Any:
    return torch.sort(x, stable=True, dim=dim, descending=descending)


def stable_topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return tuple(t.narrow(dim, 0, k).contiguous() for t in stable_sort(x, dim, largest))


def stable_kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    found = (t.narrow(dim, k - 1, 1).contiguous() for t in stable_sort(x, dim))
    return tuple(t if keepdim else t.squeeze(dim) for t in found)


def stable_median(x: Tensor, dim: int | None = None, keepdim: bool = False, nan: bool = True) -> Any:
    if dim is None:
        return (torch.median if nan else torch.nanmedian)(x.contiguous())
    values, indices = stable_sort(x, dim)
    numbers = (values == values).sum(dim, keepdim=True)  # NaNs lie behind them
    middle = (numbers - 1).clamp(min=0) // 2
    place = torch.where(numbers < x.shape[dim], numbers, middle) if nan else middle
    found = (t.gather(dim, place) for t in (values, indices))
    return tuple(t if keepdim else t.squeeze(dim) for t in found)


def settled_mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    values = torch.mode(x.detach().cpu(), dim, True)[0].to(x.device)
    line = torch.arange(x.shape[dim], device=x.device).view([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    places = (line * (x == values)).amax(dim, keepdim=True)
    return tuple(t if keepdim else t.squeeze(dim) for t in (x.gather(dim, places), places))


# What is right where ATen has one of several results, or a wrong one: the first of equal elements, as our kernels (of
# mode the last, of a median the one in the middle in a stable order); the median of a tensor in which an element lies
# several times (ATen's is that of other elements).
SETTLED = {
    "sort": stable_sort,
    "topk": stable_topk,
    "kthvalue": stable_kthvalue,
    "mode": settled_mode,
    "median": stable_median,
    # ATen reads weight and bias as if they were contiguous.
    "native_group_norm": lambda x, *args: torch.native_group_norm(
        x, *(a.contiguous() if isinstance(a, Tensor) else a for a in args)
    ),
    # ATen finds the places of pixels in float32, where their differences lose digits; our kernels do so on a GPU too.
    "_upsample_bilinear2d_aa": lambda x, *args, **kwargs: (
        aten._upsample_bilinear2d_aa(x.double(), *args, **kwargs).to(x.dtype)
        if x.dtype == torch.float32 and x.device.type == "cpu"
        else aten._upsample_bilinear2d_aa(x, *args, **kwargs)
    ),
    "nanmedian": functools.partial(stable_median, nan=False),
}


def reference_of(info: OpInfo) -> Any:
    """The function that an operator's kernels are held to: ATen's own, with one choice among equal elements."""
    settled = SETTLED.get(info.name)
    if settled is None:
        return info.op

    def reference(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        own = info.op(x, *args, **kwargs)  # raises what ATen raises
        return settled(x, *args, **kwargs) if x.ndim else own

    return reference


def samples(info: OpInfo, device: str, dtype: torch.dtype, grad: bool, limit: int) -> Iterator[SampleInput]:
    """At most `limit` samples, spread over all that the database has for a dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The function itself: info.sample_inputs looks through the whole stack for each sample.
        drawn = iter(info.sample_inputs_func(info, device, dtype, requires_grad=grad))
        found = []
        while True:
            set_rng_seed(1234)
            try:
                found.append(next(drawn))
            except StopIteration:
                break
    step = max(1, len(found) // limit)
    yield from found[::step][:limit]


def copy_of(value: Any, grad: bool) -> Any:
    """Arguments that share nothing with the originals: strides are kept, gradients asked for alike."""

    def one(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        with torch.no_grad():
            fresh = torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device=item.device)
            fresh = fresh.copy_(item) if not overlaps(item) else item.clone()
        return fresh.requires_grad_(grad and item.requires_grad)

    return tree_map(one, value)


def overlaps(t: Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(t.shape, t.stride(), strict=True))


def of_this_torch(entry: dict[str, Any]) -> bool:
    """Whether torch has the overload as the table has it: an older one may lack it, or have fewer arguments."""
    reason = overrides.why_not(entry["name"], entry["schema"], "CPU")
    return torch.torch_version.TorchVersion(torch.__version__) >= TABLE or "this torch" not in (reason or "")


def rows() -> list[dict[str, Any]]:
    return [row for row in _C.rows() if of_this_torch(row["entries"][0])]
