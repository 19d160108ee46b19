"""Every row of the table on torch's own samples: forward, backward, in-place and out, each dtype, beside ATen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import entry_args
from compare import ALL_DTYPES, FLOATS, Raised, WithGradients, assert_same, outcome, tensors, to_float64
from every_row import DTYPES, fitting
from opinfo import RANDOM, base_of, copy_of, infos_of, reference_of, rows, samples

pytestmark = pytest.mark.usefixtures("registered")

QUICK = 6  # samples of an OpInfo and dtype in make test; all of them under make test-all
QUICK_DTYPES = (torch.float32, torch.bfloat16, torch.int64)
DEVICE = flag_gems.device
# out= tensors for a result: of its shape, empty, and every second element of a longer one.
OUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "same": torch.empty_like,
    "empty": lambda t: torch.empty(0, dtype=t.dtype, device=t.device),
    "strided": lambda t: torch.zeros((*t.shape, 2), dtype=t.dtype, device=t.device)[..., 1],
}


def entries_of(row: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in row["entries"]]


def call(function: Any, sample: SampleInput) -> Any:
    return function(sample.input, *sample.args, **sample.kwargs)


def arguments(sample: SampleInput, grad: bool) -> SampleInput:
    return SampleInput(
        copy_of(sample.input, grad), args=copy_of(sample.args, grad), kwargs=copy_of(sample.kwargs, grad)
    )


def widened(sample: SampleInput) -> SampleInput:
    """The same sample in float64."""
    return SampleInput(to_float64(sample.input), args=to_float64(sample.args), kwargs=to_float64(sample.kwargs))


def forward_and_backward(function: Any, sample: SampleInput) -> Any:
    """Results and the gradients of their sum weighted by a fixed cotangent."""
    result = call(function, sample)
    wanted = [t for t in tensors(result) if t.requires_grad and t.dtype in FLOATS]
    leaves = [t for t in tensors((sample.input, sample.args, sample.kwargs)) if t.requires_grad]
    if not wanted or not leaves:
        return result
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in wanted]
    return WithGradients(result, torch.autograd.grad(wanted, leaves, cotangents, allow_unused=True))


def check(info: OpInfo, sample: SampleInput, note: str) -> None:
    function, reference = info.op, reference_of(info)
    grad = any(t.requires_grad for t in tensors((sample.input, sample.args, sample.kwargs)))
    aten = outcome(lambda: forward_and_backward(reference, arguments(sample, grad)))
    with flag_gems.use_gems():
        ours = outcome(lambda: forward_and_backward(function, arguments(sample, grad)))

    assert_same(ours, aten, lambda: forward_and_backward(function, arguments(widened(sample), grad)), note)


def check_variants(info: OpInfo, sample: SampleInput, note: str) -> None:
    """The in-place form, and out= with a tensor of the right shape, an empty one and a strided one."""
    plain = arguments(sample, False)
    result = outcome(lambda: call(info.op, plain))
    if isinstance(result, Raised):
        return

    def exact() -> Any:
        return call(info.op, widened(plain))

    if info.inplace_variant and isinstance(sample.input, Tensor):
        aten = outcome(lambda: call(info.inplace_variant, arguments(sample, False)))
        with flag_gems.use_gems():
            ours = outcome(lambda: call(info.inplace_variant, arguments(sample, False)))
        assert_same(ours, aten, exact, f"{note} in place")
    if not info.supports_out or not isinstance(result, Tensor):
        return
    for kind, make in OUTS.items():

        def run(make: Callable[[Tensor], Tensor] = make) -> Tensor:
            out = make(result)
            again = info.op(plain.input, *plain.args, **plain.kwargs, out=out)
            assert again is out
            return out

        aten = outcome(run)
        with flag_gems.use_gems():
            ours = outcome(run)
        if not isinstance(aten, Raised) and not isinstance(ours, Raised):
            assert ours.stride() == aten.stride(), f"{note} out ({kind})"
            if torch.equal(ours, aten):
                continue
            ours, aten = ours.contiguous(), result.contiguous()  # some of ATen's strided outs are wrong themselves
        assert_same(ours, aten, exact, f"{note} out ({kind})")


def cases() -> list[Any]:
    """Each OpInfo that a row is reached by, in each of its dtypes, once."""
    found = {}
    for row in rows():
        for info in [] if base_of(row) in RANDOM else infos_of(row):
            full = f"{info.name}{'.' + info.variant_test_name if info.variant_test_name else ''}"
            for dtype in ALL_DTYPES:
                if dtype in info.supported_dtypes(DEVICE):
                    name = f"{full}-{str(dtype).removeprefix('torch.')}"
                    slow = [] if dtype in QUICK_DTYPES else [pytest.mark.slow]
                    found[name] = pytest.param(info, dtype, id=name, marks=slow)
    return list(found.values())


@pytest.mark.parametrize(("info", "dtype"), cases())
def test_samples(info: OpInfo, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    grad = dtype in FLOATS and info.supports_autograd
    limit = 10**6 if request.config.getoption("--all-samples") else QUICK
    for number, sample in enumerate(samples(info, DEVICE, dtype, grad, limit)):
        note = f"{info.name} {dtype} sample {number}: {sample.summary()}"
        check(info, sample, note)
        check_variants(info, sample, note)


def entries() -> list[Any]:
    return [
        pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
        for row in rows()
        for name in entries_of(row)
        for dtype in (torch.float32, torch.int64)
        if str(dtype).removeprefix("torch.") in row["dtypes"] and base_of(row) not in RANDOM
    ]


@pytest.mark.parametrize(("name", "dtype"), entries())
def test_overload(name: str, dtype: torch.dtype) -> None:
    """Every overload called by its own name: also those that no function of torch's reaches with OpInfo's samples."""

    def run(wide: bool = False) -> Any:
        function, args, kwargs = arguments_of(name, torch.float64 if wide else dtype)
        return function(*args, **kwargs)

    aten = outcome(run)
    with flag_gems.use_gems():
        ours = outcome(run)
    assert_same(ours, aten, lambda: run(wide=True), name)


# Rows that a GPU leaves to ATen: whether the tensor of deviations is valid cannot be told without waiting for it; of
# the others ATen was measured faster at sizes as small as these.
LEFT_ON_A_GPU = {"normal_float_tensor", "normal_tensor_tensor", "_int_mm", "_scaled_mm"}
LEFT_ON_A_GPU |= {"upsample_nearest2d_backward", "_upsample_nearest_exact2d_backward", "mv", "addmv"}
LEFT_ON_A_GPU |= {f"{kind}_attention_{way}" for kind in ("cudnn", "efficient") for way in ("forward", "backward")}
LEFT_ON_A_GPU |= {"flash_attention_backward"}


@pytest.mark.parametrize("row", [pytest.param(r, id=r["id"]) for r in rows()])
def test_kernel_runs(row: dict[str, Any]) -> None:
    """A row's kernel does run: nothing here passes because everything declined."""
    if DEVICE != "cpu" and (row["id"] in LEFT_ON_A_GPU or row["gpu_most"] == 1):
        return  # left to ATen there
    names = entries_of(row)
    dtypes = [d for d in DTYPES if str(d).removeprefix("torch.") in row["dtypes"]]
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        for name in names:
            for dtype in dtypes:
                function, args, kwargs = arguments_of(name, dtype)
                for given in (args, fitted(name, dtype)):
                    outcome(lambda f=function, a=given, k=kwargs: f(*a, **k))
                    if ran(names):
                        return
    for info in infos_of(row):
        for dtype in dtypes:
            if dtype in info.supported_dtypes(DEVICE) and reaches(info, dtype, names):
                return
    pytest.fail(f"nothing ran in the kernel of {row['id']}: {flag_gems.stats()}")


def arguments_of(name: str, dtype: torch.dtype) -> tuple[Any, list[Any], dict[str, Any]]:
    function, args, kwargs = entry_args.arguments(name, dtype, DEVICE)
    if "batch_norm" in name:  # ATen reads statistics of any size without a check
        args = fitted(name, dtype)
    return function, args, kwargs


def fitted(name: str, dtype: torch.dtype) -> list[Any]:
    """Arguments whose shapes fit each other, for the operators that have such; else none."""

    def one(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return item.to(DEVICE, dtype if item.is_floating_point() and dtype.itemsize > 1 else item.dtype)

    return [one(item) for item in fitting(name.replace("_out", "").removesuffix(".out")) or []]


def ran(names: list[str]) -> bool:
    return any(flag_gems.stats().get(name, {}).get("kernel") for name in names)


def reaches(info: OpInfo, dtype: torch.dtype, names: list[str]) -> bool:
    """Whether a sample, forward or backward, runs in the kernel of one of these overloads."""
    for sample in samples(info, DEVICE, dtype, dtype.is_floating_point and info.supports_autograd, 40):
        with flag_gems.use_gems():
            outcome(lambda s=sample: forward_and_backward(info.op, s))
        if ran(names):
            return True
    return False
