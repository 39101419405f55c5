"""The recipes of the justfile, and the click commands of their scripts, as data."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass

import click

from nanolan.settings.settings import ROOT

RECIPE = re.compile(
    r"^# (?P<help>.+)\n\[group\('(?P<group>[a-z]+)'\)\]\n(?:\[[a-z-]+\]\n)*"
    r"(?P<name>[a-z-]+)(?P<args> \*args)?:.*\n    @(?P<command>.+)$",
    re.M,
)


@dataclass(frozen=True)
class Recipe:
    """One recipe."""

    name: str
    group: str
    help: str
    command: str  # the shell command; "$@" stands for the arguments

    @property
    def script(self) -> str | None:
        """The name of its script without folder and extension; None if it runs something else."""
        found = re.match(r"\{\{python\}\} scripts/(\w+)\.py\b", self.command)
        return found[1] if found else None


def recipes(justfile: str) -> list[Recipe]:
    """Every public recipe, in the file's order."""
    return [
        Recipe(m["name"], m["group"], m["help"], m["command"]) for m in RECIPE.finditer(justfile)
    ]


def command_of(script: str) -> click.Command:
    """The click command that a script defines."""
    sys.path.insert(0, str(ROOT / "scripts"))
    module = importlib.import_module(script)
    return next(
        c
        for c in vars(module).values()
        if isinstance(c, click.Command) and c.callback and c.callback.__module__ == script
    )
