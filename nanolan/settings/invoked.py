"""How the user calls the commands. Every text of nanolan says `just ...`; for who has typed `nanolan ...` or `./just ...` a
stream says that instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VARIABLE = "NANOLAN_COMMAND"  # set by nanolan/cli/installed.py and ./just
JUST = "just"
NAMES = (JUST, "./just", "nanolan")
RECIPE = re.compile(r"^([a-z][a-z-]*)(?: \*args)?:(?!=)", re.M)


def invoked(environ: Mapping[str, str] = os.environ) -> str:
    """What the user types before the name of a recipe."""
    name = environ.get(VARIABLE, "")
    return name if name in NAMES else JUST


def recipe_names() -> list[str]:
    """The recipes of the justfile."""
    return RECIPE.findall((Path(__file__).parents[2] / "justfile").read_text(encoding="utf-8"))


class AsInvoked:
    """A text stream that writes `nanolan resume` for `just resume` to the stream behind it."""

    def __init__(self, behind: Any, name: str, recipes: Iterable[str]) -> None:
        self._behind, self._name = behind, name
        self._advice = re.compile(rf"(?<![\w./-])just(?= (?:{'|'.join(recipes)})(?![\w-]))")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def write(self, text: str) -> int:
        self._behind.write(self._advice.sub(self._name, text))
        return len(text)


def as_invoked(stream: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """The stream for texts that name commands."""
    name = invoked(environ)
    return stream if name == JUST or stream is None else AsInvoked(stream, name, recipe_names())
