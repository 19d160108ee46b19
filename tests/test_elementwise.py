"""Elementwise rows beside ATen where they are special: promotion, scalars, edge values, memory formats, out=."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

from compare import assert_same, outcome

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ALL = (*REAL, *INTS, torch.bool)
MIXED = (torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool)  # what promotes differently
aten = torch.ops.aten


COPIES = ("_to_copy", "copy_", "clone", "ones", "zeros", "full", "empty", "fill_")  # what ATen calls on the way


def kernels() -> int:
    """How many calls ran in kernels of ours so far, copies apart."""
    return sum(count["kernel"] for name, count in flag_gems.stats().items() if not name.startswith(COPIES))


def check(call: Callable[[], Any], note: str = "", kernel: bool | None = True) -> None:
    """The call gives under use_gems() what it gives without.

    Parameters
    ----------
    call : makes its own in-place operands
    kernel : True: it must run in our kernel; False: it must not; None: either
    """
    expected = outcome(call)
    with flag_gems.use_gems():
        before = kernels()
        got = outcome(call)
        ran = kernels() - before
    assert_same(got, expected, None, note)
    if kernel is not None:
        assert bool(ran) == kernel, f"{note}: {'ran' if ran else 'did not run'} in our kernel"


def sample(dtype: torch.dtype, *shape: int, low: float = -4, high: float = 4, seed: int = 0) -> Tensor:
    """Numbers of a dtype in a shape: halves and quarters, so that sums and products are exact."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator, dtype=torch.int64).bool().to(DEVICE)
    if not dtype.is_floating_point:
        low = max(low, 0) if dtype == torch.uint8 else low
        return torch.randint(int(low), int(high) + 1, shape, generator=generator).to(dtype).to(DEVICE)
    return (torch.randint(int(low * 4), int(high * 4) + 1, shape, generator=generator) / 4).to(dtype).to(DEVICE)


# ---- promotion

BINARY = {
    "add": torch.add,
    "div": torch.div,
    "lt": torch.lt,
}


@pytest.mark.parametrize("name", BINARY)
def test_promotion_of_tensors(name: str) -> None:
    """Pairs of dtypes, both dimensioned, one and both 0-dim."""
    op = BINARY[name]
    for a, b in itertools.product(MIXED, MIXED):
        x, y = sample(a, 7, 5, low=1), sample(b, 7, 5, low=1, seed=1)
        check(lambda x=x, y=y: op(x, y), f"{name} {a} {b}")
        check(lambda x=x, y=y: op(x, y[0, 0]), f"{name} {a} 0-dim {b}", None)
        if not torch.cuda.is_available():
            check(lambda x=x, y=y: op(x[0, 0], y[0, 0]), f"{name} 0-dim {a} 0-dim {b}")


NUMBERS = (True, 3, -2, 2.5, 0.1, 1e10, math.inf, math.nan)


@pytest.mark.parametrize("name", ["add", "div", "lt", "rsub", "clamp_min"])
@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_promotion_of_numbers(name: str, number: float) -> None:
    op = getattr(torch, name)
    for dtype in MIXED:
        if name == "rsub" and number is True:
            continue  # torch's own wrapping of True decides whether it raises
        x = sample(dtype, 9, 4)
        check(lambda x=x: op(x, number), f"{name} {dtype} {number}", None)


def test_numbers_run_in_our_kernel() -> None:
    for dtype in REAL:
        x = sample(dtype, 33)
        for number in (2, 2.5, -1):
            check(lambda x=x, n=number: x + n, f"{dtype} + {number}")
            check(lambda x=x, n=number: n - x, f"{number} - {dtype}")
            check(lambda x=x, n=number: x * n, f"{dtype} * {number}")
            check(lambda x=x, n=number: x / n, f"{dtype} / {number}")
            check(lambda x=x, n=number: x > n, f"{dtype} > {number}")


