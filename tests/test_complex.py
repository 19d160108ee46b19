"""Elementwise rows in complex dtypes beside ATen: special values, promotion, scalars, layouts, out=, gradients."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import _C, rows
from torch import Tensor

import native
import sass
from compare import outcome
from test_elementwise import check, views
from test_elementwise_engine import ARCHS

pytestmark = pytest.mark.usefixtures("registered")

DEVICE = flag_gems.device
DTYPES = (torch.complex64, torch.complex128)
BOTH = [torch.complex64, pytest.param(torch.complex128, marks=pytest.mark.slow)]
aten = torch.ops.aten
EXPONENTIALS = ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sigmoid")
ROWS = {rows.name_of(row): row for row in _C.rows()}
# What is not a row, or not in complex dtypes, is left out.
ANGLES = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
FUNCTIONS = tuple(
    name
    for name in (*EXPONENTIALS, *ANGLES, "sqrt", "rsqrt", "reciprocal", "neg", "abs", "sgn", "sinc")
    if "complex64" in ROWS.get(name, {"dtypes": ()})["dtypes"]
)
QUESTIONS = ("isnan", "isinf", "logical_not")
OTHERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.bool)
PARTS = [0.0, -0.0, 1.0, -2.5, 0.3, 100.0, -30.0, math.inf, -math.inf, math.nan]


def sample(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """Numbers whose parts are quarters from -4 to 4, so that products are exact; not 0."""
    generator = torch.Generator().manual_seed(seed)

    def part() -> Tensor:
        return torch.randint(-16, 17, shape, generator=generator) / 4

    if dtype == torch.bool:
        return (part() > 0).to(DEVICE)
    if not dtype.is_complex:
        return part().to(dtype).to(DEVICE)
    z = torch.complex(part(), part())
    return torch.where(z == 0, 1 + 1j, z).to(dtype).to(DEVICE)


def special(dtype: torch.dtype) -> Tensor:
    return torch.tensor([complex(re, im) for re in PARTS for im in PARTS], dtype=dtype, device=DEVICE)


def parts(t: Tensor) -> tuple[Tensor, ...]:
    return (t.real, t.imag) if t.is_complex() else (t,)


def near(a: Tensor, b: Tensor, rounding: float, size: Any = 0) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= rounding * (b.abs() + size) + 1e-30)


def assert_parts(
    ours: Tensor, wanted: Tensor, rounding: float, note: str, signs: bool = False, other: Tensor | None = None
) -> None:
    """Each part by itself: NaN and infinities where they are wanted, the rest within a relative error.

    A number passes too where both of its parts are those of `other`.
    """
    assert ours.dtype == wanted.dtype and ours.shape == wanted.shape, note
    size = wanted.abs().nan_to_num(0, 0, 0) if wanted.is_complex() else 0
    fine = torch.zeros_like(ours, dtype=torch.bool)
    if other is not None:
        pairs_of_parts = zip(parts(ours), parts(other), strict=True)
        fine = torch.stack([near(a, b, rounding, other.abs().nan_to_num(0, 0, 0)) for a, b in pairs_of_parts]).all(0)
    for a, b in zip(parts(ours), parts(wanted), strict=True):
        if a.dtype == torch.bool:
            assert torch.equal(a, b), note
            continue
        good = near(a, b, rounding, size) | fine
        assert good.all(), f"{note}: {ours[~good][:5]} instead of {wanted[~good][:5]} at {(~good).nonzero()[:5].T}"
        if signs:
            assert torch.equal(a.signbit()[~a.isnan()], b.signbit()[~b.isnan()]), f"{note}: sign of a zero"


def rounding_of(dtype: torch.dtype) -> float:
    return 3e-6 if dtype == torch.complex64 else 1e-14


def ours(call: Any) -> Any:
    """What a call gives in a kernel of ours."""
    flag_gems.reset_stats()
    with flag_gems.use_gems():
        result = call()
    assert any(count["kernel"] for count in flag_gems.stats().values()), flag_gems.stats()
    return result


# ---- values


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", [*FUNCTIONS, *QUESTIONS])
def test_special_values(name: str, dtype: torch.dtype) -> None:
    """ATen's, which on a GPU are not everywhere those of C: there the C library's pass too."""
    z = special(dtype)
    function = getattr(torch, name)
    signed = name in ("exp", "log", "sqrt", "tan", "tanh", "log1p")
    wanted = function(z)
    if name in ("sigmoid", "rsqrt"):  # 1 over an infinity is 0 in C; ATen has NaN there on a CPU
        divisor = 1 + torch.exp(-z) if name == "sigmoid" else torch.sqrt(z)
        wanted = torch.where(torch.isinf(divisor), torch.zeros_like(wanted), wanted)
    library = function(z.cpu()).to(DEVICE) if DEVICE != "cpu" and wanted.is_complex() else None
    rounding, signs = rounding_of(dtype), signed and DEVICE == "cpu"
    assert_parts(ours(lambda: function(z)), wanted, rounding, name, signs=signs, other=library)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "eq", "ne", "logical_and"])
def test_pairs_of_special_values(name: str, dtype: torch.dtype) -> None:
    values = special(dtype)
    x, y = pairs(values)
    function = getattr(torch, name)
    rounding = 1e-4 if name == "pow" and dtype == torch.complex64 else 20 * rounding_of(dtype)
    assert_parts(ours(lambda: function(x, y)), function(x, y), rounding, name)


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    n = len(values)
    return values.repeat_interleave(n), values.repeat(n)


@pytest.mark.parametrize("name", ["sqrt", "log", "exp", "sin", "cos", "tanh", "abs", "reciprocal", "sigmoid"])
def test_far_magnitudes(name: str) -> None:
    """Where a square or an exponential would leave float32 and the result does not; near 1, for logarithms."""
    sizes = torch.tensor([1e-42, 1e-38, 1e-25, 1e-10, 1.0, 80.0, 88.9, 95.0, 1e10, 1e25, 3e38])
    re, im = (t.contiguous() for t in torch.cartesian_prod(sizes, sizes).unbind(1))
    near = 1 + torch.linspace(-1e-3, 1e-3, 41)
    angle = torch.linspace(-3, 3, 41)
    z = torch.cat([torch.complex(re, im), torch.complex(-re, im), torch.complex(re, -im), torch.polar(near, angle)])
    z = z.to(DEVICE)
    if name in ("sin", "cos", "tanh"):
        z = z[(z.real.abs() < 200) & (z.imag.abs() < 200)]
    function = getattr(torch, name)
    exact = function(z.cdouble())
    limit = torch.finfo(torch.float32).max
    narrow = torch.complex(exact.real.float(), exact.imag.float()) if exact.is_complex() else exact.float()
    kept = torch.ones_like(z, dtype=torch.bool)
    for part in parts(exact):
        kept &= (part.abs() < limit) & ((part.abs() > 1e-37) | (part == 0))
    assert kept.sum() > 50
    assert_parts(ours(lambda: function(z))[kept], narrow[kept], 1e-6, name)


def test_quotients_of_far_magnitudes() -> None:
    sizes = torch.tensor([1e-30, 1e-20, 1.0, 1e20, 1e30, 1e38])
    values = torch.complex(*(t.contiguous() for t in torch.cartesian_prod(sizes, sizes).unbind(1))).to(DEVICE)
    x, y = pairs(values)
    exact = x.cdouble() / y.cdouble()
    kept = (exact.abs() < 1e38) & (exact.real.abs() > 1e-30) & (exact.imag.abs() > 1e-30)
    assert_parts(ours(lambda: x / y)[kept], exact.cfloat()[kept], 1e-6, "div")
    assert_parts(ours(lambda: x.abs())[:36], x.cdouble().abs().float()[:36], 1e-6, "abs")


@pytest.mark.parametrize("name", [*FUNCTIONS, "mul", "div"])
def test_rounding(name: str) -> None:
    """float32 parts within a few units of the complex128 result's size."""
    generator = torch.Generator().manual_seed(1)
    z, w = (torch.randn(2000, generator=generator, dtype=torch.complex128).cfloat().to(DEVICE) for _ in range(2))
    function = getattr(torch, name)
    args = (z, w) if name in ("mul", "div") else (z,)
    got = ours(lambda: function(*args)).to(torch.complex128)
    exact = function(*(a.cdouble() for a in args))
    worst = ((got - exact).abs() / exact.abs()).max().item()
    assert worst < 12 * torch.finfo(torch.float32).eps, f"{name}: {worst / torch.finfo(torch.float32).eps:.1f} units"


