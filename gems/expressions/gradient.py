"""Derivatives of expressions, by SymPy: the chain rule over the formulas of functions.py.

Functions stay opaque to SymPy, so that it rewrites sums and products and nothing that rounds differently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import functions
from .language import BITS, COMPARISONS, ExpressionError, Names, Node, check, fail, is_boolean, parse

_COMPARE = {"<": "lt_", "<=": "le_", ">": "gt_", ">=": "ge_", "==": "eq_", "!=": "ne_"}
_SIGNS = {name: sign for sign, name in _COMPARE.items()} | {"and_": "&&", "or_": "||"}


def _sympy() -> Any:
    try:
        import sympy
    except ImportError as error:
        raise ImportError(
            'grad="auto" needs SymPy, which is not installed (pip install sympy); or give the gradients as '
            'expressions: grad={"a": "grad * b", ...}'
        ) from error
    return sympy


@functools.cache
def _class(name: str) -> Any:
    """SymPy's view of a function: what it is called, and its derivatives."""
    sympy = _sympy()

    def fdiff(self: Any, index: int = 1) -> Any:
        function = functions.find(name)
        formulas = function.derivatives if function else None
        if name in _SIGNS or name == "not_" or (function and function.boolean):
            return sympy.Integer(0)
        if not formulas:
            raise ExpressionError(f"the derivative of {name} is not known")
        return _formula(formulas[index - 1], tuple(self.args))

    def chosen(cls: Any, condition: Any, yes: Any, no: Any) -> Any:
        return yes if yes == no else None

    def of_choice(self: Any, symbol: Any) -> Any:
        condition, yes, no = self.args
        return type(self)(condition, yes.diff(symbol), no.diff(symbol))

    body: dict[str, Any] = {"fdiff": fdiff}
    if name == "where":
        body = {"eval": classmethod(chosen), "_eval_derivative": of_choice}
    return type(name, (sympy.Function,), body)


def _formula(text: str, args: tuple[Any, ...]) -> Any:
    """A formula of functions.py over x, y and z."""
    values = dict(zip("xyz", args, strict=False))
    return _convert(text, parse(text)[0], Names(tuple(values)), values.__getitem__)


def _convert(text: str, node: Node, names: Names, value: Callable[[str], Any]) -> Any:
    """A tree as SymPy has it; value gives what a name stands for."""
    sympy = _sympy()

    def of(child: Node) -> Any:
        return _convert(text, child, names, value)

    if node.kind == "number":
        return sympy.Rational(node.text)
    if node.kind == "name":
        return sympy.Integer(int(node.text == "true")) if node.text in ("true", "false") else value(node.text)
    if node.kind == "choice" or (node.kind == "call" and node.text == "where"):
        return _class("where")(*map(of, node.args))
    if node.kind == "call":
        return _convert_call(text, node, names, of)
    if node.kind == "unary":
        if node.text == "~" and not is_boolean(node, names):
            fail(text, node.at, "~ has no derivative")
        arg = of(node.args[0])
        return -arg if node.text == "-" else arg if node.text == "+" else _class("not_")(arg)
    return _convert_binary(text, node, names, of)


def _convert_call(text: str, node: Node, names: Names, of: Callable[[Node], Any]) -> Any:
    if names.has_helper(node.text):
        fail(
            text, node.at, f"the derivative of {node.text}, which the preamble defines, is not known: give grad={{...}}"
        )
    function = functions.find(node.text)
    assert function is not None
    args = tuple(map(of, node.args))
    if function.means:
        return _formula(function.means, args)
    if not function.derivatives and not function.boolean:
        fail(text, node.at, f"the derivative of {node.text} is not known: give grad={{...}}")
    return _class(functions.SAME.get(node.text, node.text))(*args)


