"""Convolution on the tensor cores: products of matrices, beside float64, in the modes that follow a GPU on a CPU."""

from __future__ import annotations

import random
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import _C
from torch import Tensor

import sass
from compare import kernels
from cpu_modes import run_in_mode

DEVICE = flag_gems.device
aten = torch.ops.aten
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
PRECISE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-5, torch.float64: 1e-12}


def drawn(*shape: int, dtype: torch.dtype, last: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(DEVICE, dtype)
    return x.contiguous(memory_format=FORMATS[x.ndim]) if last and x.ndim in FORMATS else x


def near(ours: Tensor, exact: Tensor, dtype: torch.dtype, note: str) -> None:
    """Within what rounding once leaves; a sum of many terms is compared with its size."""
    scale = exact.abs().max().item() + 1e-6
    off = (ours.double() - exact).abs().max().item() / scale
    assert ours.shape == exact.shape and off <= PRECISE[dtype], f"{note}: {off}"


def beside_float64(x: Tensor, weight: Tensor, bias: Tensor | None, args: list[Any]) -> None:
    note = f"{tuple(x.shape)} {tuple(weight.shape)} {args} {x.dtype} {x.stride()}"
    exact = aten.convolution(x.double(), weight.double(), None if bias is None else bias.double(), *args)
    grad = drawn(*exact.shape, dtype=x.dtype, last=not x.is_contiguous())
    wide = [t.double() for t in (grad, x, weight)]
    back = aten.convolution_backward(*wide, [exact.shape[1]], *args, [True] * 3)
    with kernels("convolution", "convolution_backward"):
        ours = aten.convolution(x, weight, bias, *args)
        gradients = aten.convolution_backward(grad, x, weight, [exact.shape[1]], *args, [True] * 3)
    for name, a, b in zip(("result", "image", "weight", "bias"), (ours, *gradients), (exact, *back), strict=True):
        near(a, b, x.dtype, f"{name}: {note}")


def geometry(draw: random.Random) -> tuple[list[int], list[int], list[Any]]:
    """Shapes of an image and a weight, and the arguments behind the bias: channels are multiples of 8."""
    rank, transposed = draw.choice((1, 2, 2, 3)), draw.random() < 0.25
    groups, ins, outs = draw.choice(((1, 8, 16), (1, 24, 40), (2, 16, 32), (1, 72, 8), (3, 24, 24)))
    size, stride = ([draw.randint(1, 3) for _ in range(rank)] for _ in range(2))
    dilation, pad = [draw.randint(1, 2) for _ in range(rank)], [draw.randint(0, 2) for _ in range(rank)]
    extra = [draw.randint(0, s - 1) if transposed else 0 for s in stride]
    image = [draw.randint(1, 3), ins, *(draw.randint(5, 7 if rank > 2 else 11) for _ in range(rank))]
    weight = [ins, outs // groups, *size] if transposed else [outs, ins // groups, *size]
    return image, weight, [stride, pad, dilation, transposed, extra, groups]


def sweep(count: int, seed: int = 3) -> None:
    """Run in a mode in which no size is left to ATen."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    for _ in range(count):
        image, weight, args = geometry(draw)
        dtype, last = draw.choice((torch.float16, torch.bfloat16)), draw.random() < 0.5
        made = weight[1] * args[-1] if args[3] else weight[0]
        bias = drawn(made, dtype=dtype) if draw.random() < 0.5 else None
        beside_float64(
            drawn(*image, dtype=dtype, last=last), drawn(*weight, dtype=dtype, last=draw.random() < 0.5), bias, args
        )


@pytest.mark.parametrize("device", ["", "sm_90a"])
@pytest.mark.parametrize(
    ("mode", "count"), [("faithful", 4), ("checked", 3), pytest.param("faithful", 80, marks=pytest.mark.slow)]
)
def test_all_threads_of_a_block(mode: str, count: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every geometry and rank, groups, both formats: no race, no access out of bounds, the results of float64."""
    monkeypatch.setenv("GEMS_CPU_DEVICE", device)
    run_in_mode(mode, "forward", "-c", f"import test_convolution_tile as t; t.sweep({count})")


@pytest.mark.parametrize("arch", sass.ARCHS)
def test_machine_code(arch: str) -> None:
    """Tensor cores, and copies of 16 bytes in the background, out of the image too; nothing spills."""
    for name, number in (
        ("convolution", 3),
        ("convolution_backward", 4),
    ):  # the largest tile: channels last; the weight
        text = _C.program_text(name, "bfloat16", number, arch, "cuda")
        tile = sass.kernels(text, ["convolution_tile"], arch)["convolution_tile"]
        assert tile.has("HGMMA" if arch == "sm_90a" else "HMMA.16816", "LDGSTS.128"), tile.instructions
        assert tile.spill_bytes == 0 and tile.registers <= 255


def each(count: int) -> None:
    """A window for each channel, where nothing is left to ATen."""
    torch.set_num_threads(1)
    draw = random.Random(11)
    for number in range(count):
        rank, times = draw.choice((1, 2, 2)), draw.choice((1, 1, 2))
        channels = draw.choice((3, 8, 16))
        stride, dilation = ([draw.randint(1, 2) for _ in range(rank)] for _ in range(2))
        if draw.random() < 0.5:
            stride = [1] * rank
        size, pad = [draw.choice((1, 2, 3, 5)) for _ in range(rank)], [draw.randint(0, 3) for _ in range(rank)]
        image = [2, channels, *(draw.randint(10, 13) for _ in range(rank))]
        dtype = (torch.float16, torch.float32, torch.bfloat16, torch.float64)[number % 4]
        x = drawn(*image, dtype=dtype, last=draw.random() < 0.5)
        weight = drawn(channels * times, 1, *size, dtype=dtype)
        bias = drawn(channels * times, dtype=dtype) if draw.random() < 0.5 else None
        beside_float64(x, weight, bias, [stride, pad, dilation, False, [0] * rank, channels])


@pytest.mark.parametrize(("mode", "count"), [("faithful", 6), ("checked", 3)])
def test_a_window_for_each_channel(mode: str, count: int) -> None:
    run_in_mode(mode, "forward", "-c", f"import test_convolution_tile as t; t.each({count})")