def test_half_compared_with_a_number() -> None:
    """The number is rounded to the tensor's dtype before the comparison."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.full((5,), 0.1, dtype=dtype, device=DEVICE)
        for op in (torch.eq, torch.lt, torch.ge):
            check(lambda op=op, x=x: op(x, 0.1), f"{op.__name__} {dtype}")


def test_promotion_in_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for dtype in (torch.int32, torch.bool):
            x = sample(dtype, 11)
            check(lambda x=x: torch.exp(x), f"exp {dtype}")
            check(lambda x=x: x + 0.5, f"{dtype} + 0.5")
    finally:
        torch.set_default_dtype(torch.float32)


def test_three_dtypes() -> None:
    for a, b, c in itertools.permutations((torch.float32, torch.bfloat16, torch.int32)):
        x, y, z = sample(a, 6, 5), sample(b, 6, 5, seed=1), sample(c, 6, 5, seed=2)
        check(lambda x=x, y=y, z=z: torch.addcmul(x, y, z), f"addcmul {a} {b} {c}", None)
        check(lambda x=x, y=y, z=z: torch.where(x > 0, y, z), f"where {b} {c}")


# ---- shapes and memory formats

SHAPES = [
    ((3, 5), (3, 5)),
    ((64, 96), (96,)),
    ((64, 96), (64, 1)),
    ((5, 1, 7), (4, 1)),
    ((2, 3, 4, 5), (3, 1, 5)),
    ((2, 1, 3, 1, 4), (5, 1, 6, 1)),
    ((8,), (1,)),
    ((1, 1), (1,)),
    ((130,), ()),
]


@pytest.mark.parametrize(("first", "second"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_broadcast(dtype: torch.dtype, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x, y = sample(dtype, *first), sample(dtype, *second, seed=1)
    check(lambda: x + y, "x + y")
    check(lambda: y + x, "y + x")
    check(lambda: torch.where(x > y, x, y), "where")


def views(t: Tensor) -> dict[str, Tensor]:
    """Ways in which a 4-dim tensor may lie."""
    wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype, device=t.device)
    wide[..., ::2] = t
    flat = torch.zeros(t.numel() + 3, dtype=t.dtype, device=t.device)
    flat[3:] = t.reshape(-1)
    return {
        "contiguous": t,
        "channels_last": t.contiguous(memory_format=torch.channels_last),
        "transposed": t.transpose(1, 2).contiguous().transpose(1, 2),
        "reversed": t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "stepped": wide[..., ::2],
        "offset": flat[3:].view(t.shape),
        "expanded": t[:1].expand(t.shape),
        "column": t[..., :1].expand(t.shape),
    }


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 8, 4, 16), (1, 4, 1, 32)])
def test_memory_format(shape: tuple[int, ...]) -> None:
    """Every pair of layouts: values and strides as TensorIterator gives them."""
    first, second = views(sample(torch.float32, *shape)), views(sample(torch.float32, *shape, seed=1))
    for (i, x), (j, y) in itertools.product(first.items(), second.items()):
        check(lambda x=x, y=y: x * y, f"{i} * {j}")
    for i, x in first.items():
        check(lambda x=x: torch.exp(x), f"exp {i}")
        check(lambda x=x: x + 1, f"{i} + 1")
        check(lambda x=x: x > 0, f"{i} > 0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64])
def test_sizes_and_offsets(dtype: torch.dtype) -> None:
    """Every length to 130 and around 4096, every offset to 16: heads, tails and misaligned operands."""
    base, other = sample(dtype, 5000), sample(dtype, 5000, seed=1)
    for n in [*range(1, 131), 4095, 4096, 4097]:
        check(lambda n=n: base[:n] + other[:n], f"n={n}")
    for i, j in itertools.product((0, 1, 2, 3, 5, 8, 15, 16), repeat=2):
        check(lambda i=i, j=j: base[i : i + 1000] + other[j : j + 1000], f"offsets {i} {j}")
        out = torch.zeros(2000, dtype=dtype, device=DEVICE)[j : j + 1000]
        check(lambda i=i, o=out: torch.add(base[i : i + 1000], other[i : i + 1000], out=o).clone(), f"out {i} {j}")


def test_offsets_beyond_32_bits() -> None:
    """Two elements more than 2^31 apart: little memory is touched, the index must be wide."""
    base = torch.empty(2**31 + 4096, dtype=torch.int8, device=DEVICE)
    x = base[:: 2**31 + 100]
    assert x.shape == (2,)
    x.copy_(torch.tensor([3, 5], dtype=torch.int8))
    check(lambda: x + 1, "read")
    check(lambda: x.fill_(3).mul_(-1).clone(), "write")
    y = torch.ones(3, 2, dtype=torch.int8, device=DEVICE)
    check(lambda: y + x, "broadcast")


def test_mixed_sizes_of_dtypes() -> None:
    """Operands whose elements differ in size share one access width."""
    for a, b in itertools.product((torch.bool, torch.bfloat16, torch.float32, torch.float64), repeat=2):
        for n in (1, 17, 64, 1001):
            x, y = sample(a, n + 1)[1:], sample(b, n + 1, seed=1)[1:]
            check(lambda x=x, y=y: x == y, f"{a} == {b} {n}")


# ---- edge values

FINITE = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.5, -2.5, 1e-30, 1e30, -1e30, 88.0, -88.0, 104.0]
SPECIAL = [*FINITE, math.inf, -math.inf, math.nan]
EXPONENTIALS = ["exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "erf", "sigmoid"]
UNARY = [*EXPONENTIALS, "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "neg", "abs", "relu"]


@pytest.mark.parametrize("name", [*UNARY, "isnan", "isinf", "logical_not"])
@pytest.mark.parametrize("dtype", REAL)
def test_special_values(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL * 3, dtype=dtype, device=DEVICE)
    if name in ("sin", "cos", "tan"):
        x = x[x.abs() < 1e4]
    op = getattr(torch, name)
    check(lambda: op(x), name)
    signs = outcome(lambda: op(x))
    with flag_gems.use_gems():
        assert torch.equal(torch.signbit(op(x))[~signs.isnan()], torch.signbit(signs)[~signs.isnan()]), "sign of zero"


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", ["maximum", "minimum", "fmod", "remainder", "floor_divide", "pow", "div", "atan2"])
def test_pairs_of_special_values(name: str, dtype: torch.dtype) -> None:
    values = [v for v in SPECIAL if abs(v) < 100 or not math.isfinite(v)]
    x, y = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype, device=DEVICE)] * 2).unbind(1)
    check(lambda: getattr(torch, name)(x.contiguous(), y.contiguous()), name, None)
    for number in (0.1, 2.5, -3, math.inf, math.nan):
        other = torch.tensor(number, dtype=dtype, device=DEVICE)
        check(lambda y=other: getattr(torch, name)(x, y), f"{name} {number}", None)


@pytest.mark.parametrize("dtype", REAL)
def test_activations_far_out(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, 0.3, -0.3, 3.0, -3.0, 9.0, -9.0, 30.0, -30.0, math.nan], dtype=dtype, device=DEVICE)
    grad = torch.full_like(x, 1.5)
    for how in ("none", "tanh"):
        check(lambda how=how: torch.nn.functional.gelu(x, approximate=how), f"gelu {how}")
        check(lambda how=how: aten.gelu_backward(grad, x, approximate=how), f"gelu_backward {how}")
    check(lambda: torch.nn.functional.silu(x), "silu")
    check(lambda: aten.silu_backward(grad, x), "silu_backward")
    check(lambda: aten.threshold_backward(grad, x, 0.0), "threshold_backward")


def test_rounding_modes() -> None:
    x = torch.tensor([7.0, -7.0, 7.5, -7.5, 0.0, -0.0, math.inf, math.nan, 1e20], device=DEVICE)
    y = torch.tensor([2.0, 2.0, -2.0, -2.5, 3.0, 3.0, 2.0, 1.0, 3.0], device=DEVICE)
    for dtype, mode in itertools.product(REAL, (None, "trunc", "floor")):
        a, b = x.to(dtype), y.to(dtype)
        check(lambda a=a, b=b, m=mode: torch.div(a, b, rounding_mode=m), f"{dtype} {mode}")
        for number in (2, -2.5, 0.1):
            check(lambda a=a, n=number, m=mode: torch.div(a, n, rounding_mode=m), f"{dtype} {mode} {number}")
    for dtype, mode in itertools.product(INTS, (None, "trunc", "floor")):
        a = sample(dtype, 40, low=-9, high=9)
        for number in (2, 3):
            check(lambda a=a, n=number, m=mode: torch.div(a, n, rounding_mode=m), f"{dtype} {mode} {number}")
    check(lambda: torch.div(x, y, rounding_mode="up"), "an unknown mode", False)


@pytest.mark.parametrize("dtype", INTS)
def test_integers(dtype: torch.dtype) -> None:
    """Overflow wraps; division by zero and negative powers are ATen's errors; the least number by -1 does not trap."""
    info = torch.iinfo(dtype)
    values = [info.min, info.min + 1, -1 if info.min else 1, 0, 1, 2, info.max - 1, info.max]
    x = torch.tensor(values * 5, device=DEVICE).to(dtype)
    y = x.flip(0).contiguous()
    check(lambda: x + y, "+")
    check(lambda: x * y, "*")
    check(lambda: x - 1, "- 1")
    check(lambda: -x, "-x")
    check(lambda: torch.abs(x), "abs")
    check(lambda: x & y | (x ^ ~y), "bits")
    check(lambda: torch.pow(x, 3), "pow 3")
    powers = sample(dtype, 40, low=-3, high=5)
    check(lambda: torch.pow(x, powers), "pow tensor")
    check(lambda: torch.pow(2, powers), "pow base", None)
    check(lambda: torch.pow(x, -1), "pow -1", False)
    check(lambda: x // 3, "// 3")
    check(lambda: x % 3, "% 3")
    check(lambda: torch.fmod(x, 3), "fmod 3")
    check(lambda: x // 0, "// 0", False)
    check(lambda: x % 0, "% 0", False)
    check(lambda: x // y.clamp(min=1), "// tensor", None)
    kept = slice(None) if DEVICE == "cpu" else y != 0  # on CUDA a quotient by zero is undefined in ATen
    dividends, divisors = x[kept], y[kept]
    check(lambda: dividends // divisors, "// tensor with zeros", None)
    if info.min:
        with flag_gems.use_gems():  # ATen traps or wraps here, by machine
            assert torch.div(x, -1, rounding_mode="floor")[1] == info.max
            assert (x % -1 == 0).all()


@pytest.mark.parametrize("dtype", INTS)
def test_shifts(dtype: torch.dtype) -> None:
    x = sample(dtype, 40, low=-100, high=100)
    by = torch.tensor([0, 1, 3, 7, 8, 15, 16, 31, 32, 63, 64, 100, -1, -8] * 3, device=DEVICE)[:40].to(dtype)
    check(lambda: torch.bitwise_left_shift(x, by), "left")
    check(lambda: torch.bitwise_right_shift(x, by), "right")
    for number in (0, 1, 5):
        check(lambda n=number: x << n, f"<< {number}", None)
        check(lambda n=number: x >> n, f">> {number}", None)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5, 1.5, math.inf])
def test_powers(dtype: torch.dtype, exponent: float) -> None:
    x = torch.tensor([0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 10.0, 0.0], dtype=dtype, device=DEVICE)
    check(lambda: torch.pow(x, exponent), f"** {exponent}")
    check(lambda: torch.pow(exponent, x), f"{exponent} **", None)


def test_clamp() -> None:
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0, math.nan, math.inf], device=DEVICE)
    low, high = torch.full_like(x, -1), torch.full_like(x, 1)
    for dtype in (*REAL, torch.int32):
        y = x.nan_to_num().to(dtype) if dtype == torch.int32 else x.to(dtype)
        check(lambda y=y: torch.clamp(y, -1, 1), f"{dtype} both")
        check(lambda y=y: torch.clamp(y, min=-1), f"{dtype} min")
        check(lambda y=y: torch.clamp(y, max=0.5), f"{dtype} max")
        check(lambda y=y: torch.clamp(y, 2, 1), f"{dtype} crossed")
        check(lambda y=y: torch.clamp(y, min=math.nan), f"{dtype} nan")
        check(lambda y=y: torch.clamp(y, low, high), f"{dtype} tensors")
        check(lambda y=y: torch.clamp(y, low), f"{dtype} low tensor")
    check(lambda: torch.clamp(x), "none", False)


