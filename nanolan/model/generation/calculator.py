"""The calculator that a model may call: safely evaluates its text between python_start and python_end.

Nothing is executed: the text is parsed, and only numbers, + - * / // %, brackets, and 'text'.count('text')
have a meaning here. There is no power, name, attribute or call besides, and every value is bounded, so the
longest expression allowed takes well under a millisecond.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable

MAX_CHARS = 256
MAX_DEPTH = 40  # nested nodes
MAX_NUMBER = 10**15  # in magnitude, of every intermediate value
MAX_DECIMALS = 10  # of a result: 0.1 + 0.2 is 0.3

ARITHMETIC = re.compile(r"[0-9+\-*/%.() ]+", re.ASCII)
Number = int | float
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class _NotForUs(Exception):
    """The expression is not supported, or a value is out of bounds."""


def calculate(expression: str) -> str | None:
    """The value of an expression as text, or None if it is not supported; never raises.

    Commas in numbers are dropped. A whole result is written without decimals even after a division,
    as the notes of GSM8K have it: 48/2 is 24.
    """
    if len(expression) > MAX_CHARS:
        return None
    expression = expression.strip()
    if "'" in expression or '"' in expression:
        if "\\" in expression:
            return None
    else:
        expression = expression.replace(",", "")
        if not ARITHMETIC.fullmatch(expression):
            return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hides warnings such as "invalid decimal literal"
            tree = ast.parse(expression, mode="eval")
        return _text(_number(tree.body, MAX_DEPTH))
    except (_NotForUs, SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None


def _number(node: ast.expr, depth: int) -> Number:
    """The bounded value of a node with at most `depth` nested nodes."""
    if depth == 0:
        raise _NotForUs
    value: Number
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and type(node.value) is not bool
    ):
        value = node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        value = BINARY[type(node.op)](_number(node.left, depth - 1), _number(node.right, depth - 1))
    elif isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        value = UNARY[type(node.op)](_number(node.operand, depth - 1))
    else:
        value = _count(node)
    if not abs(value) <= MAX_NUMBER:  # also refuses nan
        raise _NotForUs
    return value


def _count(node: ast.expr) -> int:
    """The value of 'text'.count('text')."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="count"),
            args=[ast.Constant(value=str(part))],
            keywords=[],
        ):
            return text.count(part)
    raise _NotForUs


def _text(value: Number) -> str:
    value = round(value, MAX_DECIMALS)
    if value == math.trunc(value):
        return str(int(value))
    return f"{value:.{MAX_DECIMALS}f}".rstrip("0")
