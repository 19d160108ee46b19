"""More random numbers: every form of a distribution gives the same ones, words become integers as ATen deals them out,
tests of fit, parameters that are tensors, places drawn, graphs. On a GPU: ATen's own numbers."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from compare import FLOATS, Raised, assert_same, outcome
from test_random import THREADS, drawn, philox, seed_of, words

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
ON_CPU = DEVICE == "cpu"
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LEAST_P = 1e-4  # seeds are fixed: a test of fit that passes once passes always
aten = torch.ops.aten


def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(size, dtype=dtype, device=DEVICE)


# ---- the forms of one distribution


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_form_gives_the_same_numbers(dtype: torch.dtype) -> None:
    x = empty(40, 30, dtype=dtype)
    options = {"dtype": dtype, "device": torch.device(DEVICE)}
    forms: dict[str, dict[str, Callable[[], Tensor]]] = {
        "uniform_": {
            "rand": lambda: torch.rand(40, 30, **options),
            "rand_like": lambda: torch.rand_like(x),
            "rand.out": lambda: torch.rand(40, 30, out=x.clone()),
            "rand_like.out": lambda: aten.rand_like.out(x, out=x.clone()),
            "uniform": lambda: aten.uniform(x),
            "uniform.out": lambda: aten.uniform.out(x, out=x.clone()),
        },
        "normal_": {
            "randn": lambda: torch.randn(40, 30, **options),
            "randn_like": lambda: torch.randn_like(x),
            "normal_functional": lambda: aten.normal_functional(x),
            "normal.out": lambda: aten.normal.out(x, out=x.clone()),
            "normal.float_float": lambda: torch.normal(0.0, 1.0, (40, 30), **options),
            "normal.float_float_out": lambda: aten.normal.float_float_out(0, 1, [40, 30], out=x.clone()),
            "randn_like.out": lambda: aten.randn_like.out(x, out=x.clone()),
        },
        "exponential_": {"exponential": lambda: aten.exponential(x)},
        "cauchy_": {"cauchy": lambda: aten.cauchy(x), "cauchy.out": lambda: aten.cauchy.out(x, out=x.clone())},
        "log_normal_": {"log_normal": lambda: aten.log_normal(x)},
    }
    for name, others in forms.items():
        first = drawn(name, lambda n=name: getattr(x.clone(), n)())
        for other, call in others.items():
            result = drawn(other, call)
            assert result.dtype == dtype and torch.equal(result, first), other


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.bfloat16])
def test_every_form_gives_the_same_integers(dtype: torch.dtype) -> None:
    x = empty(40, 30, dtype=dtype)
    options = {"dtype": dtype, "device": torch.device(DEVICE)}
    first = drawn("random_.from", lambda: x.clone().random_(2, 90))
    forms: dict[str, Callable[[], Tensor]] = {
        "randint.low": lambda: torch.randint(2, 90, (40, 30), **options),
        "randint_like.low_dtype": lambda: torch.randint_like(x, 2, 90),
        "randint.low_out": lambda: torch.randint(2, 90, (40, 30), out=x.clone()),
        "random.from": lambda: getattr(aten.random, "from")(x, 2, 90),
    }
    for name, call in forms.items():
        assert torch.equal(drawn(name, call), first), name
    first = drawn("random_.to", lambda: x.clone().random_(90))
    assert torch.equal(drawn("randint", lambda: torch.randint(90, (40, 30), **options)), first)
    assert torch.equal(drawn("randint_like", lambda: torch.randint_like(x, 90)), first)


GENERATED: dict[str, Callable[[torch.Generator], Tensor]] = {
    "rand.generator": lambda g: torch.rand(50, generator=g, device=DEVICE),
    "randn.generator": lambda g: torch.randn(50, generator=g, device=DEVICE),
    "randint.generator": lambda g: torch.randint(100, (50,), generator=g, device=DEVICE),
    "randint.low_generator": lambda g: torch.randint(5, 100, (50,), generator=g, device=DEVICE),
    "random_": lambda g: empty(50, dtype=torch.int64).random_(generator=g),
    "cauchy_": lambda g: empty(50).cauchy_(generator=g),
    "log_normal_": lambda g: empty(50).log_normal_(generator=g),
    "geometric_": lambda g: empty(50).geometric_(0.05, generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.full((99,), 0.5, device=DEVICE), generator=g),
    "bernoulli.p": lambda g: torch.bernoulli(empty(99), 0.5, generator=g),
    "normal.Tensor_float": lambda g: torch.normal(torch.zeros(50, device=DEVICE), 1.0, generator=g),
    "normal.float_float": lambda g: torch.normal(0.0, 1.0, (50,), generator=g, device=DEVICE),
    "multinomial": lambda g: torch.multinomial(torch.ones(9, device=DEVICE), 50, True, generator=g),
    "randperm.generator": lambda g: torch.randperm(50, generator=g, device=DEVICE),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generators(name: str) -> None:
    """A generator of one's own: the same numbers for its seed, others for the next call, the global one untouched."""
    own = torch.Generator(DEVICE)

    def two() -> tuple[Tensor, Tensor]:
        own.manual_seed(3)
        return GENERATED[name](own), GENERATED[name](own)

    first, second = drawn(name, two, 1), drawn(name, two, 2)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    with flag_gems.use_gems():
        torch.manual_seed(5)
        before = torch.rand(4, device=DEVICE)
        torch.manual_seed(5)
        GENERATED[name](own)
        assert torch.equal(torch.rand(4, device=DEVICE), before)