# ---- scalars of their own


def test_alpha() -> None:
    for dtype in ALL:
        x, y = sample(dtype, 21), sample(dtype, 21, seed=1)
        for alpha in (1, 2, -1, 0.5, True):
            check(lambda x=x, y=y, a=alpha: torch.add(x, y, alpha=a), f"add {dtype} {alpha}", None)
            check(lambda x=x, y=y, a=alpha: torch.sub(x, y, alpha=a), f"sub {dtype} {alpha}", None)
    x = sample(torch.float32, 21)
    check(lambda: torch.add(x, x, alpha=2), "alpha=2")


def test_masked_fill() -> None:
    mask = sample(torch.bool, 6, 5)
    for dtype in ALL:
        x = sample(dtype, 6, 5)
        for value in (1, -2.5, True, 1e10, math.inf):
            check(lambda x=x, v=value: x.masked_fill(mask, v), f"{dtype} {value}", None)
        check(lambda x=x: x.masked_fill(mask, 1), f"{dtype} 1")
        check(lambda x=x: x.masked_fill(mask, torch.ones((), dtype=x.dtype, device=DEVICE)), f"{dtype} tensor")
        check(lambda x=x: x.clone().masked_fill_(mask[0], 1), f"{dtype} in place, broadcast")
    x = sample(torch.float32, 6, 5)
    check(lambda: x.masked_fill(mask, torch.ones(2, device=DEVICE)), "value of one dim", False)
    check(lambda: x.masked_fill(mask.to(torch.int32), 1), "a mask of ints", False)


