"""Operators made of expressions: rows that are added to the table while the program runs."""

from __future__ import annotations

import hashlib
import inspect
import keyword
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import _C
from ..own import Function, Parameter, Step, grad_names
from . import functions, gradient
from .language import (
    BITS,
    ExpressionError,
    Names,
    Node,
    check,
    fail,
    is_boolean,
    kernel_text,
    names_in,
    parse,
    wants_floats,
)

MOST_INPUTS, MOST_OUTPUTS, MOST_SCALARS = 5, 3, 6
PROMOTIONS = ("DEFAULT", "NO_OPMATH", "INT_TO_FLOAT", "ALWAYS_BOOL", "COMPLEX_TO_FLOAT", "BOOL_TO_LONG")
# Selections are the same in a wider dtype, and complex numbers are not taken.
_PROMOTION_OF_ROWS = {"NO_OPMATH": "default", "COMPLEX_TO_FLOAT": "default"}
FLOATS = ("float16", "bfloat16", "float32", "float64")
REALS = (*FLOATS, "uint8", "int8", "int16", "int32", "int64", "bool")
Gradients = None | str | Mapping[str, str]
Steps = list[Step]


@dataclass(frozen=True)
class Definition:
    """All that an operator is, but for its name."""

    text: str
    parameters: tuple[Parameter, ...]
    names: Names
    promotion: str
    dtypes: tuple[str, ...]
    outputs: int
    gradients: tuple[tuple[str, str], ...] | str | None = None

    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]


def _schema_arguments(parameters: Sequence[Parameter]) -> str:
    parts = [p.schema() for p in parameters if not p.by_keyword]
    named = [p.schema() for p in parameters if p.by_keyword]
    return ", ".join([*parts, *(["*"] if named else []), *named])


