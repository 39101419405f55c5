"""Python source read with `ast`, never run: constant expressions, assignments, checkpoint folders."""

from __future__ import annotations

import ast
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nanolan.errors import UsageProblem

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
BIGGEST_POWER = 64  # larger exponents and shifts are left alone: 9**9**9 would never end


@dataclass(frozen=True)
class Expression:
    """A value that only a run of the script would tell: its source text."""

    text: str


@dataclass(frozen=True)
class Binding:
    """What a name was assigned: a constant or an Expression, and its type if that is certain."""

    value: object
    type: type | None


def parse(source: str, where: str) -> ast.Module:
    """The syntax tree; UsageProblem with file and line for what this Python cannot read."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a fork's string is not our business
            return ast.parse(source.removeprefix("\ufeff"))
    except SyntaxError as e:
        raise UsageProblem(f"{where} line {e.lineno}: not valid in {python}: {e.msg}") from None
    except ValueError as e:
        raise UsageProblem(f"{where} is not Python source: {e}") from None


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
    if isinstance(node.op, ast.Pow | ast.LShift) and max(abs(left), abs(right)) > BIGGEST_POWER:
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


def last_name(node: ast.expr | None) -> str:
    """`c` of `a.b.c`, and of `c`; "" for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def checkpoints_read(tree: ast.Module, defaults: Mapping[str, object]) -> tuple[str, ...]:
    """The sources that `load_model` gets: a string, or the default of the option that is passed on."""
    local = {name: b.value for s in ast.walk(tree) for name, b in _local_bindings(s).items()}
    names = {**local, **defaults}
    found: list[object] = []
    for call in calls(tree, "load_model"):
        given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "source")]
        for node in given[:1]:
            branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
            found += [names.get(last_name(b), value_of(b, names)) for b in branches]
    return tuple(dict.fromkeys(source for source in found if isinstance(source, str)))


def _local_bindings(node: ast.AST) -> dict[str, Binding]:
    return bindings(node.body) if isinstance(node, ast.FunctionDef | ast.Module) else {}


def checkpoints_written(tree: ast.Module) -> tuple[str, ...]:
    """The `*_checkpoints` folders in what `save_checkpoint` (or else `torch.save`) gets."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(last_name(target), []).append(node.value)
    saves = calls(tree, "save_checkpoint") or calls(tree, "save")
    waiting: list[ast.AST] = [a for call in saves for a in [*call.args, *call.keywords]]
    found = _folders(waiting, assigned)
    if saves and not found:  # passed in by a function's parameter
        found = _folders([tree], {})
    return tuple(dict.fromkeys(found))


def _folders(waiting: list[ast.AST], assigned: dict[str, list[ast.expr]]) -> list[str]:
    found: list[str] = []
    seen: set[str] = {""}
    while waiting:
        for node in ast.walk(waiting.pop(0)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += re.findall(r"(?<![\w-])\w+_checkpoints(?![\w-])", node.value)
            elif isinstance(node, ast.expr) and (name := last_name(node)) not in seen:
                seen.add(name)
                waiting += assigned.get(name, [])
    return found
