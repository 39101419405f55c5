"""Which checkpoints a script reads and writes, from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from nanolan.trainers.scripts.syntax import Binding, bindings, calls, last_name, value_of


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
                found += re.findall(r"^(\w+_checkpoints)_dir$", name)
                waiting += assigned.get(name, [])
    return found