class Operator(Function):
    """An elementwise operator made of an expression; call it with tensors or NumPy arrays.

    Attributes
    ----------
    name : str
        It is `torch.ops.flag_gems.<name>`, and `flag_gems::<name>` in `stats()`.
    expression : str
        Its expression as it was given.
    schema : str
        Its schema as torch has it.
    """

    def __init__(self, name: str, definition: Definition) -> None:
        trees = parse(definition.text)
        results = ", ".join(["Tensor"] * definition.outputs)
        row = _C.add_row(
            f"flag_gems::{name}({_schema_arguments(definition.parameters)}) -> "
            + (f"({results})" if definition.outputs > 1 else results),
            kernel_text(trees, definition.names, definition.promotion != "INT_TO_FLOAT"),
            _PROMOTION_OF_ROWS.get(definition.promotion, definition.promotion.lower()),
            list(definition.dtypes),
            helper=definition.names.helpers or None,
            out=f"{name}.out",
            out_names=",".join(f"out{i}" for i in range(definition.outputs)),
            masks=sum(1 << i for i, n in enumerate(definition.names.inputs) if n in definition.names.masks),
            doc=definition.text.replace("\n", " "),
        )
        super().__init__(row)
        self.definition = definition
        self.expression = definition.text
        self._steps: dict[tuple[str, ...], Steps] = {}
        self._lock = threading.RLock()
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(
                    p.name,
                    inspect.Parameter.KEYWORD_ONLY if p.by_keyword else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=p.default if p.has_default else inspect.Parameter.empty,
                )
                for p in definition.parameters
            ]
        )

    def __repr__(self) -> str:
        return f"<flag_gems.{self.name}: {self.expression}>"

    # ---- what library.py asks ----

    elementwise = True
    composed = None
    by_composition = False
    kept: tuple[str, ...] = ()
    constant: tuple[int, ...] = ()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.definition.parameters

    @property
    def promotion(self) -> str:
        return self.definition.promotion

    @property
    def masks(self) -> tuple[str, ...]:
        return self.definition.names.masks

    @property
    def differentiable(self) -> bool:
        return self.definition.gradients is not None

    @property
    def grads(self) -> tuple[str, ...]:
        """The names of the outputs' gradients in gradient expressions."""
        return grad_names(self.outputs, self.definition.names.inputs)

    def steps(self, needed: tuple[str, ...], scalars: Mapping[str, Any]) -> Steps:
        """The calls that make the gradients of inputs; made once for each choice of inputs."""
        found = self._steps.get(needed)
        if found is None:
            with self._lock:
                found = self._steps.get(needed) or self._make_steps(needed)
                self._steps[needed] = found
        return found

    def _gradients(self) -> dict[str, list[str]]:
        names, given = self.definition.names, self.definition.gradients
        if given == "auto":
            return gradient.derive(self.expression, parse(self.expression), names, self.grads)
        return {name: [text] for name, text in given or ()}  # type: ignore[misc]

    def _parts(self, name: str, terms: list[str], order: tuple[str, ...]) -> list[tuple[str, str]]:
        """The terms of an input's gradient as few expressions that a kernel can read the tensors of."""
        parts: list[str] = []
        for term in terms:
            count = len(_used(term, order))
            if count > MOST_INPUTS:
                raise ExpressionError(
                    f"{self.name}: the gradient of {name} reads {count} tensors, kernels read at most {MOST_INPUTS}: "
                    + term
                )
            if parts and len(_used(joined := f"{parts[-1]} + {term}", order)) <= MOST_INPUTS:
                parts[-1] = joined
            else:
                parts.append(term)
        return [(name, part) for part in parts]

    def _make_steps(self, needed: tuple[str, ...]) -> Steps:
        gradients = self._gradients()
        order = (*self.grads, *self.definition.names.inputs)
        groups: list[list[tuple[str, str]]] = []
        for name, text in [part for n in needed for part in self._parts(n, gradients.get(n, []), order)]:
            together = [t for _, t in [*groups[-1], (name, text)]] if groups else []
            if groups and len(together) <= MOST_OUTPUTS and len(_used(", ".join(together), order)) <= MOST_INPUTS:
                groups[-1].append((name, text))
            else:
                groups.append([(name, text)])
        return [self._make_step(group, order) for group in groups]

    def _make_step(self, group: list[tuple[str, str]], order: tuple[str, ...]) -> Step:
        text = ", ".join(t for _, t in group)
        tensors = _used(text, order)
        scalars = {n: t for n, t in (self.definition.names.scalars or {}).items() if n in _used(text, (n,))}
        results = tuple(name for name, _ in group)
        function = pointwise(
            text,
            grad="auto",
            name=f"{self.name}_backward_{'_'.join(results)}",
            inputs=tensors,
            masks=[name for name in self.masks if name in tensors],
            promotion="INT_TO_FLOAT",
            preamble=self.definition.names.helpers,
            scalars=scalars,
        )
        return Step(function, tensors, tuple(scalars), results)

    def warmup(self, archs: Sequence[str] | None = None, dtypes: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Compiles the operator's programs for GPUs that need not be here ("sm_90a"), or for the device that is.

        Returns
        -------
        list of dict
            A report for each program: registers, spill_bytes, milliseconds, error ... as `python -m flag_gems warmup`.
        """
        from .. import warm

        wanted = warm.dtypes_of(self.row, list(dtypes) if dtypes is not None else None)
        items = [
            warm.Item(warm.backend_of(arch), arch, self.row["index"], dtype)
            for arch in archs or warm.default_archs()
            for dtype in wanted
        ]
        return [report for item in items for report in warm.compile_item(item)]


def _used(text: str, order: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `order` that an expression reads."""
    found = {node.text for node in names_in(parse(text))}
    return tuple(name for name in order if name in found)


# ---- making one ----

_operators: dict[str, Operator] = {}
_by_definition: dict[tuple[str, str], Operator] = {}
_making = threading.RLock()


def made() -> list[Operator]:
    """The operators that this program has made."""
    return list(_operators.values())


def _split_scalars(given: Mapping[str, Any]) -> list[Parameter]:
    """Parameters from names with a type or a default value."""
    found = []
    for name, value in given.items():
        if not name.isidentifier() or keyword.iskeyword(name) or functions.find(name) or name in ("true", "false"):
            raise ExpressionError(f"a number cannot be called {name!r}")
        if isinstance(value, type):
            if value not in (float, int, bool):
                raise TypeError(f"{name} is a float, an int or a bool, not a {value.__name__}")
            found.append(Parameter(name, value, by_keyword=True))
        elif type(value) in (float, int, bool):
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError(f"{name}: a default value is a finite number")
            found.append(Parameter(name, type(value), value, True, by_keyword=True))
        else:
            raise TypeError(f"{name} is a float, an int or a bool, or one of these types, not {value!r}")
    return found


def _find_inputs(text: str, trees: tuple[Node, ...], scalars: Mapping[str, type], helpers: str) -> tuple[str, ...]:
    """The names that stand for tensors, when they were not given: single letters, in the order of the alphabet."""
    names = names_in(trees, scalars)
    for node in names:
        if len(node.text) > 1:
            check(text, trees, Names(tuple(n.text for n in names if len(n.text) == 1), (), scalars, helpers))
    return tuple(sorted(node.text for node in names))


def define(
    text: str,
    parameters: Sequence[Parameter],
    masks: Sequence[str],
    promotion: str,
    dtypes: Sequence[Any] | None,
    preamble: str,
    grad: Gradients,
) -> Definition:
    """A definition, checked; pointwise describes the arguments."""
    trees = parse(text)
    scalars = {p.name: p.type for p in parameters if p.type is not None}
    inputs = tuple(p.name for p in parameters if p.type is None)
    names = Names(inputs, tuple(masks), scalars, preamble)
    if not inputs:
        fail(text, 0, "an expression reads at least one tensor")
    if len(inputs) > MOST_INPUTS:
        fail(text, 0, f"an expression reads at most {MOST_INPUTS} tensors, not {len(inputs)}: {', '.join(inputs)}")
    if len(trees) > MOST_OUTPUTS:
        fail(text, trees[MOST_OUTPUTS].at, f"an expression has at most {MOST_OUTPUTS} outputs, not {len(trees)}")
    if len(scalars) > MOST_SCALARS:
        raise ExpressionError(f"an expression reads at most {MOST_SCALARS} numbers, not {len(scalars)}")
    for name in scalars:
        if name in [chr(ord("a") + i) for i in range(len(inputs))]:
            raise ExpressionError(f"a number cannot be called {name!r}: tensors have these letters in kernels")
    unknown = [name for name in masks if name not in inputs]
    if unknown:
        raise ExpressionError(f"masks: {', '.join(unknown)}: no input of that name")
    check(text, trees, names)
    if promotion not in ("auto", *PROMOTIONS):
        raise ValueError(f"no promotion {promotion!r}: auto, {', '.join(PROMOTIONS)}")
    if promotion == "auto":
        boolean = all(is_boolean(tree, names) for tree in trees)
        promotion = "ALWAYS_BOOL" if boolean else "INT_TO_FLOAT" if wants_floats(trees, names) else "DEFAULT"
    bits = [
        n for tree in trees for n in tree.walk() if n.text in BITS and n.kind != "name" and not is_boolean(n, names)
    ]
    if bits and grad == "auto":
        fail(text, bits[0].at, f"{bits[0].text} has no derivative")
    allowed = FLOATS if promotion == "INT_TO_FLOAT" else REALS
    if bits:
        allowed = tuple(d for d in allowed if d not in FLOATS)
    wanted = tuple(str(d).removeprefix("torch.") for d in dtypes) if dtypes is not None else allowed
    bad = [d for d in wanted if d not in allowed]
    if bad:
        raise ValueError(f"dtypes: kernels do not compute this in {', '.join(bad)}; they do in {', '.join(allowed)}")
    given: tuple[tuple[str, str], ...] | str | None = grad if isinstance(grad, str) or grad is None else ()
    if isinstance(grad, str) and grad != "auto":
        raise ValueError(f'grad is None, "auto" or a dict of expressions, not {grad!r}')
    if isinstance(grad, Mapping):
        gradient.check_given(dict(grad), names, grad_names(len(trees), inputs))
        given = tuple(grad.items())
    if given is not None and promotion == "ALWAYS_BOOL":
        raise ExpressionError("an operator that gives true or false has no gradient")
    return Definition(text, tuple(parameters), names, promotion, wanted, len(trees), given)


def named(name: str | None, definition: Definition) -> Operator:
    """The operator of a definition: one that is there already, or a new one. A name that means another one gets a
    number behind."""
    if name is None:
        name = f"pointwise_{definition.digest()}"
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"an operator cannot be called {name!r}")
    from .. import library

    with _making:
        found = _by_definition.get((name, definition.digest()))
        if found is not None:
            return found
        if library.is_taken(name):
            raise ValueError(f"flag_gems has an operator {name} of its own: choose another name")
        free, number = name, 1
        while free in _operators:
            number += 1
            free = f"{name}_{number}"
        operator = Operator(free, definition)
        library.add(operator)
        _operators[free] = _by_definition[name, definition.digest()] = operator
        return operator


