"""The marks of checks, in colour on a terminal: what failed is red, what was not checked or is a note yellow."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from nanolan.redact import cursor_allowed, printable

MARK = re.compile(r"  \[ *(FAILED|note|--) *\]")
COLOURS = {"FAILED": "\x1b[1;31m", "note": "\x1b[33m", "--": "\x1b[33m"}
PLAIN = "\x1b[0m"


def has_colour(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether colours may be written to a stream: a terminal that knows them, of a user who has not set NO_COLOR."""
    return bool(
        stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"
    )


def coloured(line: str) -> str:
    """A line without control characters, its mark in colour."""
    text = printable(line)
    if not (found := MARK.match(text)):
        return text
    return f"{text[:2]}{COLOURS[found[1]]}{text[2 : found.end()]}{PLAIN}{text[found.end() :]}"


def say_checks(text: str, stream: Any = None) -> None:
    """Write lines that may begin with a mark; to stderr unless another stream is given."""
    stream = stream or sys.stderr
    if has_colour(stream):
        stream, text = cursor_allowed(stream), "\n".join(map(coloured, text.split("\n")))
    stream.write(f"{text}\n")
    stream.flush()
