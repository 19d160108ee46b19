"""The functions that expressions may call: their form in a kernel, and what their derivatives are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of the language.

    Attributes
    ----------
    arity : int
        Number of arguments; the formulas below call them x, y and z.
    kernel : str
        The call in a kernel, with {0}, {1} ... for the arguments.
    floats : bool
        Integers are turned into floats first.
    boolean : bool
        The result is true or false.
    conditions : tuple of int
        Arguments that are true or false.
    derivatives : tuple of str or None
        One formula an argument; None: there is no derivative.
    means : str or None
        A formula that says the same in other functions; derivatives are taken of it.
    """

    arity: int
    kernel: str
    floats: bool = False
    boolean: bool = False
    conditions: tuple[int, ...] = ()
    derivatives: tuple[str, ...] | None = None
    means: str | None = None


def _of_floats(kernel: str, *derivatives: str, means: str | None = None) -> Function:
    arity = max((i + 1 for i in range(4) if f"{{{i}}}" in kernel), default=0)
    return Function(arity, kernel, floats=True, derivatives=derivatives or None, means=means)


def _of_all(kernel: str, *derivatives: str, means: str | None = None) -> Function:
    arity = max((i + 1 for i in range(4) if f"{{{i}}}" in kernel), default=0)
    return Function(arity, kernel, derivatives=derivatives or None, means=means)


def _asks(kernel: str) -> Function:
    return Function(1, kernel, floats=True, boolean=True)


_SLOPE = "1.59576912160573071176 * (1 + 0.134145 * x * x)"
_PDF = "0.39894228040143267794 * exp(-0.5 * x * x)"

