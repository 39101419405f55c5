"""Paths that a user types: they count from the folder where the command was typed, while `just` works in the checkout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CALLED_FROM = "NANOLAN_CALLED_FROM"  # set by the justfile


def typed(path: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """A path as it was typed, made absolute; ~ is expanded."""
    return Path(environ.get(CALLED_FROM) or "", Path(path).expanduser()).absolute()