def _convert_binary(text: str, node: Node, names: Names, of: Callable[[Node], Any]) -> Any:
    sign = node.text
    if sign in BITS and not is_boolean(node, names):
        fail(text, node.at, f"{sign} has no derivative")
    left, right = map(of, node.args)
    if sign in COMPARISONS:
        return _class(_COMPARE[sign])(left, right)
    if sign in ("&&", "||", "&", "|", "^"):
        name = "and_" if sign[0] == "&" else "or_" if sign[0] == "|" else "ne_"
        return _class(name)(left, right)
    if sign == "**":
        return left**right if right.is_Integer else _class("pow")(left, right)
    if sign in ("%", "//"):
        return _class("remainder" if sign == "%" else "floor_divide")(left, right)
    return {"+": left + right, "-": left - right, "*": left * right}[sign] if sign != "/" else left / right


def _number(value: Any) -> str:
    if value.is_Integer:
        text = str(abs(value))
    else:
        text = repr(abs(int(value.p)) / int(value.q))
    return f"(-{text})" if value < 0 else text


def _power(base: Any, exponent: int) -> str:
    text = _text(base)
    if exponent == 1:
        return text
    if exponent == 2:
        return f"square({text})"
    if exponent == 3:
        return f"({text} * square({text}))"
    if exponent == 4:
        return f"square(square({text}))"
    return f"pow({text}, {exponent})"


def _text(value: Any) -> str:
    """SymPy's expression in the language."""
    if value.is_Rational:
        return _number(value)
    if value.is_Symbol:
        return str(value.name)
    if value.is_Add:
        return "(" + " + ".join(map(_text, value.args)) + ")"
    if value.is_Pow:
        return _power(value.base, int(value.exp)) if value.exp > 0 else f"(1 / {_power(value.base, -int(value.exp))})"
    if value.is_Mul:
        over = [
            _power(f.base, int(f.exp)) if f.is_Pow else _text(f) for f in value.args if not (f.is_Pow and f.exp < 0)
        ]
        under = [_power(f.base, -int(f.exp)) for f in value.args if f.is_Pow and f.exp < 0]
        text = " * ".join(over) or "1"
        return f"({text} / ({' * '.join(under)}))" if under else f"({text})"
    name = value.func.__name__
    args = list(map(_text, value.args))
    if name in _SIGNS:
        return f"({args[0]} {_SIGNS[name]} {args[1]})"
    return f"(!{args[0]})" if name == "not_" else f"{name}({', '.join(args)})"


def derive(text: str, trees: tuple[Node, ...], names: Names, grads: tuple[str, ...]) -> dict[str, list[str]]:
    """The gradient of each input that is no mask, as terms to add: one for each output that the input has a part in.

    Parameters
    ----------
    text : str
        The source of the trees, for errors.
    grads : tuple of str
        The names of the outputs' gradients.

    Returns
    -------
    dict of str to list of str
        Expressions over the inputs, the scalars and one of the gradients.

    Raises
    ------
    ExpressionError
        When something in the expression has no derivative.
    ImportError
        When SymPy is not installed.
    """
    sympy = _sympy()
    symbols = functools.cache(lambda name: sympy.Symbol(name, real=True))
    outputs = [_convert(text, tree, names, symbols) for tree in trees]
    found: dict[str, list[str]] = {}
    for name in names.inputs:
        if name not in names.masks:
            slopes = [output.diff(symbols(name)) for output in outputs]
            found[name] = [_text(symbols(g) * s) for g, s in zip(grads, slopes, strict=True) if s != 0]
    return found


def check_given(given: dict[str, str], names: Names, grads: tuple[str, ...]) -> None:
    """Raises ExpressionError where gradients that a user gave cannot be."""
    for name, text in given.items():
        if name not in names.inputs or name in names.masks:
            raise ExpressionError(f"grad: {name!r} is no input that can have a gradient: {', '.join(names.inputs)}")
        trees = parse(text)
        if len(trees) != 1:
            fail(text, 0, f"the gradient of {name} is one expression, not {len(trees)}")
        check(text, trees, Names((*names.inputs, *grads), names.masks, names.scalars, names.helpers))