# ---- promotion and scalars


@pytest.mark.parametrize("others", [(torch.float32,), pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_promotion(others: tuple[torch.dtype, ...]) -> None:
    """Pairs with a complex dtype, dimensioned and 0-dim."""
    for a, b in [*itertools.product(DTYPES, others), *itertools.product(others, DTYPES), DTYPES, DTYPES[::-1]]:
        x, y = sample(a, 6, 5), sample(b, 6, 5, seed=1)
        check(lambda x=x, y=y: x * y, f"{a} * {b}")
        check(lambda x=x, y=y: x == y, f"{a} == {b}")
        check(lambda x=x, y=y: x * y[0, 0], f"{a} * 0-dim {b}", None)
        check(lambda x=x, y=y: torch.where(x != 0, x, y), f"where {a} {b}")


def test_complex_numbers() -> None:
    """In the place of a tensor and as Scalars of their own; with real tensors they make the result complex."""
    z, w = sample(torch.complex64, 7, 5), sample(torch.complex64, 7, 5, seed=1)
    for number in (2j, 1 - 3j, 2, 0.5, True, complex(math.inf, 1), complex(math.nan, 0)):
        check(lambda n=number: z + n, f"z + {number}")
        check(lambda n=number: z * n, f"z * {number}")
        if number is not True:  # torch's own wrapping of True decides whether it raises
            check(lambda n=number: n - z, f"{number} - z", None)
        check(lambda n=number: z / n, f"z / {number}")
        check(lambda n=number: z == n, f"z == {number}")
        check(lambda n=number: z.masked_fill(w.real > 0, n), f"masked_fill {number}", None)
    for number in (2j, 1 - 3j, -2, 0.5):
        check(lambda n=number: torch.add(z, w, alpha=n), f"add alpha={number}")
        check(lambda n=number: torch.sub(z, w, alpha=n), f"sub alpha={number}")
        check(lambda n=number: torch.addcmul(z, w, z, value=n), f"addcmul {number}")
        check(lambda n=number: torch.addcdiv(z, w, z, value=n), f"addcdiv {number}")
        check(lambda n=number: torch.lerp(z, w, n), f"lerp {number}")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int32):
        x = sample(dtype, 7, 5)
        check(lambda x=x: x * 2j, f"{dtype} * 2j")
        check(lambda x=x: x + (1 - 1j), f"{dtype} + 1-1j")
        check(lambda x=x: x / (1 - 1j), f"{dtype} / 1-1j")
        check(lambda x=x: x == 2j, f"{dtype} == 2j")
    half = sample(torch.float16, 7)
    check(lambda: half * 2j, "float16 becomes complex32", False)
    real = sample(torch.float32, 7)
    check(lambda: torch.add(real, real, alpha=2j), "a complex alpha of real numbers", False)
    mask = real > 0
    check(lambda: real.masked_fill(mask, 2j), "a complex value in real numbers", False)
    check(lambda: real.clone().add_(2j), "a real tensor in place", False)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5, 2j, 1 - 1j])
