"""`pointwise_dynamic`: the interface that FlagGems' users know, over expressions."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

from ..expressions import language, operator
from ..own import Parameter

KINDS = operator.PROMOTIONS


def _refuse(what: Any) -> None:
    raise NotImplementedError(
        f"pointwise_dynamic got {type(what).__name__}, which is a Triton kernel or no expression; this package runs no "
        "Triton: its kernels are CUDA C++ text. Write the operator as an expression: "
        'pointwise_dynamic("x * sigmoid(y)", promotion_methods=[(0, 1, "DEFAULT")]), or as a function that returns '
        'one: def f(x, y): return "x * sigmoid(y)"'
    )


def _expression_of(source: Any) -> tuple[str, list[str] | None]:
    """The expression, and the names of its arguments where a function gave them."""
    if isinstance(source, str):
        return source, None
    if not isinstance(source, types.FunctionType):
        _refuse(source)
    names = list(inspect.signature(source).parameters)
    try:
        text = source(*names)
    except Exception:  # a function over Triton's language, called with words
        _refuse(source)
    if not isinstance(text, str):
        _refuse(source)
    return text, names


def _kind_of(method: Sequence[Any]) -> tuple[tuple[int, ...], str]:
    """(0, 1, "DEFAULT") -> the arguments that promote, and how."""
    *indices, kind = method
    name = getattr(kind, "name", kind)
    if name not in KINDS or not all(isinstance(i, int) for i in indices):
        raise ValueError(f"promotion_methods: {method!r} is not (argument, ..., kind); kinds are {', '.join(KINDS)}")
    return tuple(indices), name


def _promotion_of(methods: Sequence[Sequence[Any]] | None, count: int, outputs: int) -> tuple[tuple[int, ...], str]:
    if methods is None:
        return tuple(range(count)), "auto"
    found = [_kind_of(method) for method in methods]
    if len(found) != outputs:
        raise ValueError(f"promotion_methods has {len(found)} entries, the expression {outputs} outputs")
    if len(set(found)) > 1:
        raise ValueError("promotion_methods: all outputs of an expression promote alike; write two operators")
    bad = [i for i in found[0][0] if not 0 <= i < count]
    if bad:
        raise ValueError(f"promotion_methods: there is no argument {bad[0]}")
    return found[0]


def pointwise_dynamic(
    f: str | Callable[..., str] | None = None,
    *,
    num_inputs: int | None = None,
    is_tensor: Sequence[bool] | None = None,
    dtypes: Sequence[type | None] | None = None,
    num_outputs: int | None = None,
    promotion_methods: Sequence[Sequence[Any]] | None = None,
    config: Any = None,
    grad: operator.Gradients = None,
    name: str | None = None,
    preamble: str = "",
) -> Any:
    """Makes a broadcasting, type-promoting elementwise operator from an expression; a decorator when f is left out.

    Parameters
    ----------
    f : str or function
        An expression; its arguments are single letters in the order of the alphabet. Or a function that returns one and
        whose parameters are the arguments.
    num_inputs, num_outputs : int
        Checked against the expression when given.
    is_tensor : list of bool
        False: the argument is a number.
    dtypes : list of type
        Of arguments that are numbers: float, int, bool; float when left out.
    promotion_methods : list of tuple
        `(argument, ..., kind)` for each output: the arguments that decide the dtype, and how: DEFAULT, NO_OPMATH,
        INT_TO_FLOAT, ALWAYS_BOOL, COMPLEX_TO_FLOAT, BOOL_TO_LONG. Tensors that are left out must be bool.
    config
        Accepted for compatibility; not used.
    grad, name, preamble
        As in `flag_gems.pointwise`.

    Returns
    -------
    Operator
        Takes the arguments in their order, and `out0=` (`out1=` ...).

    Raises
    ------
    ExpressionError
        When the expression cannot be used.
    NotImplementedError
        For a Triton function; the text names the form to write.
    """
    if f is None:

        def decorate(source: Any) -> Any:
            return pointwise_dynamic(
                source,
                num_inputs=num_inputs,
                is_tensor=is_tensor,
                dtypes=dtypes,
                num_outputs=num_outputs,
                promotion_methods=promotion_methods,
                grad=grad,
                name=name,
                preamble=preamble,
            )

        return decorate
    text, names = _expression_of(f)
    trees = language.parse(text)
    if names is None:
        names = sorted(node.text for node in language.names_in(trees))
        language.check(text, trees, language.Names(tuple(n for n in names if len(n) == 1), (), {}, preamble))
    wanted = num_inputs if num_inputs is not None else len(is_tensor) if is_tensor is not None else len(names)
    if wanted != len(names) or (is_tensor is not None and len(is_tensor) != len(names)):
        language.fail(text, 0, f"the expression has {len(names)} arguments ({', '.join(names)}), not {wanted}")
    if num_outputs is not None and num_outputs != len(trees):
        place = trees[min(num_outputs, len(trees)) - 1].at
        language.fail(text, place, f"the expression has {len(trees)} output{'s' * (len(trees) > 1)}, not {num_outputs}")
    promotes, kind = _promotion_of(promotion_methods, len(names), len(trees))
    parameters, masks = [], []
    for i, argument in enumerate(names):
        tensor = is_tensor is None or is_tensor[i]
        if tensor or (promotion_methods is not None and i in promotes):
            parameters.append(Parameter(argument))  # a number that promotes stands where a tensor does
            if i not in promotes:
                masks.append(argument)
        else:
            of = dtypes[i] if dtypes is not None and dtypes[i] is not None else float
            if of not in (float, int, bool):
                raise TypeError(f"dtypes: argument {i} is a float, an int or a bool, not {of!r}")
            parameters.append(Parameter(argument, of))
    definition = operator.define(text, parameters, masks, kind, None, preamble, grad)
    return operator.named(name, definition)