def test_lerp() -> None:
    for dtype in REAL:
        x, y, w = sample(dtype, 33), sample(dtype, 33, seed=1), sample(dtype, 33, low=-1, high=1, seed=2)
        check(lambda x=x, y=y, w=w: torch.lerp(x, y, w), f"{dtype}")
        for weight in (0.25, 0.5, 0.75, 2):
            check(lambda x=x, y=y, w=weight: torch.lerp(x, y, w), f"{dtype} {weight}")
    x, y = sample(torch.float32, 3), sample(torch.float64, 3)
    check(lambda: torch.lerp(x, y, 0.5), "two dtypes", False)


# ---- in place, out=


def test_in_place() -> None:
    for a, b in itertools.product((torch.bfloat16, torch.float32, torch.int32, torch.bool), repeat=2):
        x, y = sample(a, 5, 7), sample(b, 7, seed=1)
        check(lambda x=x, y=y: x.clone().add_(y), f"{a} add_ {b}", None)
        check(lambda x=x, y=y: x.clone().lt_(y), f"{a} lt_ {b}", None)
    base = sample(torch.float32, 8, 8)
    check(lambda: base.clone().t().mul_(2), "transposed")
    check(lambda: base.clone()[::2].exp_(), "stepped")
    check(lambda: base.clone().add_(base.clone()[0]), "broadcast")
    check(lambda: base[0].clone().add_(base), "self would grow", False)


