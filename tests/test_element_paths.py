"""Short ways of elementwise work and copies: halves in blocks, ends of vectors, short dims beside long ones."""

from __future__ import annotations

from pathlib import Path

import flag_gems
import pytest
import torch
from flag_gems import ops

from cpu_modes import run_program

DEVICE = flag_gems.device
HALF = torch.float16
LENGTHS = (1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 1030)

# Ends of dense work, at every offset that a whole access may begin at.
ENDS = """
import torch
from flag_gems import ops
for dtype in (torch.float32, torch.bfloat16, torch.int8):
    base = torch.arange(700).to(dtype)
    for n in (0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 257, 600):
        for offset in (0, 1, 3, 8, 15):
            x = base[offset : offset + n]
            assert torch.equal(ops.add(x, x), x + x), (dtype, n, offset)
            assert torch.equal(ops.gelu(x.float()[:1]), torch.nn.functional.gelu(x.float()[:1])) or n
            ours, theirs = base.clone(), base.clone()
            ops.mul_(ours[offset : offset + n], 2)
            theirs[offset : offset + n].mul_(2)
            assert torch.equal(ours, theirs), (dtype, n, offset)
"""

# Copies of a short dim beside a long one, to both sides, converted too.
ZIPS = """
import torch
from flag_gems import ops
for dtype in (torch.bfloat16, torch.float32):
    for r in (2, 3, 4):
        for height, width in ((2, 8), (3, 6), (1, 7)):
            x = (torch.arange(2 * r * r * height * width) % 251).reshape(2, r * r, height, width).to(dtype)
            y = ops.pixel_shuffle(x, r)
            assert torch.equal(y, torch.pixel_shuffle(x, r)), (dtype, r, width)
            assert torch.equal(ops.pixel_unshuffle(y, r), x), (dtype, r, width)
            few = x[:, :r]
            last = ops.clone(few, memory_format=torch.channels_last)
            assert torch.equal(last, few) and last.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(ops.clone(last, memory_format=torch.contiguous_format), few)
            if dtype != torch.float32:
                wide = torch.empty(few.shape, dtype=torch.float32)
                assert torch.equal(ops.copy_(wide, last), few.float())
                assert torch.equal(ops.copy_(wide.to(memory_format=torch.channels_last), few), few.float())
"""


@pytest.mark.parametrize("mode", ["checked", "fast"])
@pytest.mark.parametrize(("text", "program"), [(ENDS, "dense"), (ZIPS, "copy_zip")], ids=["ends", "zips"])
def test_in_a_mode(mode: str, text: str, program: str, tmp_path: Path) -> None:
    done = run_program(mode, text, [], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    if mode == "checked":
        assert program in done.stderr, "the kernel that this is about was not compiled"


def every_half() -> torch.Tensor:
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(HALF).to(DEVICE)


def test_every_half_comes_and_goes_unchanged() -> None:
    x = every_half()
    result = ops.mul(x, 1.0)
    assert torch.equal(result.isnan(), x.isnan())
    assert torch.equal(result.nan_to_num(), x.nan_to_num())
    assert torch.equal(torch.signbit(result)[~x.isnan()], torch.signbit(x)[~x.isnan()])


def test_halves_are_rounded_once_to_nearest_even() -> None:
    x = every_half()
    x = x[x.isfinite()]
    for scale in (0.3, 1.0009765625, 3e-4, 700.0):
        assert torch.equal(ops.mul(x, scale), (x.double() * torch.tensor(scale).double()).to(HALF)), scale


@pytest.mark.parametrize("n", LENGTHS)
def test_halves_of_every_length(n: int) -> None:
    x, y = (torch.randn(n, 3, device=DEVICE).to(HALF)[:, i] for i in (0, 1))
    dense, other = x.contiguous(), y.contiguous()
    assert torch.equal(ops.add(dense, other, alpha=2), torch.add(dense, other, alpha=2))
    assert torch.equal(ops.mul(x, y), x * y)
    mask = dense > 0
    assert torch.equal(ops.where(mask, dense, other), torch.where(mask, dense, other))
    assert torch.equal(ops.gt(dense, other), dense > other)
    assert torch.equal(ops.add(dense, other.float()), dense + other.float())
    kept = dense.clone()
    ops.mul_(kept, other)
    assert torch.equal(kept, dense * other)
    assert torch.equal(ops.sub_out(dense, other, out=torch.empty(n, device=DEVICE)), (dense - other).float())


@pytest.mark.parametrize("n", LENGTHS)
def test_halves_beside_a_broadcast_tensor(n: int) -> None:
    x, row, column = (torch.randn(*size, device=DEVICE).to(HALF) for size in ((4, n), (n,), (4, 1)))
    assert torch.equal(ops.add(x, row), x + row)
    assert torch.equal(ops.mul(x, column), x * column)
    assert torch.equal(ops.div(column, x), column / x)


def test_a_power_by_a_number_is_the_row_of_numbers() -> None:
    x = torch.rand(100, device=DEVICE) + 0.5
    for call, row in (
        (lambda: ops.pow(x, 2), "pow.Tensor_Scalar"),
        (lambda: ops.pow(x, x), "pow.Tensor_Tensor"),
        (lambda: ops.pow(2.0, x), "pow.Scalar"),
    ):
        flag_gems.reset_stats()
        call()
        assert list(flag_gems.stats()) == [row]


@pytest.mark.parametrize("n", [1, 2, 3, 100, 2047, 2048, 4100, 40000])
def test_a_permutation_has_every_number_once(n: int) -> None:
    p = ops.randperm(n, device=DEVICE)
    assert torch.equal(p.sort().values, torch.arange(n, device=DEVICE))
