"""Operators made of expressions: values, dtypes and gradients beside torch, errors, threads."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flag_gems
import numpy as np
import pytest
import torch
from flag_gems import ExpressionError, pointwise
from flag_gems.expressions import functions, language
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sass
from expressions import SWIGLU, draw, swiglu
from layouts import LAYOUTS

DEVICE = flag_gems.device
F = torch.nn.functional

# Each function of the language as torch has it, and where its arguments lie.
REFERENCE: dict[str, tuple[Callable[..., Tensor], str]] = {
    "exp": (torch.exp, "real"),
    "exp2": (torch.exp2, "real"),
    "expm1": (torch.expm1, "real"),
    "log": (torch.log, "positive"),
    "log2": (torch.log2, "positive"),
    "log10": (torch.log10, "positive"),
    "log1p": (torch.log1p, "positive"),
    "sqrt": (torch.sqrt, "positive"),
    "rsqrt": (torch.rsqrt, "positive"),
    "pow": (torch.pow, "positive"),
    "square": (torch.square, "real"),
    "reciprocal": (torch.reciprocal, "positive"),
    "hypot": (torch.hypot, "positive"),
    "sin": (torch.sin, "real"),
    "cos": (torch.cos, "real"),
    "tan": (torch.tan, "unit"),
    "asin": (torch.asin, "unit"),
    "acos": (torch.acos, "unit"),
    "atan": (torch.atan, "real"),
    "atan2": (torch.atan2, "positive"),
    "sinh": (torch.sinh, "real"),
    "cosh": (torch.cosh, "real"),
    "tanh": (torch.tanh, "real"),
    "asinh": (torch.asinh, "real"),
    "acosh": (lambda x: torch.acosh(x), "large"),
    "atanh": (torch.atanh, "unit"),
    "erf": (torch.erf, "real"),
    "erfc": (torch.erfc, "real"),
    "erfinv": (torch.erfinv, "unit"),
    "lgamma": (torch.lgamma, "positive"),
    "sigmoid": (torch.sigmoid, "real"),
    "silu": (F.silu, "real"),
    "softplus": (F.softplus, "real"),
    "relu": (F.relu, "real"),
    "normal_cdf": (torch.special.ndtr, "real"),
    "gelu": (F.gelu, "real"),
    "gelu_inner": (lambda x: 1.59576912160573071176 * (x + 0.044715 * x**3), "real"),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), "real"),
    "silu_gradient": (lambda g, x: g * torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))), "real"),
    "gelu_gradient": (torch.ops.aten.gelu_backward, "real"),
    "gelu_tanh_gradient": (lambda g, x: torch.ops.aten.gelu_backward(g, x, approximate="tanh"), "real"),
    "maximum": (torch.maximum, "real"),
    "minimum": (torch.minimum, "real"),
    "fmax": (torch.fmax, "real"),
    "fmin": (torch.fmin, "real"),
    "clamp": (torch.clamp, "real"),
    "where": (torch.where, "real"),
    "abs": (torch.abs, "real"),
    "sign": (torch.sign, "real"),
    "copysign": (torch.copysign, "real"),
    "floor": (torch.floor, "real"),
    "ceil": (torch.ceil, "real"),
    "trunc": (torch.trunc, "real"),
    "round": (torch.round, "real"),
    "fmod": (torch.fmod, "positive"),
    "remainder": (torch.remainder, "positive"),
    "floor_divide": (lambda x, y: torch.floor_divide(x.detach(), y.detach()), "positive"),
    "fma": (lambda x, y, z: x * y + z, "real"),
    "lerp": (torch.lerp, "real"),
    "isnan": (torch.isnan, "real"),
    "isinf": (torch.isinf, "real"),
    "isfinite": (torch.isfinite, "real"),
}


def test_every_function_has_a_reference() -> None:
    assert set(REFERENCE) == set(functions.FUNCTIONS)
    for same, name in functions.SAME.items():
        assert name in functions.FUNCTIONS and same not in functions.FUNCTIONS


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_functions(name: str) -> None:
    """Values, and derivatives of the first order, of each function beside torch's."""
    function, (reference, domain) = functions.FUNCTIONS[name], REFERENCE[name]
    letters = "abc"[: function.arity]
    differentiable = not function.boolean and (name == "where" or bool(function.derivatives or function.means))
    operator = pointwise(f"{name}({', '.join(letters)})", grad="auto" if differentiable else None)
    args = [draw(domain, 41, seed=i + 1) for i in range(function.arity)]
    if name == "where":
        args[0] = (args[0] > 0).to(torch.float64)
    if differentiable:
        args = [x.requires_grad_() for x in args]
    result = operator(*args)
    expected = reference(*([args[0] > 0, *args[1:]] if name == "where" else args))
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    if differentiable:
        weight = draw("real", 41, seed=9)
        grads = torch.autograd.grad(result, args, weight, allow_unused=True)
        wanted = (
            torch.autograd.grad(expected, args, weight, allow_unused=True) if expected.requires_grad else [None] * 3
        )
        for grad, want in zip(grads, wanted, strict=False):
            want = torch.zeros_like(args[0]) if want is None else want
            torch.testing.assert_close(torch.zeros_like(want) if grad is None else grad, want, rtol=1e-10, atol=1e-12)


