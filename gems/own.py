"""Functions of rows in flag_gems:: : builtins that go straight into the engine, and torch where it must see a call."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from . import _C
from .observe import DeclinedError
from .rows import name_of

try:
    from torch.compiler import is_dynamo_compiling as _is_compiling
except ImportError:  # without torch

    def _is_compiling() -> bool:
        return False


PREFIX = "flag_gems::"

# Rows in flag_gems::, by name, as functions of torch's own operators with the row's parameters. Transforms of torch
# run these, what the kernel declines is done by them, and a row without a gradient of its own has theirs.
COMPOSED: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operator: a tensor (type None), a number or a string."""

    name: str
    type: type | None = None
    default: Any = None
    has_default: bool = False
    by_keyword: bool = False

    def schema(self) -> str:
        kind = {None: "Tensor", float: "float", int: "int", bool: "bool"}[self.type]
        return f"{kind} {self.name}" + (f"={self.default!r}" if self.has_default else "")


@dataclass(frozen=True)
class Step:
    """One call of a backward pass: a function, names of its arguments, and the inputs that its results belong to."""

    function: Callable[..., Any]
    tensors: tuple[str, ...]
    scalars: tuple[str, ...]
    results: tuple[str, ...]


# Backward passes that no row X_backward does, by the row's name.
STEPS: dict[str, Callable[[RowOperator], list[Step]]] = {}


def parameters_of(schema: str) -> tuple[Parameter, ...]:
    """The parameters of an own row's schema, as torch reads it; those of other kinds have the type object."""
    import torch

    kinds = {"float": float, "int": int, "bool": bool, "str": str}
    found = []
    for arg in torch._C.parse_schema(schema).arguments:
        kind = str(arg.type)
        of = None if kind in ("Tensor", "Optional[Tensor]") else kinds.get(kind, object)
        found.append(Parameter(arg.name, of, arg.default_value, arg.has_default_value(), arg.kwarg_only))
    return tuple(found)


def results_of(schema: str) -> tuple[str, ...]:
    """The names of a schema's results; one without a name is called by its number."""
    import torch

    return tuple(result.name or str(i) for i, result in enumerate(torch._C.parse_schema(schema).returns))


