"""Rotary embeddings as modules, beside what their papers say, in float64."""

from __future__ import annotations

import copy
import inspect
import math

import flag_gems
import pytest
import torch
from flag_gems import modules
from flag_gems.modules import GemsDeepseekYarnRoPE, GemsRope
from flag_gems.modules import rotary_embedding as helpers
from torch import Tensor

from test_rope import draw, places, plain

DEVICE = flag_gems.device


def angles(frequencies: Tensor, positions: int) -> Tensor:
    return torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)


def assert_tables(rope: GemsRope, turned: Tensor, magnitude: float = 1.0) -> None:
    """The tables are rounded from float32; an angle of many rounds is off by as many roundings."""
    assert rope.cos_cached.shape == rope.sin_cached.shape == turned.shape
    error = 2**-22 * turned.abs().clamp(min=1) * magnitude
    for table, exact in ((rope.cos_cached, turned.cos()), (rope.sin_cached, turned.sin())):
        assert ((table.cpu().double() - exact * magnitude).abs() <= error).all()


@pytest.mark.parametrize("base", [10000, 500000.0])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(base: float, interleaved: bool) -> None:
    rope = GemsRope(32, 50, base, interleaved, torch.float32, DEVICE)
    frequencies = torch.tensor([base ** (-2 * i / 32) for i in range(16)], dtype=torch.float64)
    assert_tables(rope, angles(frequencies, 50))
    assert not rope.state_dict() and {name for name, _ in rope.named_buffers()} == {"cos_cached", "sin_cached"}
    q, k = draw(2, 7, 4, 40, dtype=torch.float32), draw(2, 7, 2, 40, dtype=torch.float32, seed=1)
    for positions in (None, places(2, 7, most=50)):
        made = rope(q, k, positions)
        for new, old in zip(made, (q, k), strict=True):
            expected = plain(old.double(), rope.cos_cached.double(), rope.sin_cached.double(), positions, interleaved)
            torch.testing.assert_close(new.double(), expected, rtol=1e-6, atol=1e-6)
        mine = q.clone(), k.clone()
        given_back = rope(*mine, position_ids=positions, inplace=True)
        assert all(a is b and torch.equal(a, c) for a, b, c in zip(given_back, mine, made, strict=True))
    assert "32" in repr(rope)


def test_distances_alone_decide() -> None:
    """The product of a query and a key depends on how far they are apart."""
    rope = GemsRope(64, 100, 10000, False, torch.float64, DEVICE)
    q, k = draw(1, 1, 64), draw(1, 1, 64, seed=1)
    products = []
    for first in (0, 40):
        at = [torch.tensor([p], device=DEVICE) for p in (first + 9, first)]
        products.append((rope(q, k, at[0])[0] * rope(q, k, at[1])[1]).sum())
    torch.testing.assert_close(*products, rtol=1e-5, atol=1e-5)


def test_tables_follow_dtype_and_device() -> None:
    rope = GemsRope(16, 8, 10000, False, torch.bfloat16, DEVICE)
    assert rope.cos_cached.dtype == torch.bfloat16 and rope.cos_cached.device.type == DEVICE
    assert rope.double().sin_cached.dtype == torch.float64
    assert torch.equal(copy.deepcopy(rope).cos_cached, rope.cos_cached)
    for odd in (0, 7):
        with pytest.raises(ValueError, match="even number"):
            GemsRope(odd, 8, 10000, False, torch.float32, None)


def test_gradients_and_compile() -> None:
    rope = GemsRope(8, 8, 10000, True, torch.float64, DEVICE)
    q, k = draw(3, 2, 8).requires_grad_(), draw(3, 1, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(rope, (q, k))
    compiled = torch.compile(rope, backend="aot_eager", fullgraph=True)
    made = compiled(q, k)
    found = torch.autograd.grad(made[0].sum() + made[1].square().sum(), (q, k))
    made = rope(q, k)
    wanted = torch.autograd.grad(made[0].sum() + made[1].square().sum(), (q, k))
    torch.testing.assert_close(found, wanted)
    torch.compiler.reset()


# ---- YaRN ----


def yarn(dim: int, base: float, factor: float, length: int, fast: float, slow: float) -> Tensor:
    """Frequencies by the paper: stretched where the wave goes round fewer than `slow` times in the original context."""

    def dimension(rounds: float) -> float:
        return dim * math.log(length / (rounds * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(dimension(fast)), 0), min(math.ceil(dimension(slow)), dim - 1)
    found = []
    for i in range(dim // 2):
        plain_one = base ** (-2 * i / dim)
        part = min(max((i - low) / (high - low or 0.001), 0), 1)
        found.append(plain_one / factor * part + plain_one * (1 - part))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("factor", [1.0, 4.0, 40.0])
@pytest.mark.parametrize(("mscale", "of_all"), [(1, 0), (0.707, 0.707), (1.0, 0.5)])
def test_yarn(factor: float, mscale: float, of_all: float) -> None:
    rope = GemsDeepseekYarnRoPE(64, 300, device=DEVICE, scaling_factor=factor, mscale=mscale, mscale_all_dim=of_all)
    magnitude = 1.0
    if factor > 1:
        magnitude = (0.1 * mscale * math.log(factor) + 1) / (0.1 * of_all * math.log(factor) + 1)
    assert_tables(rope, angles(yarn(64, 10000, factor, 4096, 32, 1), 300), magnitude)
    q, k = draw(2, 7, 4, 64, dtype=torch.float32), draw(2, 7, 1, 64, dtype=torch.float32, seed=1)
    made = rope(q, k)
    for new, old in zip(made, (q, k), strict=True):
        expected = plain(old.double(), rope.cos_cached.double(), rope.sin_cached.double(), None, False)
        torch.testing.assert_close(new.double(), expected, rtol=1e-6, atol=1e-6)


def test_yarn_by_other_numbers() -> None:
    rope = GemsDeepseekYarnRoPE(
        32, 64, 500000.0, True, torch.float32, DEVICE, 8.0, 1024, beta_fast=16, beta_slow=2, mscale=0.5
    )
    magnitude = 0.1 * 0.5 * math.log(8) + 1
    assert_tables(rope, angles(yarn(32, 500000.0, 8, 1024, 16, 2), 64), magnitude)
    assert rope.rotary_interleaved and isinstance(rope, GemsRope)


def test_yarn_helpers() -> None:
    assert helpers.yarn_find_correction_range(32, 1, 64, 10000, 4096) == (10, 23)
    assert GemsDeepseekYarnRoPE.yarn_find_correction_range(32, 1, 64, 10000, 4096) == (10, 23)
    assert helpers.yarn_find_correction_range(1e9, 1e-9, 8) == (0, 7)
    mask = GemsDeepseekYarnRoPE.yarn_linear_ramp_mask(2, 6, 8)
    torch.testing.assert_close(mask, torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1]))
    assert helpers.yarn_linear_ramp_mask(3, 3, 5).tolist() == [0, 0, 0, 0, 1]
    assert helpers.yarn_get_mscale(1) == 1 and helpers.yarn_get_mscale(math.e, 2) == pytest.approx(1.2)


def test_signatures() -> None:
    """What programs call by keyword."""

    def named(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    base = ["rotary_dim", "max_position_embeddings", "base", "rotary_interleaved", "dtype", "device"]
    assert named(GemsRope) == base
    more = ["scaling_factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]
    assert named(GemsDeepseekYarnRoPE) == base + more
    assert named(GemsRope.forward)[1:] == ["query", "key", "position_ids", "inplace"]
    assert named(modules.gems_rope_forward)[:4] == ["query", "key", "cos", "sin"]
