"""Paths that a user types are relative to the folder where the command was typed; `just` itself runs in the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nanolan.errors import UsageProblem

CALLED_FROM = "NANOLAN_CALLED_FROM"  # set by the justfile


def typed(path: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path for a typed one; ~ is expanded."""
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # ~ and the name of nobody here
        path = Path(path)
    return Path(environ.get(CALLED_FROM) or "", path).absolute()


def nanolan_home(environ: Mapping[str, str] = os.environ) -> Path:
    """NANOLAN_HOME, or ~/.nanolan. UsageProblem for a relative one: each folder would have a ledger of its own."""
    named = environ.get("NANOLAN_HOME")
    if not named:
        return Path.home() / ".nanolan"
    home = typed(named, {CALLED_FROM: "/"}) if named.startswith("~") else Path(named)
    if not home.is_absolute():
        raise UsageProblem(
            f"NANOLAN_HOME={named} is a relative path: the runs would be recorded in another place for each folder. "
            "Make it an absolute path"
        )
    return home