def grad_names(outputs: int, taken: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the gradients of an operator's results: grad, or grad0, grad1 ..., and others where an argument has
    these names."""
    base = "grad"
    while True:
        names = (base,) if outputs == 1 else tuple(f"{base}{i}" for i in range(outputs))
        if not set(names) & set(taken):
            return names
        base += "_"


class Function:
    """A row in flag_gems:: as a function of tensors or NumPy arrays.

    Attributes
    ----------
    name : str
        It is `torch.ops.flag_gems.<name>`, and `flag_gems::<name>` in `stats()`.
    schema : str
        Its schema as torch has it.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row
        self.schema: str = row["schema"]
        self.name = name_of(row).removeprefix(PREFIX)
        self.__name__ = self.__qualname__ = self.name
        self.__doc__ = f"{row['doc']}\n\n{self.schema}"
        self.outputs: int = self.schema.rpartition("->")[2].count("Tensor")
        arguments = self.schema[self.schema.index("(") + 1 :]
        self.tensors = [part.strip().startswith("Tensor") for part in arguments.split(",")]
        written = [re.findall(r"Tensor\(\w+!\) (\w+)", e["schema"]) for e in row["entries"] if e["variant"] == "out"]
        # A builtin takes the first by the name of out too.
        self.out_names = tuple(dict.fromkeys(("out", *(written[0] if written else ()))))
        self._function = _C.own_function(row["index"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _is_compiling():
            return self._traced(args, kwargs)
        try:
            return self._function(*args, **kwargs)
        except DeclinedError as declined:
            composed = COMPOSED.get(self.name)
            if composed is None or "GEMS_STRICT" in str(declined):
                raise
            return composed(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flag_gems.{self.name}: {self.row['doc']}>"

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call as torch.compile records it: without outputs given, which are copied to afterwards, and with tensors
        for the numbers that stand for some."""
        import torch

        args = tuple(
            torch.scalar_tensor(arg, dtype=torch.get_default_dtype() if isinstance(arg, float) else torch.int64)
            if i < len(self.tensors) and self.tensors[i] and isinstance(arg, (int, float))
            else arg
            for i, arg in enumerate(args)
        )

        outs = [kwargs[name] for name in self.out_names if name in kwargs]
        rest = {name: value for name, value in kwargs.items() if name not in self.out_names}
        result = getattr(torch.ops.flag_gems, self.name)(*args, **rest)
        if not outs:
            return result
        results = (result,) if self.outputs == 1 else result
        for out, value in zip(outs, results, strict=True):
            out.copy_(value)
        return outs[0] if self.outputs == 1 else tuple(outs)


@functools.cache
def rows() -> dict[str, dict[str, Any]]:
    """The table's rows in flag_gems::, by name; those that a program added are not among them."""
    return {name_of(row).removeprefix(PREFIX): row for row in _C.own_rows() if not row["added"]}


def function(name: str) -> Function:
    """The function of a row of the table: `flag_gems::<name>`.

    Raises
    ------
    KeyError
        When the table has no such row.
    """
    return Function(rows()[name])


class RowOperator(Function):
    """A row of the table as torch must know it: its parameters, and its gradient, which is the row X_backward.

    An elementwise row without such a row is differentiated from its expression, another one by way of its composition.
    """

    masks: tuple[str, ...] = ()

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.parameters = parameters_of(self.schema)
        self.promotion: str = row["promotion"].upper()
        self.grads = grad_names(self.outputs, [p.name for p in self.parameters])
        self.elementwise: bool = row["family"] == "elementwise"
        self.backward = rows().get(f"{self.name}_backward")
        self.composed = COMPOSED.get(self.name)
        stepped = self.backward is not None or self.name in STEPS
        self.by_composition = self.composed is not None and not self.elementwise and not stepped
        backward = stepped or self.by_composition or (self.elementwise and row["gradient"] != "none")
        taken = [p.name for p in parameters_of(self.backward["schema"])] if self.backward else []
        # Results that the backward row reads, and those that have no gradient because it takes none.
        self.results = results_of(self.schema)
        self.kept = tuple(name for name in self.results if name in taken)
        own = grad_names(self.outputs)
        self.constant = tuple(i for i, name in enumerate(own) if self.backward and name not in taken)
        self.differentiable = backward and "!" not in self.schema
        self._choices = re.match(r"switch \((\w+)\) (.*)$", row["expr"] or "", re.DOTALL)
        self._steps: dict[tuple[tuple[str, ...], str], list[Step]] = {}

    def steps(self, needed: tuple[str, ...], scalars: Mapping[str, Any]) -> list[Step]:
        """The calls that make the gradients of inputs; made once for each choice of inputs and of an expression."""
        label = str(scalars[self._choices[1]]) if self._choices else ""
        found = self._steps.get((needed, label))
        if found is None:
            if self.name in STEPS:
                found = STEPS[self.name](self)
            else:
                found = self._steps_of_row() if self.backward is not None else self._steps_derived(needed, label)
            self._steps[needed, label] = found
        return found

    def _steps_of_row(self) -> list[Step]:
        """One call, of the row X_backward: it gives the gradients of the first tensors, as many as it has results."""
        made = Function(self.backward)  # type: ignore[arg-type]
        wanted = parameters_of(made.schema)
        own = dict(zip(grad_names(self.outputs), self.grads, strict=True))
        tensors = tuple(own.get(p.name, p.name) for p in wanted if p.type is None)
        named = tuple(p.name for p in wanted if p.type is not None)
        given = tuple(p.name for p in self.parameters if p.type is None)
        return [Step(made, tensors, named, given[: made.outputs])]

    def _steps_derived(self, needed: tuple[str, ...], label: str) -> list[Step]:
        """The calls of an operator with the row's expression, which can be differentiated; its tensors are letters."""
        from .expressions import pointwise

        tensors = [p.name for p in self.parameters if p.type is None]
        letters = dict(zip(tensors, "abcde", strict=False))
        text = self.row["expr"]
        if self._choices:
            parts = (part.split(":", 1) for part in self._choices[2].split(";"))
            text = {key.strip(): value.strip() for key, value in parts}[label]
        derived = pointwise(
            text,
            grad="auto",
            name="_".join(filter(None, (self.name, label, "derived"))),
            inputs=list(letters.values()),
            promotion=self.promotion,
            dtypes=self.row["dtypes"],
            scalars={p.name: p.type for p in self.parameters if p.type in (float, int, bool)},
        )
        back = {letter: name for name, letter in letters.items()}
        back |= dict(zip(derived.grads, self.grads, strict=True))
        return [
            Step(
                step.function,
                tuple(back[name] for name in step.tensors),
                step.scalars,
                tuple(back[name] for name in step.results),
            )
            for step in derived.steps(tuple(letters[name] for name in needed), {})
        ]
