"""Random numbers: Philox beside a plain implementation, seeds, statistics, dropout; on a GPU, ATen's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare import assert_same, counts, outcome

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
THREADS = 256 * 132 * 8  # the grid of the GPU whose numbers the cpu backend gives
aten = torch.ops.aten


def drawn(name: str, call: Callable[[], Any], seed: int = 7) -> Any:
    """The result of a call in our kernel, from a seed."""
    torch.manual_seed(seed)
    with flag_gems.use_gems(include=[name]):
        before = counts(name)["kernel"]
        result = call()
        assert counts(name)["kernel"] > before, flag_gems.stats()
    return result


# ---- against a plain implementation


def philox(seed: int, subsequence: np.ndarray, call: int) -> np.ndarray:
    """Philox 4x32-10 (Salmon and others, 2011): uint32 [4, n] for n subsequences."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.full_like(subsequence, call & 0xFFFFFFFF), np.full_like(subsequence, call >> 32)]
    c += [subsequence & mask, subsequence >> np.uint64(32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        c = [(b >> high) ^ c[1] ^ np.uint64(k0), b & mask, (a >> high) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c)


def test_philox_known_answers() -> None:
    """The vectors that Random123 publishes: all zeros, all ones."""
    assert philox(0, np.zeros(1, np.uint64), 0)[:, 0].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = np.full(1, 0xFFFFFFFFFFFFFFFF, np.uint64)
    expected = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox(0xFFFFFFFFFFFFFFFF, ones, 0xFFFFFFFFFFFFFFFF)[:, 0].tolist() == expected


def words(seed: int, count: int, each: int) -> np.ndarray:
    """What elements are made of, as ATen deals it out on CUDA: uint32 [4, count], and which of the call [count]."""
    threads = min(math.ceil(count / 256) * 256, THREADS)
    e = np.arange(count, dtype=np.uint64)
    turn = e // np.uint64(threads)
    number = (turn % np.uint64(each)).astype(np.int64)
    result = np.empty((4, count), np.uint64)
    for call in range(int(turn[-1]) // each + 1):
        here = turn // np.uint64(each) == call
        result[:, here] = philox(seed, e[here] % np.uint64(threads), call)
    return result, number


def seed_of(torch_seed: int) -> int:
    """The Philox seed that the CPU generator gives after a manual seed."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=torch.Generator().manual_seed(torch_seed)))


@pytest.mark.parametrize("count", [1, 5, 255, 256, 257, 5000, THREADS + 3, 5 * THREADS + 77])
def test_uniform_is_philox(count: int) -> None:
    if DEVICE != "cpu":
        return
    ours = drawn("uniform_", lambda: torch.empty(count).uniform_()).numpy()
    w, number = words(seed_of(7), count, 4)
    picked = w[number, np.arange(count)].astype(np.float32)
    expected = picked * np.float32(2**-32) + np.float32(2**-33)
    expected[expected == 1] = 0
    assert np.array_equal(ours, expected)


def test_double_is_philox() -> None:
    if DEVICE != "cpu":
        return
    count = 2 * THREADS + 1000
    ours = drawn("uniform_", lambda: torch.empty(count, dtype=torch.float64).uniform_()).numpy()
    w, number = words(seed_of(7), count, 2)
    i = np.arange(count)
    bits = w[2 * number, i] ^ (w[2 * number + 1, i] << np.uint64(21))
    expected = bits.astype(np.float64) * 2.0**-53 + 2.0**-54
    assert np.array_equal(ours, np.where(expected == 1, 0, expected))


@pytest.mark.parametrize("count", [100, THREADS + 300])
def test_normal_is_box_muller(count: int) -> None:
    if DEVICE != "cpu":
        return
    ours = drawn("normal_", lambda: torch.empty(count).normal_()).double().numpy()
    w, number = words(seed_of(7), count, 4)
    i, pair = np.arange(count), number // 2 * 2
    u, v = w[pair, i].astype(np.float64) * 2.0**-32 + 2.0**-33, w[pair + 1, i].astype(np.float64) * 2.0**-32 + 2.0**-33
    angle = 2 * np.pi * v
    expected = np.sqrt(-2 * np.log(u)) * np.where(number % 2, np.cos(angle), np.sin(angle))
    # The angle is a float32 of at most 2 pi, off by 5e-7; the radius it is multiplied by is at most 6.7.
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


# ---- seeds and layouts

DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform_": lambda x: x.uniform_(-2, 3),
    "normal_": lambda x: x.normal_(1, 2),
    "exponential_": lambda x: x.exponential_(0.5),
    "bernoulli_.float": lambda x: x.bernoulli_(0.3),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", DRAWS)
def test_same_seed_same_numbers(name: str, dtype: torch.dtype) -> None:
    def draw() -> Tensor:
        return DRAWS[name](torch.empty(1000, dtype=dtype, device=DEVICE))

    first, second, other = drawn(name, draw), drawn(name, draw), drawn(name, draw, 8)
    assert first.equal(second) and not first.equal(other)
    torch.manual_seed(7)
    with flag_gems.use_gems(include=[name]):
        draw()
        assert not draw().equal(first)  # the generator moved on


@pytest.mark.parametrize("name", DRAWS)
def test_generator(name: str) -> None:
    own = torch.Generator(DEVICE)

    def draw() -> Tensor:
        x = torch.empty(100, device=DEVICE)
        arguments = {"uniform_": (0, 1), "normal_": (0, 1), "exponential_": (1,), "bernoulli_.float": (0.5,)}[name]
        return getattr(x, name.split(".")[0])(*arguments, generator=own.manual_seed(3))

    state = torch.get_rng_state()
    assert drawn(name, draw, 1).equal(drawn(name, draw, 2))
    torch.set_rng_state(state)


@pytest.mark.parametrize("name", DRAWS)
def test_layouts(name: str) -> None:
    """Elements are numbered in the order of memory; gaps stay as they are."""
    flat = drawn(name, lambda: DRAWS[name](torch.empty(60, device=DEVICE)))
    turned = drawn(name, lambda: DRAWS[name](torch.empty(10, 6, device=DEVICE).t()))
    assert turned.t().flatten().equal(flat)
    base = torch.full((60, 3), -7.0, device=DEVICE)
    drawn(name, lambda: DRAWS[name](base[:, 1]))
    assert base[:, 1].equal(flat) and (base[:, ::2] == -7).all()
    drawn(name, lambda: DRAWS[name](base.flatten()[1:61]))
    assert drawn(name, lambda: DRAWS[name](torch.empty(0, 3, device=DEVICE))).shape == (0, 3)
    assert drawn(name, lambda: DRAWS[name](torch.empty((), device=DEVICE))).equal(flat[0])


def test_bad_parameters_are_atens() -> None:
    x = torch.zeros(4, device=DEVICE)
    for call in (
        lambda: x.clone().uniform_(2, 1),
        lambda: x.clone().uniform_(0, 1e39),
        lambda: x.clone().normal_(0, -1),
        lambda: x.clone().exponential_(0),
        lambda: x.clone().bernoulli_(1.5),
        lambda: x.int().normal_(),
        lambda: aten.native_dropout(x, 1.5, True),
    ):
        expected = outcome(call)
        with flag_gems.use_gems():
            assert_same(outcome(call), expected)


# ---- statistics

COUNT = 1 << 20


def kolmogorov(sample: Tensor, distribution: Callable[[Tensor], Tensor]) -> float:
    """The largest distance between the sample's distribution and the one it is to have."""
    ordered = sample.double().sort().values
    steps = torch.arange(1, len(ordered) + 1, device=sample.device, dtype=torch.float64) / len(ordered)
    return (distribution(ordered) - steps).abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "mean", "variance", "distribution"),
    [
        ("uniform_", 0.5, 25 / 12, lambda x: (x + 2) / 5),
        ("normal_", 1, 4, lambda x: (1 + torch.erf((x - 1) / 2 / 2**0.5)) / 2),
        ("exponential_", 2, 4, lambda x: 1 - torch.exp(-x / 2)),
    ],
)
def test_distribution(name: str, mean: float, variance: float, distribution: Any, dtype: torch.dtype) -> None:
    x = drawn(name, lambda: DRAWS[name](torch.empty(COUNT, dtype=dtype, device=DEVICE)))
    deviation = variance**0.5
    assert abs(x.double().mean().item() - mean) < 5 * deviation / COUNT**0.5
    assert abs(x.double().var().item() / variance - 1) < 5 * 3 / COUNT**0.5  # kurtosis of at most 9
    assert kolmogorov(x, distribution) < 2.2 / COUNT**0.5  # missed once in 10^4
    neighbours = ((x[1:] - mean) * (x[:-1] - mean)).double().mean().item() / variance
    assert abs(neighbours) < 5 / COUNT**0.5


@pytest.mark.parametrize("dtype", FLOATS)
def test_ranges(dtype: torch.dtype) -> None:
    x = drawn("uniform_", lambda: torch.empty(COUNT, dtype=dtype, device=DEVICE).uniform_(1, 2))
    assert x.min() >= 1 and x.max() < 2
    y = drawn("exponential_", lambda: torch.empty(COUNT, dtype=dtype, device=DEVICE).exponential_())
    assert y.min() > 0 and y.isfinite().all()


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int64, torch.bool])
def test_bernoulli(dtype: torch.dtype) -> None:
    x = drawn("bernoulli_.float", lambda: torch.empty(COUNT, dtype=dtype, device=DEVICE).bernoulli_(0.3))
    assert set(x.unique().tolist()) == {0, 1}
    assert abs(x.double().mean().item() - 0.3) < 5 * (0.21 / COUNT) ** 0.5
    for p in (0.0, 1.0):
        y = drawn("bernoulli_.float", lambda q=p: torch.empty(999, dtype=dtype, device=DEVICE).bernoulli_(q))
        assert (y == p).all()


