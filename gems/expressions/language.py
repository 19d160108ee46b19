"""The language of expressions: text to trees, and trees to the C++ that kernels are made of.

    a * sigmoid(a) * b          a > 0 ? a : slope * a          a + b, a - b

Operators are C's, with C's precedence, and `**`, `//`, `and`, `or`, `not` as in Python. A value has the dtype that is
computed in; comparisons give true or false, which count as 1 and 0 in sums and products.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from .. import _C
from . import functions


class ExpressionError(ValueError):
    """An expression that cannot be used. The text shows the place."""


def fail(text: str, at: int, message: str) -> NoReturn:
    """Raises the error of a place in a text: the message, the line, and a caret below the place."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)]
    raise ExpressionError(f"{message}\n    {line}\n    {' ' * (at - start)}^")


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    `kind` is number, name, call, unary, binary or choice; `text` the number, the name, the function or the operator;
    `at` the place in the source.
    """

    kind: str
    text: str
    args: tuple[Node, ...] = ()
    at: int = 0

    def walk(self) -> Iterator[Node]:
        """This node and all below."""
        yield self
        for arg in self.args:
            yield from arg.walk()


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>\*\*|//|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>!~&|^?:(),]))"
)
_WORDS = {"and": "&&", "or": "||", "not": "!"}
_LEVELS = [
    {"||"},
    {"&&"},
    {"|"},
    {"^"},
    {"&"},
    {"==", "!="},
    {"<", "<=", ">", ">="},
    {"<<", ">>"},
    {"+", "-"},
    {"*", "/", "%", "//"},
]
COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
LOGIC = {"&&", "||"}
BITS = {"&", "|", "^", "<<", ">>", "~"}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if not match or not match.lastgroup:
            at += len(text[at:]) - len(text[at:].lstrip())
            fail(text, at, f"{text[at]!r} has no meaning in an expression")
        kind, word = match.lastgroup, match[match.lastgroup]
        place = match.start(kind)
        if kind == "number" and match.end() < len(text) and (text[match.end()].isalnum() or text[match.end()] == "_"):
            fail(text, match.end(), "a number runs into a name")
        found.append(_Token("sign" if word in _WORDS else kind, _WORDS.get(word, word), place))
        at = match.end()
    return [*found, _Token("end", "", len(text.rstrip()))]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.next = text, _tokens(text), 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def accept(self, sign: str) -> bool:
        if self.token.kind == "sign" and self.token.text == sign:
            self.next += 1
            return True
        return False

    def list(self) -> tuple[Node, ...]:
        """The whole text: expressions by commas."""
        if self.token.kind == "end":
            fail(self.text, 0, "an expression is empty")
        found = [self.choice()]
        while self.accept(","):
            found.append(self.choice())
        if self.token.kind != "end":
            what = "this parenthesis closes none" if self.token.text == ")" else "an operator is missing before this"
            fail(self.text, self.token.at, what)
        return tuple(found)

    def choice(self) -> Node:
        condition = self.binary(0)
        at = self.token.at
        if not self.accept("?"):
            return condition
        yes = self.choice()
        if not self.accept(":"):
            fail(self.text, self.token.at, "a ':' is missing here, for the '?' before")
        return Node("choice", "?", (condition, yes, self.choice()), at)

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.token.kind == "sign" and self.token.text in _LEVELS[level]:
            sign = self.take()
            left = Node("binary", sign.text, (left, self.binary(level + 1)), sign.at)
            if sign.text in COMPARISONS and self.token.text in _LEVELS[level]:
                fail(self.text, self.token.at, "comparisons do not chain: write a < b && b < c")
        return left

    def unary(self) -> Node:
        if self.token.kind == "sign" and self.token.text in ("-", "+", "!", "~"):
            sign = self.take()
            return Node("unary", sign.text, (self.unary(),), sign.at)
        base = self.primary()
        at = self.token.at
        return Node("binary", "**", (base, self.unary()), at) if self.accept("**") else base

    def primary(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return Node("number", token.text, (), token.at)
        if token.kind == "name":
            if not self.accept("("):
                return Node("name", token.text, (), token.at)
            args = []
            if not self.accept(")"):
                args = [self.choice()]
                while self.accept(","):
                    args.append(self.choice())
                self.close(self.tokens[self.next - 1].at, token.at + len(token.text))
            return Node("call", token.text, tuple(args), token.at)
        if token.text == "(":
            inner = self.choice()
            self.close(token.at, token.at)
            return inner
        what = "the expression ends too early" if token.kind == "end" else f"a value is missing before {token.text!r}"
        fail(self.text, token.at, what)

    def close(self, _: int, opened: int) -> None:
        if self.accept(")"):
            return
        if self.token.kind == "end":
            fail(self.text, opened, "this parenthesis is not closed")
        fail(self.text, self.token.at, "an operator, a comma or a ')' is missing before this")


def parse(text: str) -> tuple[Node, ...]:
    """The trees of a text, one an output.

    Raises
    ------
    ExpressionError
        When the text is no list of expressions.
    """
    if not isinstance(text, str):
        raise TypeError(f"an expression is a string, such as 'a * sigmoid(b)', not {type(text).__name__}")
    return _Parser(text).list()


@dataclass(frozen=True)
class Names:
    """What the names in an expression stand for.

    Attributes
    ----------
    inputs : tuple of str
        Tensors in their order; in kernels they are called a, b, c ...
    masks : tuple of str
        Those of them that are true or false.
    scalars : mapping of str to type
        Numbers, by name: float, int or bool.
    helpers : str
        Kernel text that defines further functions, or the name of a file of such text: "special.cuh".
    """

    inputs: tuple[str, ...]
    masks: tuple[str, ...] = ()
    scalars: Mapping[str, type] | None = None
    helpers: str = ""

    def has_helper(self, name: str) -> bool:
        """True where they define a function of that name; a call of it does not."""
        text = helper_file(self.helpers) or self.helpers
        defined = rf"\b(?!(?:return|else)\b)\w+[>*&]*\s+[*&]?{re.escape(name)}\s*\("
        return bool(text and re.search(defined, text))


@functools.cache
def helper_file(name: str) -> str | None:
    """The text of a file of functions that helpers name, without its comments; None when they are text themselves.

    Raises
    ------
    ValueError
        When there is no such file.
    """
    if not re.fullmatch(r"\w+\.cuh", name):
        return None
    text = _C.kernel_text(name)
    if text is None:
        raise ValueError(f"preamble: flag_gems has no file {name}")
    return re.sub(r"//.*", "", text)


def names_in(trees: tuple[Node, ...], known: Collection[str] = ()) -> list[Node]:
    """The names that stand for values, each where it comes first, without those known and true and false."""
    found: dict[str, Node] = {}
    for tree in trees:
        for node in tree.walk():
            if node.kind == "name" and node.text not in known and node.text not in ("true", "false"):
                found.setdefault(node.text, node)
    return list(found.values())


def check(text: str, trees: tuple[Node, ...], names: Names) -> None:
    """Raises ExpressionError where a name or a function is not known, or has not the arguments it takes."""
    values = {*names.inputs, *(names.scalars or {}), "true", "false"}
    for tree in trees:
        for node in tree.walk():
            if node.kind == "name" and node.text not in values:
                what = "a function without its arguments" if functions.find(node.text) else "not known"
                near = difflib.get_close_matches(node.text, sorted(values), 1)
                hint = f"; did you mean {near[0]!r}?" if near and what == "not known" else ""
                fail(text, node.at, f"the name {node.text!r} is {what}{hint}")
            if node.kind != "call" or names.has_helper(node.text):
                continue
            function = functions.find(node.text)
            if function is None:
                near = difflib.get_close_matches(node.text, [*functions.FUNCTIONS, *functions.SAME], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                fail(text, node.at, f"the function {node.text!r} is not known{hint}")
            if function.arity != len(node.args):
                takes = f"{function.arity} argument{'s' * (function.arity != 1)}"
                fail(text, node.at, f"{node.text} takes {takes}, {len(node.args)} given")


def is_boolean(node: Node, names: Names) -> bool:
    """True when a value is true or false."""
    if node.kind == "name":
        scalars = names.scalars or {}
        return node.text in ("true", "false") or node.text in names.masks or scalars.get(node.text) is bool
    if node.kind == "call":
        function = functions.find(node.text)
        if function and node.text == "where":
            return is_boolean(node.args[1], names) and is_boolean(node.args[2], names)
        return bool(function and function.boolean)
    if node.kind == "choice":
        return is_boolean(node.args[1], names) and is_boolean(node.args[2], names)
    if node.kind == "binary":
        bits = node.text in ("&", "|", "^") and all(is_boolean(arg, names) for arg in node.args)
        return bits or node.text in COMPARISONS or node.text in LOGIC
    return node.kind == "unary" and (node.text == "!" or (node.text == "~" and is_boolean(node.args[0], names)))


def wants_floats(trees: tuple[Node, ...], names: Names) -> bool:
    """True when integers must become floats: for a division, a number with a point, or a function of floats."""
    for tree in trees:
        for node in tree.walk():
            function = functions.find(node.text) if node.kind == "call" else None
            real = node.kind == "number" and not node.text.isdigit()
            scalar = node.kind == "name" and (names.scalars or {}).get(node.text) is float
            if real or scalar or (function and function.floats) or (node.kind == "binary" and node.text == "/"):
                return True
    return False


class _Writer:
    """Trees as kernel text. wraps: after each step the value is brought back to the dtype, as integers need it."""

    def __init__(self, names: Names, wraps: bool) -> None:
        self.names, self.wraps = names, wraps
        self.places = {name: chr(ord("a") + i) for i, name in enumerate(names.inputs)}

    def step(self, text: str) -> str:
        return f"compute_t({text})" if self.wraps else f"({text})"

    def condition(self, node: Node) -> str:
        """The node as true or false."""
        if is_boolean(node, self.names):
            return self.raw(node)
        return f"({self.value(node)} != compute_t(0))"

    def value(self, node: Node) -> str:
        """The node in the dtype that is computed in."""
        if is_boolean(node, self.names):
            return f"compute_t({self.raw(node)})"
        return self.raw(node)

    def raw(self, node: Node) -> str:
        if node.kind == "number":
            return f"compute_t({node.text})" if node.text.isdigit() else node.text
        if node.kind == "name":
            if node.text in self.places:
                return self.places[node.text]
            whole = (self.names.scalars or {}).get(node.text) is int
            return f"compute_t({node.text})" if whole else node.text
        if node.kind == "call":
            return self.call(node)
        if node.kind == "choice":
            return self.pick(node)
        if node.kind == "unary":
            return self.unary(node)
        return self.binary(node)

    def pick(self, node: Node) -> str:
        both = is_boolean(node, self.names)
        yes, no = (self.raw(arg) if both else self.value(arg) for arg in node.args[1:])
        return f"({self.condition(node.args[0])} ? {yes} : {no})"

    def call(self, node: Node) -> str:
        if self.names.has_helper(node.text):
            return f"compute_t({node.text}({', '.join(map(self.value, node.args))}))"
        function = functions.find(node.text)
        assert function is not None
        if node.text == "where":
            return self.pick(node)
        args = [self.argument(arg) for arg in node.args]
        return function.kernel.format(*args)

    def argument(self, node: Node) -> str:
        """An argument has exactly the dtype computed in: templates look at it."""
        text = self.value(node)
        return text if node.kind in ("name", "call") or text.startswith("compute_t(") else f"compute_t({text})"

    def unary(self, node: Node) -> str:
        arg = node.args[0]
        if node.text == "!":
            return f"(!{self.condition(arg)})"
        if node.text == "~":
            return f"(!{self.raw(arg)})" if is_boolean(arg, self.names) else f"bit_not({self.argument(arg)})"
        return self.step(f"{node.text}{self.value(arg)}")

    def binary(self, node: Node) -> str:
        left, right = node.args
        if node.text in LOGIC:
            return f"({self.condition(left)} {node.text} {self.condition(right)})"
        if node.text in COMPARISONS:
            return f"({self.value(left)} {node.text} {self.value(right)})"
        if node.text in ("&", "|", "^") and is_boolean(node, self.names):
            return f"bool({self.raw(left)} {node.text} {self.raw(right)})"
        if node.text == "**" and right.kind == "number" and right.text in ("2", "3"):
            text = self.argument(left)
            if right.text == "2":
                return f"squared({text})"
        named = {
            "**": "power",
            "%": "mod_floor<false>",
            "//": "div_floor<false>",
            "<<": "shift_left",
            ">>": "shift_right",
        }
        if node.text in named:
            return f"{named[node.text]}({self.argument(left)}, {self.argument(right)})"
        return self.step(f"{self.value(left)} {node.text} {self.value(right)}")


def kernel_text(trees: tuple[Node, ...], names: Names, wraps: bool) -> str:
    """The expressions as kernel text over a, b, c ..., by commas."""
    writer = _Writer(names, wraps)
    return ", ".join(writer.raw(tree) for tree in trees)
