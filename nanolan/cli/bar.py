"""How far a transfer is: on a terminal a bar with rate and time left, elsewhere a line now and then, for a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from nanolan.redact import cursor_allowed

LINE_S = 15.0  # between two lines of a log
DRAW_S = 0.5


@contextmanager
def transfer_bar(
    what: str,
    size: int,
    done: Callable[[], int],
    say: Callable[[str], None],
    *,
    terminal: bool | None = None,
    every_s: float | None = None,
) -> Iterator[None]:
    """Show how many of `size` bytes are `done()` while the block runs. `terminal` None: whether stderr is one."""
    drawn = sys.stderr.isatty() if terminal is None else terminal
    show, close = _drawn(what, size) if drawn else _lines(what, size, say)
    over = threading.Event()
    pause_s = every_s or (DRAW_S if drawn else LINE_S)

    def watch() -> None:
        while not over.wait(pause_s):
            show(min(done(), size))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join()
        if drawn:
            show(size)
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


def _lines(
    what: str, size: int, say: Callable[[str], None]
) -> tuple[Callable[[int], None], Callable[[], None]]:
    begun = time.monotonic()
    first: list[int] = []  # bytes that were there before

    def show(n: int) -> None:
        first[:] = first or [n]
        say(f"  {what}: {progress_text(n, first[0], size, time.monotonic() - begun)}")

    return show, lambda: None


def progress_text(done: int, before: int, size: int, seconds: float) -> str:
    """ "412 of 1,004 MB (41%), 27.4 MB/s, 0:00:22 left"; without a rate while nothing has arrived."""
    text = f"{done / 1e6:,.0f} of {size / 1e6:,.0f} MB ({done / max(size, 1):.0%})"
    rate = (done - before) / seconds if seconds > 0 else 0.0
    if rate <= 0:
        return text
    left = timedelta(seconds=round((size - done) / rate))
    return f"{text}, {rate / 1e6:,.1f} MB/s, {left} left"
