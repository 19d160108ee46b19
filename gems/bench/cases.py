"""Arguments for the benchmark of any row, from its schema: by argument name where a family needs it, else by type."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from flag_gems.bench import images, moves, norms, places
from flag_gems.rows import Row, name_of
from torch import Tensor

INTS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True)
class Case:
    """One call of a row: `torch.ops.aten.X(*args, **kwargs)`."""

    op: str
    shape: str  # what a reader needs to know of the sizes
    args: list[Any]
    kwargs: dict[str, Any]
    flops: float = 0.0  # of one call; 0: bound by memory
    untouched: int = 0  # bytes of its tensors that a call has no need to read


def schema_of(row: Row) -> Any:
    return overload_of(name_of(row))._schema


def overload_of(qualified: str) -> Any:
    """The OpOverload of an aten name, "add.Tensor" or "mm"."""
    name, _, overload = qualified.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload or "default")


def values(size: tuple[int, ...], dtype: torch.dtype, device: str, domain: str) -> Tensor:
    """Random values in an operator's domain."""
    if dtype == torch.bool:
        return torch.randint(0, 2, size, device=device).bool()
    if dtype in INTS:
        return torch.randint(1, 8, size, device=device).to(dtype)
    x = torch.randn(size, device=device)
    if domain == "unit":
        x = x.clamp(-0.95, 0.95)
    elif domain in ("positive", "nonzero"):
        x = x.abs() + 0.1
    elif domain == "above_one":
        x = x.abs() + 1.0
    return x.to(dtype)


