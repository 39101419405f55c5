"""How far a transfer is: on a terminal a bar with rate and time left, elsewhere a line now and then, for a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from nanolan.redact import cursor_allowed

DRAW_S = 0.5  # between two looks at the number of bytes
LINE_S = 10.0  # a log has no line before, and never two within this time
STEP = 0.1  # part of the size that a line is worth
LONGEST_S = 60.0  # a line comes at least so often, however little has arrived


@contextmanager
def transfer_bar(
    what: str,
    size: int,
    done: Callable[[], int],
    say: Callable[[str], None],
    *,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
    every_s: float = DRAW_S,
) -> Iterator[None]:
    """Show how many of `size` bytes are `done()` while the block runs. `terminal` None: whether stderr is one.

    In a log nothing is said of a transfer that is over in ten seconds.
    """
    drawn = sys.stderr.isatty() if terminal is None else terminal
    start = clock()
    log = LogLines(what, size, min(done(), size))
    draw, close = _drawn(what, size) if drawn else (None, lambda: None)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            if draw:
                draw(min(done(), size))
            elif line := log.line(min(done(), size), clock() - start):
                say(line)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join()
        if draw:
            draw(size)
    finally:
        over.set()
        thread.join()
        close()


def _drawn(what: str, size: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(file=cursor_allowed(sys.stderr), highlight=False),
    )
    bar.start()
    task = bar.add_task(what, total=size)
    return lambda n: bar.update(task, completed=n), bar.stop


class LogLines:
    """The lines of one transfer of `size` bytes, of which `before` were there at its start."""

    def __init__(self, what: str, size: int, before: int) -> None:
        self._what, self._size, self._before = what, size, before
        self._said_s, self._said_bytes = 0.0, before

    def line(self, done: int, seconds: float) -> str:
        """The line that is due `seconds` after the start, or ""."""
        quiet_s = seconds - self._said_s
        little = done - self._said_bytes < STEP * self._size
        if quiet_s < LINE_S or (little and self._said_s and quiet_s < LONGEST_S):
            return ""
        self._said_s, self._said_bytes = seconds, done
        return f"  {self._what}: {progress_text(done, self._before, self._size, seconds)}"


def progress_text(done: int, before: int, size: int, seconds: float) -> str:
    """ "412 of 1,004 MB (41%), 27.4 MB/s, 0:00:22 left"; without a rate while nothing has arrived."""
    text = f"{done / 1e6:,.0f} of {size / 1e6:,.0f} MB ({done / max(size, 1):.0%})"
    rate = (done - before) / seconds if seconds > 0 else 0.0
    if rate <= 0:
        return text
    left = timedelta(seconds=round((size - done) / rate))
    return f"{text}, {rate / 1e6:,.1f} MB/s, {left} left"