def test_powers(exponent: complex) -> None:
    z = sample(torch.complex64, 33)
    zeros = torch.zeros(3, dtype=torch.complex64, device=DEVICE)
    check(lambda: torch.pow(z, exponent), f"** {exponent}", None if exponent == 0 else True)
    check(lambda: torch.pow(exponent, z), f"{exponent} **", None)
    check(lambda: torch.pow(zeros, exponent), f"0 ** {exponent}", None)
    check(lambda: torch.pow(exponent, zeros * math.nan), f"{exponent} ** nan", None)


def test_lerp_chooses_by_the_weights_size() -> None:
    z, w = sample(torch.complex64, 64), sample(torch.complex64, 64, seed=1)
    weight = sample(torch.complex64, 64, seed=2) / 8
    check(lambda: torch.lerp(z, w, weight), "tensors")
    check(lambda: torch.lerp(z, w, 0.4 + 0.4j), "a number")


# ---- layouts, in place, out=


@pytest.mark.parametrize("dtype", BOTH)
def test_layouts(dtype: torch.dtype) -> None:
    """Values and strides, of each pair of layouts; a result of another element's size beside it."""
    first, second = views(sample(dtype, 2, 3, 5, 8)), views(sample(dtype, 2, 3, 5, 8, seed=1))
    for (i, x), (j, y) in itertools.product(first.items(), second.items()):
        check(lambda x=x, y=y: x * y, f"{i} * {j}")
    for i, x in first.items():
        check(lambda x=x: torch.abs(x), f"abs {i}")
        check(lambda x=x: x + 1j, f"{i} + 1j")
        check(lambda x=x: x * x.real, f"{i} times its real part")
        check(lambda x=x: x.sqrt(), f"sqrt {i}")


