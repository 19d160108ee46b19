"""Random calls of elementwise rows: dtypes, layouts, broadcasts, numbers, in place and out=, beside ATen.

Run as a program it checks a number of them, in the cpu mode that the environment names: `random_elementwise.py COUNT`.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import Any

import flag_gems
import torch
from flag_gems import _C
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import FLOATS, assert_same, outcome, to_float64
from layouts import LAYOUTS

DTYPES = (*FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
QUICK_DTYPES = (torch.float32, torch.bfloat16, torch.int32)
# Overloads that say much about the family in few programs.
QUICK = ("add.Tensor", "sub.Scalar", "where.self", "clamp.Tensor", "eq.Tensor", "pow.Tensor_Scalar", "atan2", "sigmoid")
NUMBERS = (1, 2, -1, 3, 0.5, -1.5, 0.25, 2.0)
LAYOUT_NAMES = (*LAYOUTS, "0-dim")
# Rows whose tensors ATen wants in one shape, or whose arguments mean more than numbers.
SAME_SHAPE = (
    *("mse_loss", "smooth_l1", "huber", "soft_margin", "binary_cross", "rrelu"),
    *("_prelu", "log_sigmoid", "glu", "addr"),
)


@dataclass
class Call:
    """One call to be made twice, each time with fresh tensors."""

    name: str
    variant: str
    dtypes: list[torch.dtype]
    shapes: list[tuple[int, ...]]
    layouts: list[str]
    numbers: list[Any]
    fill: int
    out: str = "same"
    notes: list[str] = field(default_factory=list)

    def tensor(self, k: int) -> Tensor:
        dtype, shape = self.dtypes[k], self.shapes[k]
        numbers = random.Random(self.fill * 31 + k)
        count = 1
        for size in shape:
            count *= size
        if dtype == torch.bool:
            t = torch.tensor([numbers.random() < 0.5 for _ in range(count)], dtype=dtype)
        elif dtype.is_floating_point:
            pick = lambda: numbers.choice((0.0, numbers.gauss(0, 2), numbers.randint(-8, 8) / 4))  # noqa: E731
            t = torch.tensor([pick() for _ in range(count)])
        else:
            t = torch.tensor([numbers.randint(0 if dtype == torch.uint8 else -9, 9) for _ in range(count)])
        t = t.to(dtype).view(shape).to(flag_gems.device)
        laid = LAYOUTS[self.layouts[k]](t) if self.layouts[k] in LAYOUTS else None
        return t if laid is None else laid

    def run(self, wide: bool = False) -> Any:
        function = overload(self.name)
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        tensors, numbers = 0, iter(self.numbers)
        for argument in function._schema.arguments:
            kind = str(argument.real_type)
            if argument.is_out:
                continue
            if "Tensor" in kind:
                value: Any = self.tensor(tensors)
                tensors += 1
                if argument.name in ("mask", "condition"):
                    value = value != 0
                elif argument.name == "value":
                    value = value.reshape(-1)[0] if value.numel() else torch.zeros((), dtype=value.dtype)
            elif kind in ("number", "Optional[number]", "float", "Optional[float]"):
                value = next(numbers)
                value = float(value) if "float" in kind else value
            elif kind == "bool":
                value = bool(self.fill % 2)
            elif kind == "int":
                value = self.fill % 3
            else:
                value = argument.default_value if argument.has_default_value() else None
            if argument.kwarg_only:
                keywords[argument.name] = value
            else:
                args.append(value)
        if wide:
            args, keywords = to_float64(args), to_float64(keywords)
        if self.variant != "out":
            return function(*args, **keywords)
        like = overload(functional_of(self.name))(*args, **keywords)
        outs = [a.name for a in function._schema.arguments if a.is_out]
        for name, result in zip(outs, like if isinstance(like, tuple) else (like,), strict=True):
            keywords[name] = self.out_tensor(result)
        return function(*args, **keywords)

    def out_tensor(self, result: Tensor) -> Tensor:
        dtype = torch.float64 if self.out == "wide" and result.dtype in FLOATS else result.dtype
        if self.out == "empty":
            return torch.empty(0, dtype=dtype, device=result.device)
        if self.out == "strided":
            return torch.empty((*result.shape, 2), dtype=dtype, device=result.device)[..., 1]
        return torch.empty_like(result, dtype=dtype)


def overload(name: str) -> Any:
    base, _, rest = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), rest or "default")


FUNCTIONAL = {
    entry["name"]: row["entries"][0]["name"]
    for row in _C.rows()
    if row["family"] == "elementwise"
    for entry in row["entries"]
}


def functional_of(name: str) -> str:
    return FUNCTIONAL[name]


def entries(names: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    """(overload, variant) of the elementwise rows; of some rows when their first overloads are named."""
    return [
        (entry["name"], entry["variant"])
        for row in _C.rows()
        if row["family"] == "elementwise" and (names is None or row["entries"][0]["name"] in names)
        for entry in row["entries"]
    ]


@st.composite
def calls(draw: st.DrawFn, work: list[tuple[str, str]], dtypes: tuple[torch.dtype, ...], most: int = 9) -> Call:
    """A call of one of the overloads; at most `most` elements along a dimension."""
    name, variant = draw(st.sampled_from(work))
    arguments = [a for a in overload(name)._schema.arguments if not a.is_out]
    tensors = sum("Tensor" in str(a.real_type) for a in arguments)
    shape = tuple(draw(st.lists(st.sampled_from((1, 2, 3, 5, most)), min_size=1, max_size=4)))
    fixed = name.lstrip("_").startswith(SAME_SHAPE) or name.startswith(SAME_SHAPE)
    first = draw(st.sampled_from(dtypes))
    call = Call(name, variant, [], [], [], [], draw(st.integers(0, 5)))
    for k in range(tensors):
        call.dtypes.append(first if k == 0 or draw(st.booleans()) else draw(st.sampled_from(dtypes)))
        layout = draw(st.sampled_from(LAYOUT_NAMES))
        mine = shape
        if not fixed and not (variant == "inplace" and k == 0):
            if layout == "0-dim":
                mine = ()
            elif draw(st.integers(0, 3)) == 0:
                cut = draw(st.integers(0, len(shape) - 1))
                mine = tuple(1 if draw(st.booleans()) else size for size in shape)[cut:]
        call.shapes.append(mine)
        call.layouts.append("transposed" if variant == "inplace" and k == 0 and layout == "expanded" else layout)
    call.numbers = [draw(st.sampled_from(NUMBERS)) for _ in range(8)]
    call.out = draw(st.sampled_from(("same", "empty", "strided", "wide")))
    return call


def check(call: Call) -> None:
    """The call gives with our kernels what it gives with ATen's, or is nearer to float64."""
    expected = outcome(call.run)
    with flag_gems.use_gems():
        got = outcome(call.run)
    assert_same(got, expected, lambda: call.run(wide=True), str(call))


def main() -> int:
    torch.set_num_threads(1)
    count = int(sys.argv[1])
    flag_gems.reset_stats()

    @seed(7)
    @settings(max_examples=count, deadline=None, database=None)
    @given(calls(entries(), (torch.float32, torch.int32), 5))
    def some(call: Call) -> None:
        check(call)

    some()
    ran = sum(count["kernel"] for count in flag_gems.stats().values())
    print(f"{ran} calls in our kernels")
    return 0 if ran > count // 2 else 1


if __name__ == "__main__":
    sys.exit(main())
