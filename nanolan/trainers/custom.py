"""The phases that a checkout declares itself, in its pyproject.toml:

    [tool.nanolan]
    evaluation = "scripts.chat_eval"                 # optional: a module that prints "TASK accuracy: 12.34%"

    [tool.nanolan.phases.agent_rl]
    module = "scripts.agent_rl"                      # or: command = "bash train.sh"
    input = "chatsft_checkpoints"                    # folder that it reads, in HF_REPO and in its base folder
    output = "agentrl_checkpoints"                   # folder that it writes
    title = "Tool use"                               # optional
    arguments = ["--num-epochs=1"]                   # optional, of a module

A command gets NANOCHAT_BASE_DIR with input/TAG/ in it, and NANOLAN_GPUS; it leaves output/ANY/model_SSSSSS.pt and meta.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nanolan.errors import UsageProblem
from nanolan.phases import Phase
from nanolan.trainers.source import PYPROJECT, pyproject_of

WHERE = f"{PYPROJECT} of the checkout of trainer="
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
MODULE = re.compile(r"(?=.{1,100}\Z)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
RESERVED = (
    "runs",
    "logs",
    "tokenizer",
    "task_data",
)  # folders of HF_REPO and of a base folder with another use
MOST_TITLE = 80
EXAMPLE = 'module = "scripts.NAME" (or command = "..."), input = "..._checkpoints", output = "..._checkpoints"'


class DeclaredPhase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table [tool.nanolan.phases.NAME]."""

    input: str
    output: str
    module: str = ""
    command: str = ""
    title: str = ""
    arguments: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table [tool.nanolan]."""

    phases: dict[str, DeclaredPhase]
    evaluation: str = ""


@dataclass(frozen=True)
class Declared:
    """What a checkout declares."""

    phases: dict[str, Phase]
    evaluation: str


def read_declared(root: Path) -> Declared | None:
    """The declaration in the checkout at `root`; None if it has none. UsageProblem names what is wrong in it."""
    if not (root / PYPROJECT).is_file():
        return None
    where = f"{WHERE}, [tool.nanolan]"
    table = _table(root)
    if table is None:
        return None
    try:
        found = msgspec.convert(table, Table)
    except (msgspec.ValidationError, RecursionError) as e:
        raise UsageProblem(f"{where}: {e}. A phase has {EXAMPLE}") from None
    if not found.phases:
        raise UsageProblem(f"{where} declares no phase. A phase has {EXAMPLE}")
    _check(found.evaluation == "" or MODULE.fullmatch(found.evaluation), where, "evaluation")
    phases = {n: _phase(n, p, f"{where}, phase {n[:40]!r}") for n, p in found.phases.items()}
    outputs = [p.output_dir.lower() for p in phases.values()]
    _check(len(set(outputs)) == len(outputs), where, "an output of two phases")
    return Declared(phases, found.evaluation)


def _table(root: Path) -> Any:
    tool = pyproject_of(root).get("tool", {})
    return tool.get("nanolan") if isinstance(tool, dict) else None


def _phase(name: str, p: DeclaredPhase, where: str) -> Phase:
    _check(NAME.fullmatch(name) and name != "all", where, "its name")
    _check(FOLDER.fullmatch(p.input), where, "input")
    _check(FOLDER.fullmatch(p.output) and p.output.lower() not in RESERVED, where, "output")
    _check(p.output.lower() != p.input.lower(), where, "output, which is its input")
    _check(p.title.isprintable() and len(p.title) <= MOST_TITLE, where, "title")
    _check("\0" not in "".join((p.command, *p.arguments)), where, "a NUL character")
    _check(not p.module or MODULE.fullmatch(p.module), where, "module")
    if bool(p.module) == bool(p.command.strip()):
        raise UsageProblem(f"{where}: give a module or a command, one of them")
    if p.command and p.arguments:
        raise UsageProblem(f"{where}: arguments belong to a module; write them into the command")
    return Phase(
        name, p.title or name, p.input, p.output, (), p.module, p.command, tuple(p.arguments)
    )


def _check(good: Any, where: str, what: str) -> None:
    if not good:
        raise UsageProblem(f"{where}: {what} is not usable. A phase has {EXAMPLE}")
