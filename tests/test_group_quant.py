"""Groups rounded to fp8 beside plain torch."""

from __future__ import annotations

import sys

import flag_gems
import pytest
import torch
from flag_gems import _C, fused, warm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass
from cpu_modes import EVERY_THREAD, run_in_mode
from test_rope import draw

DEVICE = flag_gems.device
quantise = fused.per_token_group_quant_fp8


def reference(x: Tensor, size: int, eps: float, dtype: torch.dtype, powers: bool) -> tuple[Tensor, Tensor]:
    limits = torch.finfo(dtype)
    groups = x.float().unflatten(-1, (-1, size))
    most = torch.tensor(limits.max, device=x.device)  # a GPU's ATen would multiply by the reciprocal of a number
    scales = groups.abs().amax(-1, keepdim=True).clamp(min=eps) / most
    if powers:
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    return (groups / scales).clamp(limits.min, limits.max).to(dtype).flatten(-2), scales.squeeze(-1)


def assert_quantised(x: Tensor, size: int, **named: object) -> None:
    dtype = named.get("dtype") or torch.float8_e4m3fn
    powers, columns = bool(named.get("scale_ue8m0")), bool(named.get("column_major_scales"))
    made, scales = quantise(x, size, **named)  # type: ignore[arg-type]
    wanted, wanted_scales = reference(x, size, named.get("eps", 1e-10), dtype, powers)  # type: ignore[arg-type]
    assert made.dtype == dtype and made.shape == x.shape and made.is_contiguous()
    assert torch.equal(made.view(torch.uint8), wanted.view(torch.uint8))
    assert scales.dtype == torch.float32 and torch.equal(scales, wanted_scales)
    assert (scales.movedim(-1, 0) if columns else scales).is_contiguous()


@settings(max_examples=40, deadline=None)
@given(
    lead=st.sampled_from([(), (1,), (5,), (0,), (3, 4), (70,)]),
    size=st.sampled_from([128, 64, 32, 16, 1, 3, 24, 100, 2048]),
    groups=st.sampled_from([1, 2, 5]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    to=st.sampled_from([None, torch.float8_e4m3fn, torch.float8_e5m2]),
    columns=st.booleans(),
    powers=st.booleans(),
    turned=st.booleans(),
)
def test_values(
    lead: tuple[int, ...],
    size: int,
    groups: int,
    dtype: torch.dtype,
    to: torch.dtype | None,
    columns: bool,
    powers: bool,
    turned: bool,
) -> None:
    x = draw(*lead, size * groups, dtype=dtype) * 3
    x = x.movedim(0, -1).contiguous().movedim(-1, 0) if turned else x
    assert_quantised(x, size, dtype=to, column_major_scales=columns, scale_ue8m0=powers)


def test_special_values() -> None:
    x = torch.zeros(4, 128, device=DEVICE)
    assert_quantised(x, 64)
    assert_quantised(x + 1e-3, 64, eps=0.5)
    assert_quantised(torch.full((2, 64), 448.0, device=DEVICE), 64, scale_ue8m0=True)  # a power of two already
    for special in (float("nan"), float("inf")):
        x[1, 70] = special
        made, scales = quantise(x, 64)
        wanted, wanted_scales = reference(x, 64, 1e-10, torch.float8_e4m3fn, False)
        torch.testing.assert_close(scales, wanted_scales, equal_nan=True)
        torch.testing.assert_close(made.float(), wanted.float(), equal_nan=True)


def test_wrong_arguments() -> None:
    x = draw(4, 128, dtype=torch.float32)
    for args, text in (((x, 48), "does not divide"), ((x, 0), "does not divide"), ((x.double(), 64), "dtype")):
        with pytest.raises(RuntimeError, match=text):
            quantise(*args)
    with pytest.raises(RuntimeError, match="dtype of the result"):
        quantise(x, 64, dtype=torch.float16)
    made = quantise(x.requires_grad_(), 64)
    assert not made[0].requires_grad and not made[1].requires_grad


def test_opcheck_and_compile() -> None:
    x = draw(4, 128, dtype=torch.float32)
    operator = torch.ops.flag_gems.per_token_group_quant_fp8
    for args in ((x, 64), (x, 32, 1e-6, torch.float8_e5m2, True, True)):
        torch.library.opcheck(operator, args)
    compiled = torch.compile(lambda x: quantise(x * 2, 64, 1e-10, None, True), backend="aot_eager", fullgraph=True)
    for mine, theirs in zip(compiled(x), quantise(x * 2, 64, column_major_scales=True), strict=True):
        assert torch.equal(mine.float(), theirs.float()) and mine.stride() == theirs.stride()
    torch.compiler.reset()


@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_nvrtc_without_spills(arch: str) -> None:
    for dtype in ("bfloat16", "float32"):
        reports = warm.compile_item(warm.Item("cuda", arch, "per_token_group_quant_fp8", dtype))
        assert len(reports) == 4
        for report in reports:
            assert report["error"] is None and report["spill_bytes"] == 0 and report["registers"] <= 72, report


def test_machine_code() -> None:
    text = _C.program_text("per_token_group_quant_fp8", "bfloat16", 0, "sm_90a", "cuda")
    found = sass.kernels(text, ["group_quant"], "sm_90a")["group_quant"]
    assert found.count("LDG.E.128") == 2 and found.has("STG.E.128"), found.opcodes
    assert not found.has("LDL") and not found.has("STL")


def main() -> int:
    torch.set_num_threads(1)
    for dtype in (torch.bfloat16, torch.float32):
        for size in (128, 16, 3, 100, 2048):
            assert_quantised(draw(5, size * 3, dtype=dtype), size, column_major_scales=size == 16)
            assert_quantised(draw(5, size * 3, dtype=dtype), size, scale_ue8m0=True, dtype=torch.float8_e5m2)
    return 0


@EVERY_THREAD
def test_with_every_thread_of_a_block(mode: str, order: str) -> None:
    run_in_mode(mode, order, __file__, seconds=600)


if __name__ == "__main__":
    sys.exit(main())
