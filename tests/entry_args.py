"""Arguments for any overload, made from its schema: for those that no public function reaches, such as add.Scalar."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SHAPE = (5, 7)
MASKS = {"condition", "mask"}
INDEXES = {"index", "indices", "target"}
PLACED = {"scatter", "scatter_", "put", "put_", "index_put", "index_put_"}  # one of equal places wins
LINES = {"boundaries", "sorted_sequence"}  # in order, of one dim
CHANCES = {"bernoulli", "bernoulli.out"}  # self holds probabilities: outside [0, 1] they stop a GPU's context for good
SPACED = {"linspace", "logspace"}  # ends as tensors: of the CPU, as the rows take them
# Shapes by argument name, where it has no other.
SHAPES = {"g": (SHAPE[0], 1), "saved_g": (1, SHAPE[1]), "saved_norms": (1, SHAPE[1])}
# Numbers by argument name, where 2 would not do.
NUMBERS = {
    "p": 0.25,
    "lambd": 1.5,
    "negative_slope": 0.1,
    "beta": 1,
    "alpha": 1,
    "dim": 1,
    "num_weights": 9,
    "to": 2,
    "high": 9,
}


def tensor(name: str, dtype: torch.dtype, device: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Values that suit an argument's name: masks, indexes within the shape, else numbers from 1 up."""
    count = math.prod(shape)
    if name in MASKS:
        return (torch.arange(count, device=device) % 3 == 0).view(shape)
    if name in INDEXES:
        return (torch.arange(count, device=device) % min(shape)).view(shape)
    values = torch.arange(1, count + 1, device=device).view(shape)
    if name == "p":
        values = values % (8 if dtype.is_floating_point else 2)  # probabilities, eighths of them
    if name == "buffer":  # log_sigmoid's: what its forward has computed
        return torch.exp(values / -8).to(dtype)
    return values.to(dtype) if not dtype.is_floating_point else (values / 8).to(dtype)


def value(argument: Any, dtype: torch.dtype, device: str) -> Any:
    """One argument of a torch schema."""
    kind, name = str(argument.real_type), argument.name
    if argument.has_default_value():
        return 3 if name == "min" else argument.default_value  # clamp wants one of its bounds
    match kind:
        case "Tensor":
            shape = () if name == "value" else SHAPE[1:] if name in LINES else SHAPES.get(name, SHAPE)
            return tensor(name, dtype, device, shape)
        case "List[Tensor]":
            return [tensor("self", dtype, device), tensor("other", dtype, device)]
        case "number":
            return NUMBERS.get(name, 2)
        case "int" | "SymInt":
            return NUMBERS.get(name, 1)
        case "float":
            return NUMBERS.get(name, 0.5)
        case "bool":
            return False
        case "List[int]" | "List[SymInt]":
            return [SHAPE[1]] if name == "normalized_shape" else [0] if name == "dim" else [4, 3]
        case "List[Optional[Tensor]]":
            return [tensor("index", dtype, device, SHAPE[:1])]
        case "str":
            return "amax"
        case "List[bool]":
            return [True, True, True]
        case "ScalarType":
            return dtype
        case _ if kind.startswith("Optional"):
            return None
    raise NotImplementedError(f"{name}: {kind}")


def places_apart(device: str, in_rows: bool) -> Tensor:
    """Indexes none of which comes twice: within its row, else anywhere."""
    index = torch.arange(math.prod(SHAPE), device=device).view(SHAPE)
    return index % SHAPE[-1] if in_rows else index


def arguments(name: str, dtype: torch.dtype, device: str) -> tuple[Any, list[Any], dict[str, Any]]:
    """The overload "add.Scalar" itself, its positional and its keyword arguments."""
    base, _, overload = name.partition(".")
    function = getattr(getattr(torch.ops.aten, base), overload or "default")
    args, kwargs = [], {}
    for argument in function._schema.arguments:
        if argument.is_out:
            kwargs[argument.name] = torch.empty(0, dtype=dtype, device=device)
        elif argument.name == "reduce" and base in ("scatter", "scatter_"):
            kwargs["reduce"] = "add"  # the older operator has words of its own
        elif argument.name == "device":
            kwargs["device"] = torch.device(device)
        elif base in SPACED and str(argument.real_type) == "Tensor":
            args.append(torch.tensor(1.5))
        elif name in CHANCES and argument.name == "self":
            args.append(tensor("p", dtype, device))
        elif argument.name == "index" and base in PLACED and device != "cpu":
            args.append(places_apart(device, base.startswith("scatter")))  # which wins there is not said in ATen
        elif argument.kwarg_only:
            kwargs[argument.name] = value(argument, dtype, device)
        else:
            args.append(value(argument, dtype, device))
    return function, args, kwargs
