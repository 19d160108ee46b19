"""How far results are from the true ones: the largest error of each function of one number, ours beside ATen's.

    python benchmarks/accuracy.py [--functions exp,log] [--dtypes float16,float32] [--values N] [--output FILE]

Errors are counted in units of the last place of the result's dtype, against float64. float16 and bfloat16: all values.
float32: N bit patterns (default 10 million), evenly spread over all of them. The exit code is 1 where a function is
above its limit.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flag_gems
import torch
from torch import Tensor
from torch.nn import functional

LIMITS = dict.fromkeys(("exp", "log", "tanh", "erf", "gelu"), 2.0)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SQRT_HALF = math.sqrt(0.5)


def gelu(x: Tensor) -> Tensor:
    """In float64, without the digits that 1 + erf(x) loses below 0."""
    return torch.where(x == -math.inf, torch.nan, x * (0.5 * torch.erfc(-x * SQRT_HALF)))


def gelu_tanh(x: Tensor) -> Tensor:
    return torch.where(x == -math.inf, torch.nan, x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)))


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(functional.softplus(x, threshold=40.0))


# name: what is called, and what is true of a float64 (None: the same call)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]] = {
    **{
        name: (getattr(torch, name), None)
        for name in [
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "sqrt",
            "rsqrt",
            "reciprocal",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "acosh",
            "atanh",
            "erf",
            "erfc",
            "erfinv",
            "sigmoid",
            "lgamma",
            "digamma",
            "sinc",
            "logit",
        ]
    },
    "gelu": (functional.gelu, gelu),
    "gelu tanh": (lambda x: functional.gelu(x, approximate="tanh"), gelu_tanh),
    "silu": (functional.silu, None),
    "softplus": (functional.softplus, None),
    "mish": (functional.mish, mish),
    "elu": (functional.elu, None),
    "entr": (torch.special.entr, None),
}


@dataclass(frozen=True)
class Error:
    """The largest error of a function over some inputs."""

    ulp: float
    at: float  # the input

    def __str__(self) -> str:
        return f"{self.ulp:>10.3g}  {self.at:<12.6g}"


def inputs(dtype: torch.dtype, count: int = 10_000_000) -> Tensor:
    """All values of a 16-bit dtype, or about `count` bit patterns of float32, evenly spread; NaNs are left out."""
    if dtype.itemsize == 2:
        x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    else:
        x = torch.arange(0, 1 << 32, max(1, (1 << 32) // count)).to(torch.int32).view(dtype)
    return x[~x.isnan()]


def errors_in_ulp(result: Tensor, exact: Tensor) -> Tensor:
    """|result - exact| in units of the last place of the result's dtype; infinite where one only is NaN or infinite.

    Parameters
    ----------
    result : of a floating dtype
    exact : the same in float64
    """
    info = torch.finfo(result.dtype)
    digits = round(-math.log2(info.eps))
    exponent = torch.frexp(exact).exponent.clamp(min=round(math.log2(info.tiny)) + 1) - 1 - digits
    error = (result.double() - exact).abs() * torch.exp2(-exponent.double())
    rounded = exact.to(result.dtype)
    same = (result == rounded) | (result.isnan() & rounded.isnan())
    error = torch.where(result.isfinite() & rounded.isfinite(), error, math.inf)
    return torch.where(same, error.nan_to_num(0, 0, 0).clamp(max=0.5), error)


def largest(call: Callable[[Tensor], Tensor], exact: Callable[[Tensor], Tensor], x: Tensor) -> Error:
    worst = Error(0.0, 0.0)
    for part in x.split(1 << 20):
        errors = errors_in_ulp(call(part), exact(part.double()))
        place = int(errors.argmax())
        if errors[place] > worst.ulp:
            worst = Error(float(errors[place]), float(part[place]))
    return worst


def measure(name: str, dtype: torch.dtype, count: int = 10_000_000, device: str = "cpu") -> tuple[Error, Error]:
    """The largest errors of a function, ours and ATen's."""
    call, exact = FUNCTIONS[name]
    x = inputs(dtype, count)

    def ours(part: Tensor) -> Tensor:
        with flag_gems.use_gems():
            return call(part.to(device)).cpu()

    def aten(part: Tensor) -> Tensor:
        return call(part.to(device)).cpu()

    return largest(ours, exact or call, x), largest(aten, exact or call, x)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--functions", default=",".join(FUNCTIONS), metavar="F,G")
    arguments.add_argument("--dtypes", default=",".join(str(d)[6:] for d in DTYPES), metavar="D,E")
    arguments.add_argument("--values", type=int, default=10_000_000, metavar="N", help="values of float32")
    arguments.add_argument("--device", default=flag_gems.device)
    arguments.add_argument("--output", metavar="FILE", help="write the table to a file too")
    args = arguments.parse_args()
    lines = [f"{'function':12} {'dtype':9} {'ours, ulp':>10}  {'at':12} {'ATen, ulp':>10}  {'at':12}"]
    print(lines[0])
    exceeded = []
    for name in args.functions.split(","):
        for dtype in args.dtypes.split(","):
            ours, aten = measure(name, getattr(torch, dtype), args.values, args.device)
            lines.append(f"{name:12} {dtype:9} {ours} {aten}".rstrip())
            print(lines[-1], flush=True)
            if ours.ulp > LIMITS.get(name, math.inf):
                exceeded.append(f"{name} {dtype}: {ours.ulp:.3g} ulp, limit {LIMITS[name]}")
    lines.append("Above its limit: " + "; ".join(exceeded) if exceeded else "No function is above its limit.")
    print(lines[-1])
    if args.output:
        Path(args.output).write_text("\n".join(lines) + "\n")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