# ---- dropout


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 4, 7, 8, 1000, 4099, 400_000])
def test_native_dropout(count: int, dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, count, dtype=torch.float64, device=DEVICE).to(dtype)
    out, mask = drawn("native_dropout", lambda: aten.native_dropout(x, 0.25, True))
    assert mask.dtype == torch.bool and out.dtype == dtype and out.stride() == x.stride()
    scale = torch.tensor(1 / 0.75, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert out.equal((x.to(scale.dtype) * mask * scale).to(dtype))
    assert abs(mask.double().mean().item() - 0.75) <= 5 * (0.1875 / count) ** 0.5
    again = drawn("native_dropout", lambda: aten.native_dropout(x, 0.25, None))
    assert out.equal(again[0]) and mask.equal(again[1])


def test_native_dropout_layouts() -> None:
    x = torch.randn(6, 8, 10, device=DEVICE)
    for view in (x.permute(2, 0, 1), x[0], x[:0], x[0, 0, 0], x.flatten()[1:]):
        out, mask = drawn("native_dropout", lambda v=view: aten.native_dropout(v, 0.5, True))
        assert out.equal(view * mask * 2) and (out.numel() < 2 or out.stride() == mask.stride() == view.stride())


def test_dropout_trains() -> None:
    """Through autograd: what was dropped has no gradient, the rest its scale."""
    x = torch.ones(1000, device=DEVICE, requires_grad=True)

    def step() -> Tensor:
        y = F.dropout(x, 0.2)
        y.sum().backward()
        return y

    torch.manual_seed(0)
    with flag_gems.use_gems():
        y = step()
    assert x.grad is not None and x.grad.equal(y.detach())
    assert 700 < (y != 0).sum() < 900


@pytest.mark.parametrize("dtype", FLOATS)
def test_native_dropout_backward(dtype: torch.dtype) -> None:
    grad = torch.linspace(-1, 1, 24 * 7, dtype=dtype, device=DEVICE).view(24, 7)
    mask = torch.arange(24 * 7, device=DEVICE).view(24, 7) % 3 > 0
    for g, m in (
        (grad, mask),
        (grad.t(), mask.t()),
        (grad.t().contiguous().t(), mask),
        (grad[:1].expand(24, 7), mask),
        (grad.flatten()[1:], mask.flatten()[1:]),
        (grad[0, 0], mask[0, 0]),
    ):
        expected = aten.native_dropout_backward(g, m, 1.25)
        ours = drawn("native_dropout_backward", lambda a=g, b=m: aten.native_dropout_backward(a, b, 1.25))
        assert_same(ours, expected)


# ---- the same numbers as ATen's CUDA kernels


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 3, 256, 1000, 100_003, 1 << 20, (1 << 22) + 5])
@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_atens(name: str, count: int, dtype: torch.dtype) -> None:
    """The same seed gives the same bits, and leaves the generator at the same offset."""

    def draw() -> tuple[Tensor, Tensor, int]:
        x = DRAWS[name](torch.empty(count, dtype=dtype, device=DEVICE))
        y = DRAWS[name](torch.empty(count, dtype=dtype, device=DEVICE))
        return x, y, torch.cuda.default_generators[0].get_offset()

    torch.manual_seed(7)
    expected = draw()
    ours = drawn(name, draw)
    assert ours[2] == expected[2]
    assert ours[0].equal(expected[0]) and ours[1].equal(expected[1])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 1000, 100_003, 1 << 20, (1 << 22) + 4])
def test_dropout_is_atens(count: int, dtype: torch.dtype) -> None:
    x = torch.randn(count, dtype=dtype, device=DEVICE)
    torch.manual_seed(7)
    expected = aten.native_dropout(x, 0.3, True)
    ours = drawn("native_dropout", lambda: aten.native_dropout(x, 0.3, True))
    assert ours[1].equal(expected[1]) and ours[0].equal(expected[0])