def test_sizes_and_offsets() -> None:
    base, other = sample(torch.complex64, 5000), sample(torch.complex64, 5000, seed=1)
    for n in [*range(1, 40), 63, 64, 65, 127, 128, 129, 4095, 4097]:
        check(lambda n=n: base[:n] * other[:n], f"n={n}")
    for i, j in itertools.product((0, 1, 2, 3), repeat=2):
        check(lambda i=i, j=j: base[i : i + 1000] * other[j : j + 1000], f"offsets {i} {j}")
    check(lambda: base[:0] * other[:0], "empty")
    check(lambda: base[0] * other[0], "0-dim")


def test_parts_are_views() -> None:
    """The real parts of a complex tensor are a float tensor whose elements are two apart."""
    z = sample(torch.complex64, 40)
    check(lambda: z.real * z.imag, "real * imag")
    check(lambda: z.clone().real.mul_(2), "in place in a real part")
    check(lambda: torch.view_as_complex(torch.view_as_real(z)[1:]) * 2, "a view back")


def test_in_place_and_out() -> None:
    z, w = sample(torch.complex64, 6, 5), sample(torch.complex64, 6, 5, seed=1)
    x = sample(torch.float32, 6, 5)
    check(lambda: z.clone().mul_(w), "mul_")
    check(lambda: z.clone().add_(x), "add_ of a real tensor")
    check(lambda: z.clone().exp_(), "exp_")
    check(lambda: z.clone().t().mul_(2j), "transposed")
    check(lambda: z.clone().abs_(), "abs_ in place", False)
    check(lambda: x.clone().mul_(z), "a complex result in a real tensor", False)
    for dtype in (*DTYPES, torch.float32, torch.float64, torch.int32, torch.bool):
        check(lambda d=dtype: torch.mul(z, w, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"mul out {dtype}", None)
        check(lambda d=dtype: torch.abs(z, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"abs out {dtype}", None)
        check(lambda d=dtype: torch.mul(x, x, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"real out {dtype}", None)
        check(lambda d=dtype: torch.eq(z, w, out=torch.empty(6, 5, dtype=d, device=DEVICE)), f"eq out {dtype}", None)
    check(lambda: torch.mul(z, w, out=torch.empty(6, 5, dtype=torch.complex128, device=DEVICE)), "mul into complex128")
    for dtype in (torch.complex64, torch.float64):  # left to ATen, which may call operators of ours on its way
        out = torch.empty(6, 5, dtype=dtype, device=DEVICE)
        check(lambda out=out: torch.abs(z, out=out).clone(), f"abs into {dtype}", None)
    check(lambda: torch.mul(z, w, out=torch.empty(5, 6, dtype=torch.complex64, device=DEVICE).t()), "transposed out")
    base = sample(torch.complex64, 50)

    def partly() -> Tensor:
        t = base.clone()
        return t[1:].mul_(t[:-1])

    check(partly, "overlap", False)


@pytest.mark.skipif(DEVICE != "cpu", reason="memory of the host")
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_memory_that_is_not_aligned(dtype: torch.dtype) -> None:
    """Kernels take whole elements: a tensor that stands between them is left to ATen."""
    buffer = bytearray(range(1, 200))
    x = torch.frombuffer(buffer, dtype=dtype, offset=2, count=8)
    assert x.data_ptr() % 4
    check(lambda: torch.isnan(x), "not aligned", False)


def test_left_to_aten() -> None:
    z, w = sample(torch.complex64, 9), sample(torch.complex64, 9, seed=1)
    check(lambda: torch.lt(z, w), "no order", False)
    check(lambda: torch.maximum(z, w), "maximum", False)
    check(lambda: torch.clamp(z, 0, 1), "clamp", False)
    check(lambda: torch.floor_divide(z, w), "floor_divide", False)
    check(lambda: torch.div(z, w, rounding_mode="floor"), "rounded", False)
    check(lambda: z.conj() * 2, "conjugated: torch resolves it and calls again", None)
    check(lambda: z.conj().imag * 2, "negated", None)
    check(lambda: z.to(torch.complex32) * 2, "complex32", False)
    check(lambda: torch.erf(z), "erf", False)


# ---- gradients


def gradient_cases() -> dict[str, Any]:
    cases: dict[str, Any] = {name: getattr(torch, name) for name in (*FUNCTIONS, "mul", "div", "pow")}
    cases["add"] = lambda x, y: torch.add(x, y, alpha=2 - 1j)
    cases["real"] = lambda x, y: x * y.real
    cases["addcmul"] = lambda x, y: torch.addcmul(x, y, y, value=1j)
    cases["addcdiv"] = lambda x, y: torch.addcdiv(x, x, y)
    cases["lerp"] = lambda x, y: torch.lerp(x, y, 0.25j)
    cases["where"] = lambda x, y: torch.where(x.real > 0, x, y)
    cases["masked_fill"] = lambda x: x.masked_fill(x.real > 0, 2j)
    return cases


@pytest.mark.parametrize("name", gradient_cases())
def test_gradients(name: str) -> None:
    function = gradient_cases()[name]
    generator = torch.Generator().manual_seed(3)
    binary = name in ("mul", "div", "pow", "add", "real", "addcmul", "addcdiv", "lerp", "where")
    inputs = [
        torch.randn(4, generator=generator, dtype=torch.complex128).to(DEVICE).requires_grad_()
        for _ in range(2 if binary else 1)
    ]
    with flag_gems.use_gems():
        assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("name", ["sigmoid_backward", "tanh_backward", "silu_backward"])
def test_backward_operators(name: str) -> None:
    """The second factor is conjugated, as torch's complex formulas have it."""
    z, w = sample(torch.complex64, 40), sample(torch.complex64, 40, seed=1) / 4
    function = getattr(aten, name)
    expected = outcome(lambda: function(z, w))
    got = outcome(lambda: ours(lambda: function(z, w)))
    if isinstance(expected, Tensor):
        torch.testing.assert_close(got, expected)


# ---- programs


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_machine_code(dtype: str, arch: str) -> None:
    """16 bytes an access, nothing spilled; by rows and strided, whole elements."""
    for i in range(2):
        text = _C.program_text(ROWS["mul.Tensor"]["id"], dtype, i, arch, "cuda")
        found = sass.kernels(text, ["elementwise"], arch)["elementwise"]
        assert found.spill_bytes == 0, (i, found.registers)
        assert found.has("LDG.E.128", "STG.E.128"), (i, found.opcodes)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sass.ARCHS)
def test_no_program_spills(arch: str) -> None:
    """Registers; the reduction of far angles has an array of its own."""
    for name in ("div.Tensor", "pow.Tensor_Tensor", "sin", "log", "sqrt", "silu_backward", "addcdiv"):
        for dtype, i in itertools.product(("complex64", "complex128"), range(6)):
            text = _C.program_text(ROWS[name]["id"], dtype, i, arch, "cuda")
            if text:
                report = native.cuda().compile(text, ["elementwise"], arch).report
                assert report.spill_bytes == 0, (name, dtype, i, report.registers)


def test_only_complex_programs_have_the_complex_part() -> None:
    for dtype, there in (("complex64", True), ("float32", False), ("int32", False)):
        text = _C.program_text(ROWS["mul.Tensor"]["id"], dtype, 0, "sm_90a", "cuda")
        assert ('#line 1 "complex.cuh"' in text) == there, dtype


CHECKED = """
import torch, flag_gems
z = torch.randn(7, 33, dtype=torch.complex64)
w = torch.randn(33, 7, dtype=torch.complex128).t()
cases = [lambda: z * z, lambda: z * w, lambda: z.abs(), lambda: z[:, 1:] / z[:, :-1], lambda: z[1:] == 2j]
wanted = [case() for case in cases]
with flag_gems.use_gems():
    got = [case() for case in cases]
assert flag_gems.stats()["mul.Tensor"]["kernel"] >= 1
assert not any(s["fallback"] for n, s in flag_gems.stats().items() if n in ("mul.Tensor", "div.Tensor", "abs"))
for a, b in zip(got, wanted):
    torch.testing.assert_close(a, b)
"""


def test_checked_mode() -> None:
    """No race, no access out of bounds or misaligned."""
    env = dict(os.environ, GEMS_CPU_MODE="checked", GEMS_VENDOR="cpu")
    env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run([sys.executable, "-c", CHECKED], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr, done.stderr


def test_rows_are_there() -> None:
    """The filter of FUNCTIONS leaves out no row that has complex dtypes."""
    assert {*EXPONENTIALS, "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "tanh", "neg", "abs"} <= set(FUNCTIONS)