def test_one_line_one_kernel() -> None:
    operator = swiglu()
    x, y = draw("real", 33, 7, dtype=torch.float32), draw("real", 7, dtype=torch.float32)
    flag_gems.reset_stats()
    result = operator(x, y)
    assert flag_gems.stats() == {"flag_gems::swiglu": {"kernel": 1, "fallback": 0}}
    torch.testing.assert_close(result, F.silu(x) * y)
    assert operator is swiglu(), "the same definition is the same operator"
    assert operator.schema == "flag_gems::swiglu(Tensor a, Tensor b) -> Tensor"
    assert str(flag_gems.explain(operator, x, y)).count("flag_gems::swiglu") == 1


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5, 17, 33]), max_size=4)
DTYPES = st.sampled_from(
    [
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int8,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.bool,
    ]
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), shape=SHAPES, first=DTYPES, second=DTYPES)
def test_broadcast_and_promotion(data: Any, shape: list[int], first: torch.dtype, second: torch.dtype) -> None:
    """Shapes, strides and dtypes are those of torch's own mul and add; values follow float64."""
    keep = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    lead = data.draw(st.integers(0, len(shape)))
    other = [n if k else 1 for n, k in zip(shape, keep, strict=True)][lead:]
    x = (draw("real", *shape) * 3).to(first)
    y = (draw("real", *other, seed=1) * 3).to(second)
    if data.draw(st.booleans()) and x.dim() > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    result, expected = pointwise("a * b + a")(x, y), x * y + x
    assert result.dtype == expected.dtype and result.shape == expected.shape
    assert result.numel() == 0 or result.stride() == (x * y).stride()
    if result.dtype.is_floating_point:
        rounding = torch.finfo(result.dtype).eps
        torch.testing.assert_close(
            result.double(), (x.double() * y.double() + x.double()), rtol=2 * rounding, atol=20 * rounding
        )
    elif result.dtype != torch.bool:
        assert torch.equal(result, expected)
    together = torch.result_type(x, y)
    assert pointwise(SWIGLU)(x, y).dtype == (together if together.is_floating_point else torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = LAYOUTS[layout](draw("real", 6, 5, 4, 3, dtype=torch.float32))
    assert x is not None
    y = draw("real", *x.shape, dtype=torch.float32, seed=2)
    expected = x * torch.sigmoid(x) * y
    torch.testing.assert_close(swiglu()(x, y), expected)
    out = torch.empty(expected.shape[::-1], device=DEVICE).permute(3, 2, 1, 0)
    assert swiglu()(x, y, out0=out) is out
    torch.testing.assert_close(out, expected)


def test_numbers_stand_for_tensors() -> None:
    x = draw("real", 5, dtype=torch.float32)
    operator = pointwise("a * b", grad="auto")
    assert operator(x, 2.5).dtype == torch.float32
    assert operator(torch.arange(3, device=DEVICE), 2.5).tolist() == [0, 2.5, 5.0]
    grad = torch.autograd.grad(operator(x.requires_grad_(), 2.5).sum(), x)[0]
    torch.testing.assert_close(grad, torch.full((5,), 2.5, device=DEVICE))


def test_scalars() -> None:
    leaky = pointwise("a > 0 ? a : slope * a", grad="auto", slope=0.01)
    x = draw("real", 17).requires_grad_()
    torch.testing.assert_close(leaky(x), F.leaky_relu(x))
    torch.testing.assert_close(leaky(x, slope=0.5), F.leaky_relu(x, 0.5))
    assert torch.autograd.gradcheck(lambda v: leaky(v, slope=0.3), (x,))
    shifted = pointwise("flag ? a << k : a + k", k=int, flag=False)
    ints = torch.arange(5, dtype=torch.int32)
    assert torch.equal(shifted(ints, k=3), ints + 3) and torch.equal(shifted(ints, k=3, flag=True), ints << 3)
    with pytest.raises(RuntimeError, match="missing value for argument 'k'"):
        shifted(ints)


def test_several_outputs() -> None:
    both = pointwise("a * cos(b), a * sin(b)", grad="auto")
    r, t = draw("positive", 5, 3).requires_grad_(), draw("real", 3, seed=1).requires_grad_()
    x, y = both(r, t)
    torch.testing.assert_close((x, y), (r * t.cos(), r * t.sin()))
    assert torch.autograd.gradcheck(both, (r, t)) and torch.autograd.gradgradcheck(both, (r, t))
    first, second = torch.empty_like(x), torch.empty_like(y)
    with torch.no_grad():
        assert both(r, t, out0=first, out1=second)[1] is second
    assert torch.equal(second, y)


@pytest.mark.parametrize(
    "text",
    [
        "a * sigmoid(a) * b",
        pytest.param("a > 0 ? a : exp(a) - 1", marks=pytest.mark.slow),
        "gelu(a) * b + c",
        pytest.param("maximum(a, b) * minimum(a, c)", marks=pytest.mark.slow),
        pytest.param("sqrt(a * a + b * b) / (1 + exp(-c))", marks=pytest.mark.slow),
        "a ** 3 - a ** b",
        "where(a > b && c > 0, log(a), b / c)",
        pytest.param("clamp(a, -b, b) * tanh(c)", marks=pytest.mark.slow),
        pytest.param("-a / (b + 2.5) ** 2", marks=pytest.mark.slow),
    ],
)
def test_gradients(text: str) -> None:
    operator = pointwise(text, grad="auto")
    shapes = [(2, 3), (3,), (2, 1)]
    args = [draw("positive", *shapes[i], seed=i).requires_grad_() for i in range(len(operator.definition.names.inputs))]
    assert torch.autograd.gradcheck(operator, args)
    assert torch.autograd.gradgradcheck(operator, args)


@pytest.mark.parametrize("name", ["maximum", "minimum", "relu", "abs", "clamp", "pow"])
def test_gradients_at_the_corners(name: str) -> None:
    """Ties, zeros and limits as ATen has them."""
    function, (reference, _) = functions.FUNCTIONS[name], REFERENCE[name]
    letters = "abc"[: function.arity]
    values = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    if name == "pow":
        values = values[3:]
    grid = [g.flatten().clone().requires_grad_() for g in torch.meshgrid(*[values] * function.arity, indexing="ij")]
    ours = torch.autograd.grad(pointwise(f"{name}({', '.join(letters)})", grad="auto")(*grid).sum(), grid)
    theirs = torch.autograd.grad(reference(*grid).sum(), grid)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_only_wanted_gradients_are_made() -> None:
    operator = pointwise("a * exp(b)", grad="auto", name="wanted")
    x, y = draw("real", 4).requires_grad_(), draw("real", 4, seed=1)
    flag_gems.reset_stats()
    operator(x, y).sum().backward()
    assert {n: c["kernel"] for n, c in flag_gems.stats().items()} == {
        "flag_gems::wanted": 1,
        "flag_gems::wanted_backward_a": 1,
    }


def test_given_gradients() -> None:
    straight = pointwise("round(a) * b", grad={"a": "grad * b", "b": "grad * round(a)"})
    x, y = draw("real", 9).requires_grad_(), draw("real", 9, seed=1).requires_grad_()
    dx, dy = torch.autograd.grad(straight(x, y).sum(), (x, y))
    torch.testing.assert_close((dx, dy), (y.detach(), x.detach().round()))
    with pytest.raises(ExpressionError, match=r"the name 'grads' is not known; did you mean 'grad'"):
        pointwise("a * b", grad={"a": "grads * b"})
    with pytest.raises(ExpressionError, match="'z' is no input"):
        pointwise("a * b", grad={"z": "grad"})


def test_mixed_dtypes_have_gradients_of_their_own_dtype() -> None:
    x = draw("real", 4, 5, dtype=torch.bfloat16).requires_grad_()
    y = draw("real", 5, dtype=torch.float32, seed=1).requires_grad_()
    dx, dy = torch.autograd.grad(swiglu()(x, y).sum(), (x, y))
    assert dx.dtype == torch.bfloat16 and dy.dtype == torch.float32 and dy.shape == (5,)
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad((F.silu(wide) * y.detach().double()).sum(), wide)
    torch.testing.assert_close(dx.double(), expected, rtol=0.01, atol=0.01)


def test_without_a_gradient() -> None:
    operator = pointwise("a + 2 * b")
    x = draw("real", 3)
    with pytest.raises(RuntimeError, match='has no gradient: make it with grad="auto"'):
        operator(x.clone().requires_grad_(), x)
    with torch.no_grad():
        operator(x.clone().requires_grad_(), x)
    masked = pointwise("a ? b : 0", masks=["a"], grad="auto")
    y = draw("real", 3).requires_grad_()
    (grad,) = torch.autograd.grad(masked(x > 0, y).sum(), y)
    assert torch.equal(grad, (x > 0).double())
    with pytest.raises(flag_gems.DeclinedError, match="the mask is not bool"):
        masked(x, y.detach())


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("a * foo(b)", "the function 'foo' is not known; did you mean 'floor'?", 4),
        ("a * (b", "this parenthesis is not closed", 4),
        ("a * b)", "this parenthesis closes none", 5),
        ("a + * b", "a value is missing before '*'", 4),
        ("a +", "the expression ends too early", 3),
        ("a ? b", "a ':' is missing here", 5),
        ("a $ b", "'$' has no meaning", 2),
        ("exp(a, b)", "exp takes 1 argument, 2 given", 0),
        ("a b", "an operator is missing before this", 2),
        ("a < b < c", "comparisons do not chain", 6),
        ("a * 2x", "a number runs into a name", 5),
        ("exp + a", "the name 'exp' is a function without its arguments", 0),
        ("alpha * a", "the name 'alpha' is not known", 0),
        ("a, b, c, d", "at most 3 outputs, not 4", 9),
        ("a + b + c + d + e + f", "at most 5 tensors, not 6", 0),
        ("", "an expression is empty", 0),
    ],
)
def test_errors_point_at_the_place(text: str, message: str, caret: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        pointwise(text)
    first, line, mark = str(caught.value).split("\n")
    assert message in first and line == "    " + text and mark == "    " + " " * caret + "^"


def test_errors_of_definitions() -> None:
    with pytest.raises(ExpressionError, match="& has no derivative"):
        pointwise("a & 3", grad="auto")
    with pytest.raises(flag_gems.DeclinedError, match="dtype not taken"):
        pointwise("a & 3")(torch.ones(2))
    with pytest.raises(ExpressionError, match="gives true or false"):
        pointwise("a > b", grad="auto")
    with pytest.raises(ExpressionError, match="a number cannot be called 'exp'"):
        pointwise("a * exp", exp=1.0)
    with pytest.raises(TypeError, match="an expression is a string"):
        pointwise(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no promotion 'SOME'"):
        pointwise("a", promotion="SOME")
    with pytest.raises(ValueError, match="choose another name"):
        pointwise("a * 7", name="silu_and_mul")


def test_errors_of_calls() -> None:
    operator = swiglu()
    with pytest.raises(flag_gems.DeclinedError, match=r"flag_gems::swiglu: .*the shapes do not broadcast"):
        operator(torch.ones(3), torch.ones(4))
    with pytest.raises(flag_gems.DeclinedError, match="dtype"):
        operator(torch.ones(3, dtype=torch.complex64), torch.ones(3))
    with pytest.raises((TypeError, RuntimeError), match="swiglu"):
        operator(torch.ones(3))


def test_compile_errors_name_the_operator(capfd: pytest.CaptureFixture[str]) -> None:
    broken = pointwise(
        "twist(a)", preamble="template <class T> T twist(T x) { return x + nothing_of_this_name; }", name="broken"
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"flag_gems::broken.*(?s:.)*nothing_of_this_name"):
            broken(torch.ones(3))
    with pytest.raises(ExpressionError, match="which the preamble defines, is not known"):
        pointwise("twist(a)", preamble="GEMS_DI float twist(float x) { return x; }", grad="auto", name="broken_too")(
            torch.ones(3, requires_grad=True)
        ).sum().backward()


def test_preamble() -> None:
    cube = pointwise("cube(a) + 1", preamble="template <class T> GEMS_DI T cube(T x) { return x * x * x; }")
    x = draw("real", 9, dtype=torch.float32)
    torch.testing.assert_close(cube(x), x**3 + 1)


def test_a_preamble_defines_what_it_does_not_only_call() -> None:
    operator = pointwise("exp(a) * half(a)", preamble="template <class T> T half(T x) { return exp(x) / T(2); }")
    x = draw("real", 9)
    torch.testing.assert_close(operator(x), x.exp().square() / 2)
    with pytest.raises(ExpressionError, match="exp takes 1 argument, 2 given"):
        pointwise("exp(a, b)", preamble="template <class T> T half(T x) { return exp(x) / T(2); }")


@pytest.mark.parametrize(
    ("file", "text", "reference"),
    [
        ("numbers.cuh", "rounded_to(a, 1) + sign_bit(a)", lambda x: torch.round(x, decimals=1) + torch.signbit(x)),
        ("activations.cuh", "mish(a) + relu6(a)", lambda x: F.mish(x) + F.relu6(x)),
        ("special.cuh", "digamma(a * a + 1) + x_log(a, a * a)", lambda x: torch.digamma(x * x + 1) + x * (x * x).log()),
    ],
)
def test_files_of_functions(file: str, text: str, reference: Any) -> None:
    """A user's operator reaches the functions of the table's helper files, on a CPU and a GPU."""
    operator, x = pointwise(text, preamble=file), draw("real", 33)
    torch.testing.assert_close(operator(x), reference(x))
    (report, *_) = operator.warmup(["sm_90a"], ["bfloat16"])
    assert report["error"] is None, report
    with pytest.raises(ValueError, match=r"has no file nothing\.cuh"):
        pointwise(text, preamble="nothing.cuh")


def named_in_page() -> list[str]:
    page = (Path(__file__).resolve().parent.parent / "docs" / "pointwise.md").read_text()
    listed = page.partition("Functions: ")[2].partition("`preamble=`")[0]
    return [name for part in re.findall(r"`([^`]*)`", listed) for name in part.split()]


@pytest.mark.slow
def test_every_function_of_the_page_compiles_for_a_gpu() -> None:
    """test_functions runs them on the device that is here."""
    parts = []
    for name in named_in_page():
        function = functions.find(name)
        assert function is not None, name
        parts.append(f"{name}({', '.join(['a', 'b', 'c'][: function.arity])})")
    assert len(parts) > 50
    reports = pointwise(" + ".join(parts)).warmup(["sm_90a"], ["bfloat16"])
    for report in reports:
        assert report["error"] is None, report


def test_names() -> None:
    first = pointwise("a + 11", name="renamed")
    second = pointwise("a + 12", name="renamed")
    assert first.name == "renamed" and second.name == "renamed_2"
    assert pointwise("a + 11", name="renamed") is first
    named = pointwise("gate * up", inputs=["gate", "up"])
    assert named(up=torch.full((2,), 3.0), gate=torch.ones(2)).tolist() == [3, 3]


def test_arrays_of_numpy() -> None:
    x, y = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float64)
    result = swiglu()(x, y)
    assert isinstance(result, np.ndarray) and result.dtype == np.float64
    np.testing.assert_allclose(result, x / (1 + np.exp(-x)) * y, rtol=1e-6)
    out = np.empty((3, 4))
    assert swiglu()(x, y, out0=out) is out and np.array_equal(out, result)
    with pytest.raises(flag_gems.DeclinedError):
        swiglu()(x, np.ones(3))


def test_threads_make_and_call_one_operator_at_once() -> None:
    x = draw("real", 1000, dtype=torch.float32)
    barrier, results, made = threading.Barrier(6), [], []

    def work() -> None:
        barrier.wait()
        operator = pointwise("a * a + 0.123 * a", grad="auto", name="at_once")
        made.append(operator)
        results.append(torch.autograd.grad(operator(v := x.clone().requires_grad_()).sum(), v)[0])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and len(set(map(id, made))) == 1
    for result in results:
        torch.testing.assert_close(result, 2 * x + 0.123)


def test_a_warm_call_compiles_nothing() -> None:
    operator, x = swiglu(), draw("real", 64, dtype=torch.float32)
    operator(x, x)
    before = flag_gems._C.jit_stats()
    operator(x, x)
    assert flag_gems._C.jit_stats() == before


def test_sympy_is_imported_when_a_gradient_is_derived() -> None:
    code = (
        "import sys, torch, flag_gems\n"
        "assert 'flag_gems.expressions' not in sys.modules\n"
        "f = flag_gems.pointwise('a * b', grad='auto')\n"
        "assert 'sympy' not in sys.modules and 'torch._dynamo' not in sys.modules\n"
        "f(torch.ones(2, requires_grad=True), torch.ones(2)).sum().backward()\n"
        "assert 'sympy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    operator = pointwise("a * 31 * a", grad="auto")
    with pytest.raises(ImportError, match=r'grad="auto" needs SymPy'):
        operator(torch.ones(2, requires_grad=True)).sum().backward()


def test_checked_mode() -> None:
    """The operators in the checked mode: no race, no bad access, in the forward and the backward pass."""
    code = (
        "import torch, flag_gems\n"
        "f = flag_gems.pointwise('a * sigmoid(a) * b, maximum(a, b)', grad='auto')\n"
        "for shape in ((5, 33), (33, 5)):\n"
        "    x, y = torch.randn(5, 33), torch.randn(33)\n"
        "    x = x.t().contiguous().t() if shape[0] == 33 else x\n"
        "    x.requires_grad_(); y.requires_grad_()\n"
        "    u, v = f(x, y)\n"
        "    (u * v).sum().backward()\n"
        "    torch.testing.assert_close(u, torch.nn.functional.silu(x) * y)\n"
        "flag_gems.fused.gelu_and_mul(x.detach(), y.detach(), 'tanh')\n"
    )
    env = {**os.environ, "GEMS_CPU_MODE": "checked"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=env)


@pytest.mark.parametrize("arch", sass.SM_90A_QUICK)
def test_nvrtc_without_spills(arch: str) -> None:
    operator = pointwise("a * gelu(a) * b + log1p(exp(-c)), maximum(a, b) ** 2", grad="auto", name="for_gpus")
    (step,) = operator.steps(("a", "b", "c"), {})
    for made in (operator, step.function):
        reports = made.warmup([arch], ["float32", "bfloat16"] if arch == "sm_90a" else ["bfloat16"])
        assert reports
        for report in reports:
            assert report["error"] is None and report["spill_bytes"] == 0, report


def test_the_page_runs() -> None:
    """docs/pointwise.md is true."""
    page = Path(__file__).resolve().parent.parent / "docs" / "pointwise.md"
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 20 and not result.failed


def test_language_round_trip() -> None:
    """Precedence is C's: trees of texts with and without the parentheses are the same."""

    def shape(node: language.Node) -> Any:
        return (node.kind, node.text, *map(shape, node.args))

    for short, full in [
        ("a + b * c", "a + (b * c)"),
        ("a < b == c", "(a < b) == c"),
        ("-a ** 2", "-(a ** 2)"),
        ("a ? b : c ? d : e", "a ? b : (c ? d : e)"),
        ("not a or b and c", "(!a) || (b && c)"),
        ("a - b - c", "(a - b) - c"),
        ("a ** b ** c", "a ** (b ** c)"),
    ]:
        assert [*map(shape, language.parse(short))] == [*map(shape, language.parse(full))], short
