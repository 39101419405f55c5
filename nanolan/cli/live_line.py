"""Progress while a launch waits: at a terminal one line that is redrawn in place, elsewhere lines as they come."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

from nanolan.cli.run import say
from nanolan.redact import cursor_allowed, hide, printable

CLEAR = "\r\x1b[K"


class LiveLine:
    """Prints whole lines (`say`) and redraws one below them (`now`)."""

    def __init__(self, stream: Any, width: Callable[[], int]) -> None:
        self._stream, self._width = stream, width
        self._shown = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        say(text)

    def now(self, text: str) -> None:
        """Replace the line; what does not fit is cut."""
        line = printable(hide(" ".join(text.split())))[: self._width() - 1]
        self._write(f"{CLEAR}{line}")
        self._shown = True

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._write(CLEAR)
            self._shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def live_line() -> LiveLine | None:
    """The line of this terminal; None if stderr is none."""
    if not sys.stderr.isatty():
        return None
    return LiveLine(cursor_allowed(sys.stderr), lambda: shutil.get_terminal_size().columns)