def pointwise(
    expr: str,
    *,
    grad: Gradients = None,
    name: str | None = None,
    inputs: Sequence[str] | None = None,
    masks: Sequence[str] = (),
    promotion: str = "auto",
    dtypes: Sequence[Any] | None = None,
    preamble: str = "",
    scalars: Mapping[str, Any] = {},
    **numbers: Any,
) -> Operator:
    """Makes an elementwise operator of an expression: it broadcasts, promotes dtypes, and is one kernel.

    Parameters
    ----------
    expr : str
        An expression of C, such as `"a * sigmoid(a) * b"`; several outputs stand with commas between. Single letters
        are the tensors, in the order of the alphabet (docs/pointwise.md has all of it).
    grad : None, "auto" or dict
        Gradients: none; derived from the expression by SymPy; or an expression for each input, over the inputs and
        `grad` (`grad0`, `grad1` ... for several outputs).
    name : str
        Its name in `torch.ops.flag_gems` and `stats()`; made of the expression when left out.
    inputs : list of str
        The names of the tensors in their order, where they are no single letters.
    masks : list of str
        Inputs that are bool tensors and take no part in promotion.
    promotion : str
        "auto", or one of torch's kinds: DEFAULT, NO_OPMATH, INT_TO_FLOAT, ALWAYS_BOOL, COMPLEX_TO_FLOAT, BOOL_TO_LONG.
    dtypes : list of torch.dtype or str
        The dtypes that it computes in; all that it can when left out.
    preamble : str
        CUDA C++ that defines functions which the expression calls; or the name of one of the package's files of
        functions: "numbers.cuh", "activations.cuh", "special.cuh".
    **numbers, scalars
        Numbers by name: a type (float, int, bool), or a default value.

    Returns
    -------
    Operator
        Takes tensors, or NumPy arrays; `out0=` (`out1=` ...) gives it the outputs.

    Raises
    ------
    ExpressionError
        When the expression cannot be used; the text points to the place.

    Examples
    --------
    >>> swiglu = flag_gems.pointwise("a * sigmoid(a) * b", grad="auto", name="swiglu")
    >>> leaky = flag_gems.pointwise("a > 0 ? a : slope * a", grad="auto", slope=0.01)
    """
    trees = parse(expr)
    added = _split_scalars({**scalars, **numbers})
    kinds = {p.name: p.type for p in added}
    found = tuple(inputs) if inputs is not None else _find_inputs(expr, trees, kinds, preamble)  # type: ignore[arg-type]
    for input_name in found:
        if not input_name.isidentifier() or keyword.iskeyword(input_name) or input_name in kinds:
            raise ExpressionError(f"a tensor cannot be called {input_name!r}")
    parameters = [*(Parameter(n) for n in found), *added]
    return named(name, define(expr, parameters, masks, promotion, dtypes, preamble, grad))
