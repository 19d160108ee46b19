"""Every row of the table on torch's own samples: forward, backward, in-place and out, each dtype, beside ATen."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

from compare import ALL_DTYPES, FLOATS, Raised, assert_same, outcome, tensors, to_float64
from opinfo import RANDOM, base_of, copy_of, infos_of, rows, samples

QUICK = 6  # samples of an OpInfo and dtype in make test; all of them under make test-all
DEVICE = flag_gems.device


def entries_of(row: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in row["entries"]]


def call(function: Any, sample: SampleInput) -> Any:
    return function(sample.input, *sample.args, **sample.kwargs)


def arguments(sample: SampleInput, grad: bool) -> SampleInput:
    return SampleInput(
        copy_of(sample.input, grad), args=copy_of(sample.args, grad), kwargs=copy_of(sample.kwargs, grad)
    )


def forward_and_backward(function: Any, sample: SampleInput) -> Any:
    """Results and the gradients of their sum weighted by a fixed cotangent."""
    result = call(function, sample)
    wanted = [t for t in tensors(result) if t.requires_grad and t.dtype in FLOATS]
    leaves = [t for t in tensors((sample.input, sample.args, sample.kwargs)) if t.requires_grad]
    if not wanted or not leaves:
        return result
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in wanted]
    return result, torch.autograd.grad(wanted, leaves, cotangents, allow_unused=True)


def check(function: Any, sample: SampleInput, names: list[str], note: str) -> None:
    grad = any(t.requires_grad for t in tensors((sample.input, sample.args, sample.kwargs)))
    aten = outcome(lambda: forward_and_backward(function, arguments(sample, grad)))
    with flag_gems.use_gems():
        ours = outcome(lambda: forward_and_backward(function, arguments(sample, grad)))

    def exact() -> Any:
        wide = SampleInput(
            to_float64(sample.input), args=to_float64(sample.args), kwargs=to_float64(sample.kwargs)
        )
        return forward_and_backward(function, arguments(wide, grad))

    assert_same(ours, aten, exact, note)


def check_variants(info: OpInfo, sample: SampleInput, note: str) -> None:
    """The in-place form, and out= with a tensor of the right shape, an empty one and a strided one."""
    plain = arguments(sample, False)
    result = outcome(lambda: call(info.op, plain))
    if isinstance(result, Raised):
        return
    if info.inplace_variant and isinstance(sample.input, Tensor):
        aten = outcome(lambda: call(info.inplace_variant, arguments(sample, False)))
        with flag_gems.use_gems():
            ours = outcome(lambda: call(info.inplace_variant, arguments(sample, False)))
        assert_same(ours, aten, None, f"{note} in place")
    if info.supports_out and isinstance(result, Tensor):
        for kind in ("same", "empty", "strided"):

            def run(kind: str = kind) -> Tensor:
                if kind == "same":
                    out = torch.empty_like(result)
                elif kind == "empty":
                    out = torch.empty(0, dtype=result.dtype, device=result.device)
                else:
                    out = torch.empty((*result.shape, 2), dtype=result.dtype, device=result.device)[..., 1]
                again = info.op(plain.input, *plain.args, **plain.kwargs, out=out)
                assert again is out
                return out

            aten = outcome(run)
            with flag_gems.use_gems():
                ours = outcome(run)
            assert_same(ours, aten, None, f"{note} out ({kind})")


def cases() -> list[Any]:
    found = []
    for row in rows():
        if base_of(row) in RANDOM:
            continue
        for info in infos_of(row):
            full = f"{info.name}{'.' + info.variant_test_name if info.variant_test_name else ''}"
            for dtype in ALL_DTYPES:
                if dtype in info.supported_dtypes(DEVICE):
                    name = f"{row['id']}-{full}-{str(dtype).removeprefix('torch.')}"
                    slow = [] if dtype in (torch.float32, torch.bfloat16, torch.int64) else [pytest.mark.slow]
                    found.append(pytest.param(row, info, dtype, id=name, marks=slow))
    return found


@pytest.mark.parametrize(("row", "info", "dtype"), cases())
def test_samples(row: dict[str, Any], info: OpInfo, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    grad = dtype in FLOATS and info.supports_autograd
    limit = 10**6 if request.config.getoption("--all-samples") else QUICK
    for number, sample in enumerate(samples(info, DEVICE, dtype, grad, limit)):
        note = f"{info.name} {dtype} sample {number}: {sample.summary()}"
        check(info.op, sample, entries_of(row), note)
        check_variants(info, sample, note)


def reaches(info: OpInfo, dtype: torch.dtype, names: list[str]) -> bool:
    """Whether a sample, forward, backward or in place, runs in the kernel of one of these entries."""
    for sample in samples(info, DEVICE, dtype, dtype.is_floating_point and info.supports_autograd, 8):
        with flag_gems.use_gems():
            outcome(lambda s=sample: forward_and_backward(info.op, s))
            if info.inplace_variant:
                outcome(lambda s=sample: call(info.inplace_variant, arguments(s, False)))
        if any(flag_gems.stats().get(name, {}).get("kernel") for name in names):
            return True
    return False


@pytest.mark.parametrize("row", [pytest.param(r, id=r["id"]) for r in rows() if infos_of(r)])
def test_kernel_runs(row: dict[str, Any]) -> None:
    """Some sample of a row's own dtypes reaches our kernel: nothing here passes because everything declined."""
    names = entries_of(row)
    flag_gems.reset_stats()
    for info in infos_of(row):
        for dtype in (torch.float32, torch.int64, torch.bool):
            if str(dtype).removeprefix("torch.") not in row["dtypes"] or dtype not in info.supported_dtypes(DEVICE):
                continue
            if reaches(info, dtype, names):
                return
    pytest.fail(f"no sample of {row['id']} ran in its kernel: {flag_gems.stats()}")
