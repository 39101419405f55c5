"""Python source read with `ast`, never run: parsing, constant expressions, assignments, calls."""

from __future__ import annotations

import ast
import io
import operator
import sys
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nanolan.errors import UsageProblem

Version = tuple[int, int]  # of Python
SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
SIGNS: dict[type, Callable[[object], object]] = {
    ast.USub: operator.neg,  # type: ignore[dict-item]
    ast.UAdd: operator.pos,  # type: ignore[dict-item]
    ast.Not: operator.not_,
}
ARITHMETIC: dict[type, Callable[[object, object], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}
BIGGEST_BASE, BIGGEST_POWER = (
    2**32,
    64,
)  # beyond these nothing is calculated: 9**9**9 would never end


@dataclass(frozen=True)
class Expression:
    """A value that only a run of the script would tell: its source text."""

    text: str


@dataclass(frozen=True)
class Binding:
    """What a name was assigned: a constant or an Expression, and its type if that is certain."""

    value: object
    type: type | None


def parse(source: str, where: str, python: Version | None = None) -> ast.Module:
    """The syntax tree; UsageProblem with file and line for what `python` or this Python cannot read."""
    mine = sys.version_info[:2]
    version = min(python or mine, mine)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a fork's string is not our business
            tree = ast.parse(source.removeprefix("\ufeff"), feature_version=version)
        line = _newer_f_string(source.removeprefix("\ufeff")) if version < (3, 12) <= mine else None
        if line:
            raise SyntaxError("f-string that needs Python 3.12", ("", line, 0, ""))
        return tree
    except SyntaxError as e:
        newer = python and f"; {where} is for Python {_dotted(python)}: run nanolan with that"
        hint = newer if python and python > mine else ""
        message = f"not valid in Python {_dotted(version)}: {e.msg}{hint}"
        raise UsageProblem(f"{where} line {e.lineno}: {message}") from None
    except ValueError as e:
        raise UsageProblem(f"{where} is not Python source: {e}") from None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _newer_f_string(source: str) -> int | None:
    """The line of an f-string with its own quotes, a backslash, a comment or a line end in braces."""
    quotes: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        around = quotes[:-1] if kind in ("FSTRING_MIDDLE", "FSTRING_END") else quotes
        if around and (kind == "COMMENT" or "\\" in token.string):
            return token.start[0]
        one_line = any(len(quote) == 1 for quote in around)
        if any(quote in token.string for quote in around) or (one_line and "\n" in token.string):
            return token.start[0]
        if kind == "FSTRING_START":
            quotes.append(token.string.lstrip("rRfF"))
        elif kind == "FSTRING_END":
            quotes.pop()
    return None


def value_of(node: ast.expr, names: Mapping[str, object]) -> object:
    """The value of a constant expression, or an Expression."""
    try:
        return _constant(node, names)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return Expression(ast.unparse(node))


def _constant(node: ast.expr, names: Mapping[str, object]) -> object:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if not isinstance(names[node.id], Expression):
            return names[node.id]
        case ast.UnaryOp():
            return SIGNS[type(node.op)](_constant(node.operand, names))
        case ast.BinOp():
            return _calculated(node, _constant(node.left, names), _constant(node.right, names))
        case ast.Tuple() | ast.List():
            return tuple(_constant(item, names) for item in node.elts)
    raise ValueError("not a constant")


def _calculated(node: ast.BinOp, left: object, right: object) -> object:
    if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add):
        return left + right
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise TypeError("not numbers")
    large = abs(left) > BIGGEST_BASE or abs(right) > BIGGEST_POWER
    if large and isinstance(node.op, ast.Pow | ast.LShift):
        raise ValueError("too large")
    return ARITHMETIC[type(node.op)](left, right)


def type_of(node: ast.expr, value: object) -> type | None:
    """bool, int, float or str, as far as the source tells."""
    if not isinstance(value, Expression):
        return type(value) if type(value) in SCALARS.values() else None
    match node:
        case ast.JoinedStr():
            return str
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return bool
        case ast.Call(func=ast.Name(id=name)):
            return SCALARS.get(name)
    return None


def bindings(body: Iterable[ast.stmt]) -> dict[str, Binding]:
    """What each name is bound to after these statements; a name bound in a branch has no certain value."""
    bound: dict[str, Binding] = {}
    names: dict[str, object] = {}
    for statement, certain in _statements(body, True):
        for name, node in _targets(statement):
            value = value_of(node, names)
            kind = type_of(node, value)
            if not certain:
                kind = kind if name not in bound or bound[name].type is kind else None
                value = Expression(ast.unparse(node))
            names[name] = value
            bound[name] = Binding(value, kind)
    return bound


def _statements(body: Iterable[ast.stmt], certain: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements in order, those of branches and loops too, but none of functions and classes."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        yield statement, certain
        for field in ("body", "handlers", "cases", "orelse", "finalbody"):
            yield from _statements(getattr(statement, field, ()), False)


def _targets(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    match statement:
        case ast.Assign():
            for target in statement.targets:
                yield from _pairs(target, statement.value)
        case ast.AnnAssign(value=ast.expr() as value):
            yield from _pairs(statement.target, value)
        case ast.AugAssign(target=ast.Name(id=name)):
            before = ast.Name(id=name, ctx=ast.Load())
            yield name, ast.BinOp(left=before, op=statement.op, right=statement.value)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """`a, b = 1, 2` as (a, 1) and (b, 2); `a, b = f()` as (a, f()[0]) and (b, f()[1])."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List):
        parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
        for n, item in enumerate(target.elts):
            part = ast.Subscript(value=value, slice=ast.Constant(value=n), ctx=ast.Load())
            yield from _pairs(item, parts[n] if len(parts) == len(target.elts) else part)


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    """The calls of functions or methods with one of these names, in the order of the source."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and last_name(n.func) in names]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def mentions(statement: ast.stmt, word: str) -> bool:
    """Whether a string or an import of this statement has the word in it; a docstring does not count."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    for node in ast.walk(statement):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and word in node.value:
            return True
        if isinstance(node, ast.Import | ast.ImportFrom) and word in ast.unparse(node):
            return True
    return False


def last_name(node: ast.expr | None) -> str:
    """`c` of `a.b.c`, and of `c`; "" for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
