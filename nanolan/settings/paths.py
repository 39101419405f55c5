"""Paths that a user types are relative to the folder where the command was typed; `just` itself runs in the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CALLED_FROM = "NANOLAN_CALLED_FROM"  # set by the justfile


def typed(path: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path for a typed one; ~ is expanded."""
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # ~ and the name of nobody here
        path = Path(path)
    return Path(environ.get(CALLED_FROM) or "", path).absolute()


def nanolan_home(environ: Mapping[str, str] = os.environ) -> Path:
    """NANOLAN_HOME, or ~/.nanolan."""
    return Path(environ.get("NANOLAN_HOME") or Path.home() / ".nanolan")