def test_in_place_returns_self() -> None:
    x = sample(torch.float32, 9)
    with flag_gems.use_gems():
        assert x.add_(1) is x
        assert torch.exp(x, out=x) is x


def test_the_same_tensor_twice() -> None:
    base = sample(torch.float32, 100)

    def twice() -> Tensor:
        x = base.clone()
        return x.mul_(x)

    def partly() -> Tensor:
        x = base.clone()
        return x[1:].add_(x[:-1])

    check(twice, "x *= x")
    check(partly, "overlap", False)


def test_out() -> None:
    x, y = sample(torch.float32, 6, 5), sample(torch.float32, 6, 5, seed=1)
    for dtype in ALL:
        check(lambda d=dtype: torch.add(x, y, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"out {dtype}", None)
        check(lambda d=dtype: torch.lt(x, y, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"lt out {dtype}", None)
    half = x.bfloat16()
    check(lambda: torch.mul(half, 0.3, out=torch.empty(6, 5, device=DEVICE)), "rounded before it is cast")
    check(lambda: torch.add(x, y, out=torch.empty(0, device=DEVICE)), "empty out", None)
    check(lambda: torch.add(x, y, out=torch.empty(5, 6, device=DEVICE).t()), "transposed out")
    check(lambda: torch.add(x, y, out=torch.empty(6, 10, device=DEVICE)[:, ::2]), "stepped out")
    check(lambda: torch.add(x, y, out=torch.empty(1, device=DEVICE).expand(6, 5)), "an out that overlaps itself", False)


def test_no_kernel_for_these() -> None:
    """What is left to ATen, result or error."""
    x, y, bools = sample(torch.float32, 3), sample(torch.float32, 4), sample(torch.bool, 3)
    z = x.to(torch.complex64)
    check(lambda: z < z, "complex numbers in order", False)
    check(lambda: z.to(torch.complex32) * 2, "complex32", False)
    check(lambda: bools - bools, "bool - bool", False)
    check(lambda: x + y, "shapes", False)
    check(lambda: torch.bitwise_and(x, 1), "bits of floats", False)