def test_fork_rng() -> None:
    with flag_gems.use_gems():
        torch.manual_seed(11)
        expected = torch.rand(5, device=DEVICE), torch.randperm(9, device=DEVICE)
        torch.manual_seed(11)
        with torch.random.fork_rng():
            torch.randn(100, device=DEVICE), torch.randint(5, (7,), device=DEVICE)
        assert torch.equal(torch.rand(5, device=DEVICE), expected[0])
        assert torch.equal(torch.randperm(9, device=DEVICE), expected[1])


def test_layouts_number_by_memory() -> None:
    flat = drawn("rand", lambda: torch.rand(60, device=DEVICE))
    x = empty(10, 6).t()
    assert torch.equal(drawn("rand_like", lambda: torch.rand_like(x)).t().flatten(), flat)
    wide = empty(4, 3, 5, 1).to(memory_format=torch.channels_last)
    ours = drawn("rand_like", lambda: torch.rand_like(wide))
    assert ours.stride() == wide.stride() and torch.equal(ours.permute(0, 2, 3, 1).flatten(), flat)
    plain = drawn("rand_like", lambda: torch.rand_like(wide, memory_format=torch.contiguous_format))
    assert torch.equal(plain.flatten(), flat)
    assert drawn("rand_like", lambda: torch.rand_like(empty(2, 3), dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(drawn("bernoulli.p", lambda: torch.bernoulli(x, 0.5)).flatten(), (flat < 0.5).float())
    for size in ((0,), (3, 0), ()):
        with flag_gems.use_gems():
            assert torch.rand(size, device=DEVICE).shape == size
            assert torch.randint(9, size, device=DEVICE).shape == size


# ---- words


@pytest.mark.parametrize("count", [1, 257, 5000, THREADS + 3])
def test_integers_are_words(count: int) -> None:
    """Below 2**28 an integer is made of one word, from there on of two."""
    if not ON_CPU:
        return
    at = np.arange(count)
    w, number = words(seed_of(7), count, 4)
    one = w[number, at]
    w, number = words(seed_of(7), count, 2)
    two = (w[2 * number, at] << np.uint64(32)) | w[2 * number + 1, at]
    for dtype in (torch.int32, torch.int64, torch.float64):
        ours = drawn("random_.from", lambda d=dtype: empty(count, dtype=d).random_(-5, 1000))
        assert np.array_equal(ours.numpy().astype(np.int64), (one % np.uint64(1005)).astype(np.int64) - 5)
    edge = drawn("random_.from", lambda: empty(count, dtype=torch.int64).random_(0, 2**28 - 1))
    assert np.array_equal(edge.numpy(), (one % np.uint64(2**28 - 1)).astype(np.int64))
    edge = drawn("random_.from", lambda: empty(count, dtype=torch.int64).random_(0, 2**28))
    assert np.array_equal(edge.numpy(), (two % np.uint64(2**28)).astype(np.int64))
    large = drawn("random_.from", lambda: empty(count, dtype=torch.int64).random_(-7, 3 * 2**60 + 1))
    assert np.array_equal(large.numpy(), (two % np.uint64(3 * 2**60 + 8)).astype(np.int64) - 7)
    full = drawn("random_.from", lambda: empty(count, dtype=torch.int64).random_(-(2**63), None))
    assert np.array_equal(full.numpy(), two.astype(np.int64))
    limits = {torch.uint8: 2**8, torch.int8: 2**7, torch.int32: 2**31, torch.bool: 2, torch.float16: 2**11 + 1}
    for dtype, limit in limits.items():
        ours = drawn("random_", lambda d=dtype: empty(count, dtype=d).random_())
        assert np.array_equal(ours.numpy().astype(np.int64), (one % np.uint64(limit)).astype(np.int64)), dtype
    ours = drawn("random_", lambda: empty(count, dtype=torch.int64).random_())
    assert np.array_equal(ours.numpy(), (two % np.uint64(2**63)).astype(np.int64))


def test_bernoulli_of_tensors_is_words() -> None:
    """Four neighbours share a subsequence; a word at most as large as the probability is a hit."""
    if not ON_CPU:
        return
    for count in (1, 3, 4, 255, 1000, 4099):
        p = torch.linspace(0, 1, count)
        groups = philox(seed_of(7), np.arange((count + 3) // 4, dtype=np.uint64), 0)
        chance = groups.T.flatten()[:count].astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
        expected = torch.from_numpy(chance <= p.numpy())
        assert torch.equal(drawn("bernoulli", lambda q=p: torch.bernoulli(q)), expected.float())
        for dtype in (torch.int64, torch.bool, torch.float64, torch.bfloat16):
            ours = drawn("bernoulli_.Tensor", lambda q=p, d=dtype, n=count: torch.empty(n, dtype=d).bernoulli_(q))
            assert torch.equal(ours.bool(), expected) and ours.dtype == dtype
        assert torch.equal(drawn("bernoulli.Tensor", lambda q=p: aten.bernoulli.Tensor(q, q)), expected.float())
        out = torch.empty(count, dtype=torch.uint8)
        assert torch.equal(drawn("bernoulli.out", lambda q=p, o=out: torch.bernoulli(q, out=o)), expected.byte())
    p = torch.tensor([0.0, 1.0, 0.5]).expand(40, 3)
    x = drawn("bernoulli_.Tensor", lambda: torch.empty(3, 40).t().bernoulli_(p))
    assert (x[:, 0] == 0).all() and (x[:, 1] == 1).all() and 8 < x[:, 2].sum() < 32


# ---- tests of fit

COUNT = 200_000
CONTINUOUS: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
    "cauchy_": (lambda x: x.cauchy_(1, 2), stats.cauchy(1, 2)),
    "log_normal_": (lambda x: x.log_normal_(0.5, 0.7), stats.lognorm(0.7, scale=np.exp(0.5))),
    "uniform_": (lambda x: x.uniform_(-3, 5), stats.uniform(-3, 8)),
    "normal_": (lambda x: x.normal_(-1, 3), stats.norm(-1, 3)),
    "exponential_": (lambda x: x.exponential_(2), stats.expon(scale=0.5)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_kolmogorov_smirnov(name: str, dtype: torch.dtype) -> None:
    draw, distribution = CONTINUOUS[name]
    x = drawn(name, lambda: draw(empty(COUNT, dtype=dtype)))
    assert stats.kstest(x.double().cpu().numpy(), distribution.cdf).pvalue > LEAST_P


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int16, torch.int32, torch.int64])
def test_geometric(dtype: torch.dtype) -> None:
    x = drawn("geometric_", lambda: empty(COUNT, dtype=dtype).geometric_(0.3))
    seen = torch.bincount(x.long().cpu(), minlength=16)[:16].double().numpy()[1:]
    expected = stats.geom(0.3).pmf(np.arange(1, 16)) * COUNT
    assert (x >= 1).all()
    assert stats.chi2(15).sf(((seen - expected) ** 2 / expected).sum()) > LEAST_P


@pytest.mark.parametrize("dtype", [*INTS, torch.float32])
def test_integers_are_even(dtype: torch.dtype) -> None:
    for low, high in ((0, 10), (3, 100)):
        x = drawn("random_.from", lambda a=low, b=high: empty(COUNT, dtype=dtype).random_(a, b))
        seen = torch.bincount(x.long().cpu(), minlength=high)
        assert len(seen) == high and (seen[:low] == 0).all()
        assert stats.chisquare(seen[low:].numpy()).pvalue > LEAST_P


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_with_tensors(dtype: torch.dtype) -> None:
    """What is drawn, multiplied and moved: each rounds to the dtype, as in ATen's three steps."""
    mean = torch.linspace(-2, 2, 30, dtype=torch.float64, device=DEVICE).to(dtype)
    std = torch.linspace(0, 3, 40, dtype=torch.float64, device=DEVICE).to(dtype).view(40, 1)
    unit = drawn("normal_", lambda: empty(40, 30, dtype=dtype).normal_())
    row = drawn("normal_", lambda: empty(30, dtype=dtype).normal_(0, 2))
    column = drawn("normal_", lambda: empty(40, 1, dtype=dtype).normal_())
    assert torch.equal(drawn("normal.Tensor_float", lambda: torch.normal(mean, 2.0)), row + mean)
    if not ON_CPU:
        return
    assert torch.equal(drawn("normal.Tensor_Tensor", lambda: torch.normal(mean, std)), unit * std + mean)
    assert torch.equal(drawn("normal.float_Tensor", lambda: torch.normal(0.5, std)), column * std + 0.5)
    dense = (mean.expand(40, 30).contiguous(), std.expand(40, 30).contiguous())
    assert torch.equal(drawn("normal.Tensor_Tensor", lambda: torch.normal(*dense)), unit * std + mean)
    out = empty(0, dtype=dtype)
    assert torch.equal(drawn("normal.Tensor_Tensor_out", lambda: torch.normal(mean, std, out=out)), unit * std + mean)


def test_gradients_of_random_operators() -> None:
    """A mean has a gradient of zeros, as in torch; a factory may ask for one."""
    mean = torch.zeros(5, device=DEVICE, requires_grad=True)
    with flag_gems.use_gems():
        torch.normal(mean, 1.0).sum().backward()
        x = torch.rand(5, device=DEVICE, requires_grad=True)
        (x * x).sum().backward()
    assert mean.grad is not None and torch.equal(mean.grad, torch.zeros_like(mean))
    assert x.grad is not None and torch.equal(x.grad, 2 * x.detach()) and x.is_leaf


@pytest.mark.parametrize(
    "drop",
    [F.dropout, F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d],
    ids=lambda f: f.__name__,
)
def test_composite_dropouts(drop: Callable[..., Tensor]) -> None:
    """They reach our kernels through what they are made of, and keep their gradients."""
    x = torch.ones(6, 8, 5, 4, 3, device=DEVICE)[tuple([0] * {"dropout1d": 2, "dropout2d": 1}.get(drop.__name__, 0))]
    x = x.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        y = drop(x, 0.3, True)
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    flag_gems.reset_stats()
    torch.manual_seed(0)
    with flag_gems.use_gems():
        first = step()
        torch.manual_seed(0)
        second = step()
    names = ("native_dropout", "bernoulli_.float")
    assert any(flag_gems.stats().get(name, {}).get("kernel") for name in names)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    dropped = first[1] == 0
    assert 0 < dropped.sum() < dropped.numel()
    assert first[0][dropped].unique().numel() == 1 and first[0][~dropped].unique().numel() == 1


# ---- places


@pytest.mark.parametrize("dtype", FLOATS)
def test_multinomial_with_replacement(dtype: torch.dtype) -> None:
    p = torch.tensor([[0.5, 0, 2, 1.5, 4], [1, 1, 0, 0, 0]], dtype=dtype, device=DEVICE)
    for view in (p, p.t().contiguous().t(), p[:, None].expand(2, 1, 5)[:, 0], p[0], p[1]):
        x = drawn("multinomial", lambda v=view: torch.multinomial(v, 20_000, True)).cpu()
        assert x.dtype == torch.int64 and x.shape == (*view.shape[:-1], 20_000)
        for chances, places in zip(view.view(-1, 5).double().cpu(), x.view(-1, 20_000), strict=True):
            seen = torch.bincount(places, minlength=5).double()
            some = chances > 0
            expected = chances[some] / chances.sum() * 20_000
            assert (seen[~some] == 0).all() and stats.chisquare(seen[some], expected).pvalue > LEAST_P
    for samples in (2, 127, 128, 129):
        x = drawn("multinomial", lambda n=samples: torch.multinomial(p, n, True))
        assert x.shape == (2, samples)
    wide = torch.rand(3, 4099, device=DEVICE)
    x = drawn("multinomial", lambda: torch.multinomial(wide, 100, True))
    assert ((x >= 0) & (x < 4099)).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_multinomial_without_replacement(dtype: torch.dtype) -> None:
    if not ON_CPU:
        return
    p = torch.tensor([0.1, 0.2, 0, 0.7], dtype=dtype)
    one = drawn("multinomial", lambda: torch.multinomial(p.expand(20_000, 4), 1))
    seen = torch.bincount(one.flatten(), minlength=4)
    some = p > 0
    wanted = p[some].double() / p[some].double().sum() * 20_000
    assert seen[2] == 0 and stats.chisquare(seen[some].numpy(), wanted.numpy()).pvalue > LEAST_P
    three = drawn("multinomial", lambda: torch.multinomial(p.expand(500, 4), 3))
    assert three.sort().values.equal(torch.tensor([0, 1, 3]).expand(500, 3))
    wide = torch.rand(3, 1000, dtype=torch.float64).to(dtype)
    x = drawn("multinomial", lambda: torch.multinomial(wide, 20))
    assert all(len(set(row.tolist())) == 20 for row in x)
    # the race that ATen runs with our exponential numbers
    x = drawn("multinomial", lambda: torch.multinomial(wide, 1))
    q = wide / drawn("exponential_", lambda: torch.empty_like(wide).exponential_())
    assert torch.equal(x, q.argmax(-1, keepdim=True))


def test_multinomial_refuses_what_aten_refuses() -> None:
    good = torch.ones(2, 4)
    bad = (good * -1, good * 0, good / 0, good * float("nan"), good.int(), good[0, 0], good[None], good[:, :0])
    for p in bad if ON_CPU else bad[4:]:
        for replacement in (False, True):
            call = lambda q=p, r=replacement: torch.multinomial(q.to(DEVICE), 2, r)  # noqa: E731
            expected = outcome(call)
            with flag_gems.use_gems():
                ours = outcome(call)
            assert isinstance(expected, Raised) == isinstance(ours, Raised), p
    for samples, replacement in ((0, True), (-1, True), (5, False)):
        call = lambda n=samples, r=replacement: torch.multinomial(good.to(DEVICE), n, r)  # noqa: E731
        with flag_gems.use_gems():
            assert_same(outcome(call), outcome(call))
            assert isinstance(outcome(call), Raised)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.int16, torch.float64])
def test_randperm(dtype: torch.dtype) -> None:
    for n in (0, 1, 2, 3, 4, 255, 256, 257, 2048, 2049, 20_000):
        x = drawn("randperm", lambda k=n: torch.randperm(k, dtype=dtype, device=DEVICE))
        assert x.dtype == dtype and torch.equal(x.sort().values, torch.arange(n, dtype=dtype, device=DEVICE))
    first, second = (drawn("randperm", lambda: torch.randperm(999, device=DEVICE)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first.sort().values, first)
    out = torch.empty(0, dtype=dtype, device=DEVICE)
    assert len(drawn("randperm.generator_out", lambda: torch.randperm(50, out=out))) == 50
    for count, small in ((300, torch.uint8), (3000, torch.float16), (-1, torch.int64), (5, torch.bool)):
        call = lambda n=count, d=small: torch.randperm(n, dtype=d, device=DEVICE)  # noqa: E731
        expected = outcome(call)
        with flag_gems.use_gems():
            assert isinstance(outcome(call), Raised) == isinstance(expected, Raised)


def test_permutations_are_even() -> None:
    torch.manual_seed(0)
    with flag_gems.use_gems():
        seen = torch.stack([torch.randperm(4, device=DEVICE) for _ in range(4800)]).cpu()
    code = (seen * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > LEAST_P


# ---- refusals


def test_bad_parameters_are_atens() -> None:
    x = torch.zeros(4, device=DEVICE)
    calls: list[Callable[[], Any]] = [
        lambda: x.clone().cauchy_(0, 0),
        lambda: x.int().cauchy_(),
        lambda: x.clone().log_normal_(0, -1),
        lambda: x.int().log_normal_(),
        lambda: x.clone().geometric_(0),
        lambda: x.clone().geometric_(1),
        lambda: x.bool().geometric_(0.5),
        lambda: x.clone().random_(5, 5),
        lambda: x.int().random_(5, 2),
        lambda: x.byte().random_(0, 300),
        lambda: x.byte().random_(-1, 3),
        lambda: x.bool().random_(0, 3),
        lambda: x.half().random_(-(2**63), None),
        lambda: x.clone().random_(0, None),
        lambda: x.half().random_(0, 4096),
        lambda: torch.randint(5, 5, (3,), device=DEVICE),
        lambda: torch.randint(3, (-1,), device=DEVICE),
        lambda: torch.rand(-1, device=DEVICE),
        lambda: torch.rand(3, dtype=torch.int32, device=DEVICE),
        lambda: torch.rand(3, layout=torch.sparse_coo, device=DEVICE),
        lambda: torch.normal(x, -1.0),
        lambda: torch.normal(x, torch.ones(3, device=DEVICE)),
        lambda: torch.normal(0.0, -1.0, (3,), device=DEVICE),
        lambda: torch.bernoulli(x.int()),
        lambda: torch.bernoulli(x, 1.5),
        lambda: x.clone().bernoulli_(torch.zeros(3, device=DEVICE)),
    ]
    if ON_CPU:  # on a GPU these stop the context in ATen as here
        calls += [
            lambda: torch.bernoulli(x + 1.5),
            lambda: torch.bernoulli(x - 1),
            lambda: torch.bernoulli(x * float("nan")),
            lambda: torch.bernoulli((x + 2).expand(3, 4).t()),
            lambda: torch.normal(0.0, x - 1),
            lambda: torch.normal(x, torch.tensor([1.0, 2.0, -0.5, 1.0])),
        ]
    for number, call in enumerate(calls):
        expected = outcome(call)
        with flag_gems.use_gems():
            ours = outcome(call)
        if isinstance(expected, Raised) or isinstance(ours, Raised):
            assert_same(ours, expected, None, f"call {number}")


# ---- graphs


def test_capture_declines(tmp_path: Path) -> None:
    """Over the fake driver: on a stream that is captured no seed is taken and the generator stays where it is."""
    script = f"""
        import os
        from native import FakeDriver
        fake = FakeDriver()
        os.environ["FLAGGEMS_CUDA_LIBRARY"] = str(fake.path)
        os.environ["FLAGGEMS_CACHE_DIR"] = {str(tmp_path)!r}
        import flag_gems
        from flag_gems import _C

        class Generator:
            offset = 8
            def initial_seed(self): return 5
            def get_offset(self): return self.offset
            def set_offset(self, offset): self.offset = offset

        own, stream = Generator(), fake.stream(0)
        assert _C.philox(0, stream, own, 10) == (5, 8) and own.offset == 20
        fake.push(0)
        fake.capture(stream)
        reason = _C.philox(0, stream, own, 4)
        assert isinstance(reason, str) and "captured" in reason, reason
        assert own.offset == 20
        fake.capture(stream, 0)
        assert _C.philox(0, stream, own, 4) == (5, 20) and own.offset == 24
        fake.pop()
        """
    env_path = [str(Path(__file__).resolve().parent), *(p for p in sys.path if p)]
    code = f"import sys; sys.path[:0] = {env_path!r}\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


# ---- the same numbers as ATen's CUDA kernels

ON_GPU: dict[str, tuple[tuple[torch.dtype, ...], Callable[[int, torch.dtype], Tensor]]] = {
    "cauchy_": (FLOATS, lambda n, d: empty(n, dtype=d).cauchy_(1, 2)),
    "log_normal_": (FLOATS, lambda n, d: empty(n, dtype=d).log_normal_(0.5, 0.7)),
    "geometric_": ((*FLOATS, *INTS[2:]), lambda n, d: empty(n, dtype=d).geometric_(0.2)),
    "random_": ((*FLOATS, *INTS, torch.bool), lambda n, d: empty(n, dtype=d).random_()),
    "random_.to": ((*FLOATS, *INTS), lambda n, d: empty(n, dtype=d).random_(100)),
    "random_.from": ((torch.int32, torch.int64), lambda n, d: empty(n, dtype=d).random_(-(2**30), 2**30)),
    "rand": (FLOATS, lambda n, d: torch.rand(n, dtype=d, device=DEVICE)),
    "randn": (FLOATS, lambda n, d: torch.randn(n, dtype=d, device=DEVICE)),
    "randint.low": ((torch.int32, torch.int64), lambda n, d: torch.randint(-9, 2**29, (n,), dtype=d, device=DEVICE)),
    "bernoulli": (FLOATS, lambda n, d: torch.bernoulli(torch.linspace(0, 1, n, device=DEVICE).to(d))),
    "bernoulli_.Tensor": (
        (*FLOATS, *INTS, torch.bool),
        lambda n, d: empty(n, dtype=d).bernoulli_(torch.linspace(0, 1, n, device=DEVICE)),
    ),
    "normal.Tensor_float": (FLOATS, lambda n, d: torch.normal(torch.linspace(-1, 1, n, device=DEVICE).to(d), 2.0)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2, 3, 5, 255, 1001, 100_003, (1 << 20) + 1, (1 << 22) + 6])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(name, d, id=f"{name}-{str(d)[6:]}") for name, (dtypes, _) in ON_GPU.items() for d in dtypes],
)
def test_numbers_are_atens(name: str, dtype: torch.dtype, count: int) -> None:
    """The same seed gives the same bits, twice in a row, and leaves the generator at the same offset."""
    call = ON_GPU[name][1]

    def draw() -> tuple[Tensor, Tensor, int]:
        return call(count, dtype), call(count, dtype), torch.cuda.default_generators[0].get_offset()

    torch.manual_seed(7)
    expected = draw()
    ours = drawn(name, draw)
    assert ours[2] == expected[2]
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])


@pytest.mark.gpu
def test_multinomial_is_nearly_atens() -> None:
    """The words are the same; the running sum is kept in double here, so a neighbour may be picked at an edge."""
    p = torch.rand(7, 1000, device=DEVICE)
    torch.manual_seed(7)
    expected = torch.multinomial(p, 500, True)
    ours = drawn("multinomial", lambda: torch.multinomial(p, 500, True))
    assert ((ours - expected).abs() <= 1).all() and (ours == expected).double().mean() > 0.99