FUNCTIONS: dict[str, Function] = {
    # exponentials and roots
    "exp": _of_floats("exp({0})", "exp(x)"),
    "exp2": _of_floats("exp2({0})", "0.69314718055994530942 * exp2(x)"),
    "expm1": _of_floats("expm1({0})", "exp(x)"),
    "log": _of_floats("log({0})", "1 / x"),
    "log2": _of_floats("log2({0})", "1.44269504088896340736 / x"),
    "log10": _of_floats("log10({0})", "0.43429448190325182765 / x"),
    "log1p": _of_floats("log1p({0})", "1 / (1 + x)"),
    "sqrt": _of_floats("sqrt({0})", "0.5 * rsqrt(x)"),
    "rsqrt": _of_floats("rsqrt({0})", "-0.5 * rsqrt(x) / x"),
    "pow": _of_all(
        "power({0}, {1})",
        "where(y == 0, 0, y * pow(x, y - 1))",
        "where(x == 0 && y >= 0, 0, pow(x, y) * log(x))",
    ),
    "square": _of_all("squared({0})", "2 * x"),
    "reciprocal": _of_floats("compute_t(1) / {0}", means="1 / x"),
    "hypot": _of_floats("hypot({0}, {1})", "x / hypot(x, y)", "y / hypot(x, y)"),
    # circles and hyperbolas
    "sin": _of_floats("sin({0})", "cos(x)"),
    "cos": _of_floats("cos({0})", "-sin(x)"),
    "tan": _of_floats("tan({0})", "1 + square(tan(x))"),
    "asin": _of_floats("asin({0})", "rsqrt(1 - x * x)"),
    "acos": _of_floats("acos({0})", "-rsqrt(1 - x * x)"),
    "atan": _of_floats("atan({0})", "1 / (1 + x * x)"),
    "atan2": _of_floats("atan2({0}, {1})", "y / (x * x + y * y)", "-x / (x * x + y * y)"),
    "sinh": _of_floats("sinh({0})", "cosh(x)"),
    "cosh": _of_floats("cosh({0})", "sinh(x)"),
    "tanh": _of_floats("tanh({0})", "1 - square(tanh(x))"),
    "asinh": _of_floats("asinh({0})", "rsqrt(x * x + 1)"),
    "acosh": _of_floats("acosh({0})", "rsqrt(x * x - 1)"),
    "atanh": _of_floats("atanh({0})", "1 / (1 - x * x)"),
    # error function and activations
    "erf": _of_floats("erf({0})", "1.12837916709551257390 * exp(-x * x)"),
    "erfc": _of_floats("erfc({0})", "-1.12837916709551257390 * exp(-x * x)"),
    "erfinv": _of_floats("erfinv({0})", "0.88622692545275801365 * exp(square(erfinv(x)))"),
    "lgamma": _of_floats("lgamma({0})"),
    "sigmoid": _of_floats("sigmoid({0})", "sigmoid(x) * (1 - sigmoid(x))"),
    "silu": _of_floats("silu({0})", means="x * sigmoid(x)"),
    "softplus": _of_floats("softplus({0})", "sigmoid(x)"),
    "relu": _of_all("relu({0})", "where(x > 0, 1, 0)"),
    "normal_cdf": _of_floats("normal_cdf({0})", _PDF),
    "gelu": _of_floats("gelu_erf({0})", means="x * normal_cdf(x)"),
    "gelu_inner": _of_floats("gelu_inner({0})", _SLOPE),
    "gelu_tanh": _of_floats("gelu_tanh({0})", means="x * sigmoid(gelu_inner(x))"),
    "silu_gradient": _of_floats("silu_gradient({0}, {1})", means="x * sigmoid(y) * (1 + y * (1 - sigmoid(y)))"),
    "gelu_gradient": _of_floats(
        "gelu_erf_gradient({0}, {1})",
        means="x * (normal_cdf(y) + y * 0.39894228040143267794 * exp(-0.5 * y * y))",
    ),
    "gelu_tanh_gradient": _of_floats(
        "gelu_tanh_gradient({0}, {1})",
        means="x * (sigmoid(gelu_inner(y)) + y * sigmoid(gelu_inner(y)) * (1 - sigmoid(gelu_inner(y)))"
        " * 1.59576912160573071176 * (1 + 0.134145 * y * y))",
    ),
    # larger, smaller, chosen: ties share the gradient, as in ATen
    "maximum": _of_all(
        "maximum({0}, {1})", "where(x < y, 0, where(x == y, 0.5, 1))", "where(x > y, 0, where(x == y, 0.5, 1))"
    ),
    "minimum": _of_all(
        "minimum({0}, {1})", "where(x > y, 0, where(x == y, 0.5, 1))", "where(x < y, 0, where(x == y, 0.5, 1))"
    ),
    "fmax": _of_floats("fmax({0}, {1})", "where(x >= y || y != y, 1, 0)", "where(x >= y || y != y, 0, 1)"),
    "fmin": _of_floats("fmin({0}, {1})", "where(x <= y || y != y, 1, 0)", "where(x <= y || y != y, 0, 1)"),
    "clamp": _of_all(
        "clamped({0}, {1}, {2}, true, true)",
        "where(x >= y && x <= z, 1, 0)",
        "where(y < z && x < y, 1, 0)",
        "where(x > z || z < y, 1, 0)",
    ),
    "where": Function(3, "({0} ? {1} : {2})", conditions=(0,)),
    "abs": _of_all("absolute({0})", "sign(x)"),
    "sign": _of_all("sign_of({0})", "0"),
    "copysign": _of_floats("copysign({0}, {1})", "where(x == 0, 0, copysign(x, y) / x)", "0"),
    # rounding and remainders
    "floor": _of_all("rounded_down({0})", "0"),
    "ceil": _of_all("rounded_up({0})", "0"),
    "trunc": _of_all("rounded_to_zero({0})", "0"),
    "round": _of_all("rounded({0})", "0"),
    "fmod": _of_all("mod_trunc<false>({0}, {1})", "1", "-trunc(x / y)"),
    "remainder": _of_all("mod_floor<false>({0}, {1})", "1", "-floor(x / y)"),
    "floor_divide": _of_all("div_floor<false>({0}, {1})", "0", "0"),
    # of three
    "fma": _of_floats("fma({0}, {1}, {2})", "y", "x", "1"),
    "lerp": _of_floats("lerp({0}, {1}, {2})", "1 - z", "z", "y - x"),
    # questions
    "isnan": _asks("isnan({0})"),
    "isinf": _asks("is_infinite({0})"),
    "isfinite": _asks("isfinite({0})"),
}

SAME = {
    "max": "maximum",
    "min": "minimum",
    "fabs": "abs",
    "clip": "clamp",
    "gelu_erf": "gelu",
    "gelu_erf_gradient": "gelu_gradient",
    "absolute": "abs",
    "power": "pow",
    "arctan2": "atan2",
}


def find(name: str) -> Function | None:
    """The function of a name."""
    return FUNCTIONS.get(SAME.get(name, name))
