"""The weight's gradient of convolutions of each channel with a window of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import flag_gems
import pytest
import torch
from flag_gems import ops
from torch import Tensor

import native
import sass
from cpu_modes import run_program

# Batch, channels, height, width, window, stride, padding, dilation. Rows are shorter than a strip, or end within one.
CASES = (
    (2, 8, 9, 11, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 12, 7, 33, (3, 3), (2, 2), (1, 1), (1, 1)),
    (1, 40, 20, 5, (5, 3), (1, 2), (2, 0), (1, 1)),
    (1, 4, 9, 9, (7, 7), (1, 1), (3, 3), (1, 1)),
    (3, 4, 9, 9, (1, 1), (3, 3), (0, 0), (1, 1)),
    (2, 4, 9, 9, (3, 3), (1, 1), (2, 2), (2, 2)),
)
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float64: 1e-14}
PROGRAM = """
import torch
import test_convolution_each_weight as t
torch.manual_seed(0)
t.every(t.CASES)
print("all right")
"""


def gradient(x: Tensor, weight: Tensor, grad: Tensor, stride: tuple, padding: tuple, dilation: tuple) -> Tensor:
    numbers = [list(stride), list(padding), list(dilation), False, [0] * len(stride), x.shape[1]]
    return ops.convolution_backward(grad, x, weight, None, *numbers, [False, True, False])[1]


def compare(case: tuple, dtype: torch.dtype, last: bool) -> None:
    batch, channels, height, width, window, stride, padding, dilation = case
    device = flag_gems.device
    x = torch.randn(batch, channels, height, width, device=device).to(dtype)
    weight = torch.randn(channels, 1, *window, device=device).to(dtype)
    if last:
        x = x.to(memory_format=torch.channels_last)
    exact = weight.double().requires_grad_()
    made = torch.nn.functional.conv2d(x.double(), exact, None, stride, padding, dilation, channels)
    grad = torch.randn(made.shape, device=device).to(dtype)
    if last:
        grad = grad.to(memory_format=torch.channels_last)
    made.backward(grad.double())
    result = gradient(x, weight, grad, stride, padding, dilation)
    assert exact.grad is not None
    off = (result.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert off <= TOLERANCES[dtype], (case, dtype, last, off)
    again = gradient(x, weight, grad, stride, padding, dilation)
    torch.testing.assert_close(again, result, rtol=0, atol=0)


def every(cases: tuple) -> None:
    for case in cases:
        for dtype in TOLERANCES:
            for last in (False, True):
                compare(case, dtype, last)


@pytest.mark.parametrize("mode", ["checked", pytest.param("faithful", marks=pytest.mark.slow)])
def test_numbers_in_every_mode(mode: str, tmp_path: Path) -> None:
    done = run_program(mode, PROGRAM, [], tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stdout + done.stderr
    assert "depthwise weight 3x3 float32" in done.stderr, done.stderr


MISTAKES = {
    "a column too far": ("column(window[k], x * kStrideX", "column(window[k], 1 + x * kStrideX"),
    "channels that are not added up": ("for (int by = kAcross; by < 32", "for (int by = kAcross; by < 16"),
    "sums of other warps too early": (
        "        __syncthreads();\n        if (thread < kAcross",
        "        if (thread < kAcross",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    right, wrong = MISTAKES[mistake]
    texts = tmp_path / "kernels"
    shutil.copytree(native.ROOT / "kernels", texts)
    file = texts / "convolution_each_weight.cu"
    assert file.read_text().count(right) == 1, "the text to change is not there"
    file.write_text(file.read_text().replace(right, wrong))
    done = run_program("checked", PROGRAM, [], tmp_path, GEMS_KERNEL_DIR=str(texts))
    assert done.returncode != 0 and ("AssertionError" in done.stderr or "problem" in done.stderr), done.stderr


def test_machine_code() -> None:
    for kind, taps, stride, last in (("gems::bf16", 3, 1, True), ("double", 3, 2, True), ("float", 7, 1, False)):
        head = f"typedef {kind} T;\nconstexpr bool kLast = {int(last)};\n" + "".join(
            f"constexpr int {name} = {value};\n"
            for name, value in (
                *(("kTapsY", taps), ("kTapsX", taps), ("kStrideY", stride), ("kStrideX", stride)),
                *(("kFarY", 1), ("kFarX", 1)),
            )
        )
        text = (native.ROOT / "kernels" / "convolution_each_weight.cu").read_text()
        kernels = sass.kernels("\n".join([sass.contract(), head, text]), ["each_weight", "each_weight_sum"], "sm_90a")
        assert kernels["each_weight"].spill_bytes == 0 and kernels["each_weight_sum"].spill_bytes == 0


@pytest.mark.skipif(flag_gems.device != "cuda", reason="numbers of a GPU")
def test_numbers_on_a_gpu() -> None:
    torch.manual_seed(0)
    every((*CASES, (8, 96, 28, 28, (3, 3), (1, 1), (1, 1), (1, 1)), (4, 64, 14, 14, (5, 5), (1, 1), (2, 2), (1, 1))))