class Maker:
    """Makes the arguments of one row for one size and dtype.

    Parameters
    ----------
    row : of the operator table
    dtype : of the main tensors
    n : about how many elements the largest tensor has
    columns : the last dimension, for rows that work along it
    device : "cpu" or "cuda"
    """

    def __init__(self, row: Row, dtype: torch.dtype, n: int, columns: int, device: str) -> None:
        self.row, self.dtype, self.device = row, dtype, device
        self.n = n
        self.columns = min(columns, n)
        self.rows = max(1, n // self.columns)
        self.side = 1 << max(4, round(math.log2(n) / 2))
        self.flops = 0.0
        self.untouched = 0

    def tensor(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        return values(size, dtype or self.dtype, self.device, self.row["domain"] or "real")

    def index(self, *size: int, below: int) -> Tensor:
        return torch.randint(0, below, size, device=self.device)

    # ---- tensors, by family and argument name ----

    def elementwise(self, name: str) -> tuple[str, Tensor]:
        if name in ("condition", "mask"):
            return f"{self.n}", self.tensor(self.n, dtype=torch.bool)
        if name == "value":  # fill, masked_fill: a tensor of one element
            return f"{self.n}", self.tensor(1).reshape(())
        if name == "grad_output" and name_of(self.row).startswith("glu"):
            return f"{self.n}", self.tensor(self.n // 2)
        return f"{self.n}", self.tensor(self.n)

    def random(self, name: str) -> tuple[str, Tensor]:
        if name == "p" or name_of(self.row) == "bernoulli":  # probabilities
            return f"{self.n}", torch.rand(self.n, device=self.device).to(self.dtype)
        return self.elementwise(name)

    def end(self, name: str) -> tuple[str, Tensor]:
        """An end of a sequence, where it is a tensor: one of the CPU, which no kernel has to wait for."""
        return f"{self.n}", values((1,), self.dtype, "cpu", "positive").reshape(())

    def rowwise(self, name: str) -> tuple[str, Tensor]:
        r, c = self.rows, self.columns
        statistics_dtype = torch.float32 if self.dtype in (torch.float16, torch.bfloat16) else self.dtype
        sized = {
            "weight": lambda: self.tensor(c),
            "bias": lambda: self.tensor(c),
            "mean": lambda: self.tensor(r, 1, dtype=statistics_dtype),
            "rstd": lambda: self.tensor(r, 1, dtype=statistics_dtype).abs() + 0.5,
        }
        if name_of(self.row) in ("dot", "vdot"):
            return f"{self.n}", self.tensor(self.n)
        return f"{r}x{c}", sized.get(name, lambda: self.tensor(r, c))()

    def matmul(self, name: str) -> tuple[str, Tensor]:
        s = self.side
        if "bmm" in name_of(self.row):
            batch, s = 16, max(16, s // 4)
            self.flops = 2.0 * batch * s**3
            return f"{batch}x{s}x{s}x{s}", self.tensor(batch, s, s)
        if name_of(self.row).endswith("mv"):  # bound by reading the matrix
            matrix = name == ("mat" if self.row["schema"].startswith("add") else "self")
            return f"{s}x{s}", self.tensor(s, s) if matrix else self.tensor(s)
        self.flops = 2.0 * s**3
        if name in ("scale_a", "scale_b"):
            return f"{s}x{s}x{s}", torch.ones((), device=self.device)
        if name == "mat2" and name_of(self.row).startswith("_scaled_mm"):
            return f"{s}x{s}x{s}", self.tensor(s, s).t()
        bias = name == "self" and self.row["schema"].startswith("addmm")
        return f"{s}x{s}x{s}", self.tensor(s) if bias else self.tensor(s, s)

    def gather(self, name: str) -> tuple[str, Tensor]:
        r, c = self.rows, self.columns
        op = name_of(self.row)
        vocabulary = max(2, min(50_000, r))
        if op.startswith("nll_loss"):
            batch, pixels = (4, (max(1, r // 4), 1)) if "2d" in op else (r, ())
            made = {
                "target": lambda: self.index(batch, *pixels, below=c),
                "weight": lambda: self.tensor(c).abs(),
                "grad_output": lambda: self.tensor(1).reshape(()),
                "total_weight": lambda: self.tensor(1).reshape(()).abs() + 1,
            }
            shape = (batch, c, *pixels)
            if "forward" in op:  # one element of each row is read; a backward reads none of self
                self.untouched = (math.prod(shape) - r) * self.dtype.itemsize
            else:
                self.untouched = math.prod(shape) * self.dtype.itemsize
            return "x".join(map(str, shape)), made.get(name, lambda: self.tensor(*shape))()
        if op.startswith("embedding"):
            made = {
                "weight": lambda: self.tensor(vocabulary, c),
                "indices": lambda: self.index(r, below=vocabulary),
                "grad_output": lambda: self.tensor(r, c),
            }
            return f"{r} of {vocabulary}x{c}", made[name]()
        if name == "index":
            sizes = (r,) if op.startswith(("index_select", "index_add")) else (r, c)
            return f"{r}x{c}", self.index(*sizes, below=min(r, c))
        return f"{r}x{c}", self.tensor(r, c)

    def sort(self, name: str) -> tuple[str, Tensor]:
        r, c = self.rows, self.columns
        if name in ("sorted_sequence", "boundaries"):
            return f"{r}x{c} in {c}", self.tensor(c).sort().values
        if name == "test_elements":
            return f"{r}x{c} in {c}", self.tensor(c)
        return f"{r}x{c}", self.tensor(r, c)

    # ---- everything else ----

    def other(self, name: str, kind: str, default: Any, has_default: bool) -> Any:
        """A value for an argument that is no tensor."""
        named: dict[str, Callable[[], Any]] = {
            "normalized_shape": lambda: [self.columns],
            "input_dtype": lambda: self.dtype,
            "half_to_float": lambda: False,
            "num_weights": lambda: max(2, min(50_000, self.rows)),
            "padding_idx": lambda: -1,
            "ignore_index": lambda: -100,
            "reduction": lambda: 1,
            "p": lambda: 0.1,
            "train": lambda: True,
            "eps": lambda: 1e-5,
            "size": lambda: [self.n] if "List" in kind else self.n,
            "rounding_mode": lambda: "floor",
            "min": lambda: -0.5,
            "max": lambda: 0.5,
            "scale_grad_by_freq": lambda: False,
            "k": lambda: min(50, self.columns),
        }
        if name == "dim":
            return self.dim(kind)
        if self.row["family"] == "factory":
            named |= {"steps": lambda: self.n} | dict.fromkeys(("n", "m", "row", "col"), lambda: self.side)
            if "range" in name_of(self.row):
                named["end"] = lambda: self.n
        elif self.row["family"] == "random":
            named |= {"n": lambda: self.n, "low": lambda: 0} | dict.fromkeys(("high", "to"), lambda: 100)
        if name in named and not (has_default and name == "padding_idx"):
            return named[name]()
        if has_default:
            return default
        if "Scalar" in kind or kind in ("number", "float"):
            return 3 if self.dtype in INTS or self.dtype == torch.bool else 1.5
        if name == "dtype":  # of kind "int" in a parsed schema
            return self.dtype
        plain = {"int": 1, "bool": False, "ScalarType": self.dtype, "str": "none"}
        return next((value for key, value in plain.items() if key == kind), None)

    def dim(self, kind: str) -> Any:
        along = 0 if self.row["family"] in ("gather", "cat") else -1
        return [along] if "List" in kind else along

    def make(self) -> Case:
        """The arguments of one call.

        Raises
        ------
        ValueError
            When an argument's kind is none that is known here.
        """
        args: list[Any]
        kwargs: dict[str, Any]
        if self.row["family"] == "index_map":
            args = moves.arguments(name_of(self.row), self.tensor, self.n, self.columns)
            return Case(name_of(self.row), "x".join(map(str, args[0].shape)), args, {})
        if self.row["family"] in ("index", "scatter"):
            args, kwargs = places.arguments(name_of(self.row), self.tensor, self.index, self.rows, self.columns)
            return Case(name_of(self.row), f"{self.rows}x{self.columns}", args, kwargs)
        if self.row["family"] in images.FAMILIES:
            shape, args = images.arguments(name_of(self.row), self.tensor, self.n, self.columns)
            return Case(name_of(self.row), shape, args, {})
        if self.row["family"] in ("group_norm", "batch_norm"):
            names = [argument.name for argument in schema_of(self.row).arguments]
            shape, args = norms.arguments(names, self.tensor, self.n, self.columns)
            return Case(name_of(self.row), shape, args, {})
        makers = {"reduce": self.rowwise, "row_norm": self.rowwise, "matmul": self.matmul, "gather": self.gather}
        makers |= {"sort": self.sort, "runs": self.rowwise, "random": self.random, "factory": self.end}
        tensor_of = makers.get(self.row["family"], self.elementwise)
        args, kwargs = [], {}
        shape = f"{self.n}"
        for argument in schema_of(self.row).arguments:
            kind = str(argument.type)
            if "Tensor" in kind and "List" in kind:
                value: Any = [self.tensor(self.n // 4) for _ in range(4)]
                shape = f"4 of {self.n // 4}"
            elif kind == "Tensor" or (kind == "Optional[Tensor]" and not argument.has_default_value()):
                shape, value = tensor_of(argument.name)
            elif "Generator" in kind or (kind == "Optional[Tensor]" and argument.name not in ("min", "max")):
                value = None
            elif kind == "Optional[Tensor]":
                shape, value = tensor_of(argument.name)
            elif argument.name == "output_mask":
                value = [True] * argument.N
            else:
                value = self.other(argument.name, kind, argument.default_value, argument.has_default_value())
            if argument.kwarg_only:
                kwargs[argument.name] = value
            else:
                args.append(value)
        if self.row["family"] == "factory" or bytes_of(args) + bytes_of(kwargs) == 0:  # zeros, ones ...
            kwargs.update(dtype=self.dtype, device=torch.device(self.device))
        return Case(name_of(self.row), shape, args, kwargs, self.flops, self.untouched)


@functools.lru_cache(maxsize=2)
def clone_source(count: int, device: str) -> Tensor:
    """Bytes to clone: the limit that a call moving twice as many is held against."""
    return torch.ones(max(1, count), dtype=torch.uint8, device=device)


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in a nested value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    if isinstance(value, dict):
        return bytes_of(list(value.values()))
    return 0
