"""Calls a function at regular intervals in its own thread: the meter's poll, the heartbeat, the poll for stop requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def ignore(problem: Exception) -> None:
    """Drop an error; the next tick follows."""


class Periodic:
    """Calls `act()` every `every_s` seconds and soon after `wake()`, from `start()` to `close()`. Its errors go to `trouble`, and
    the next tick follows. `thread` and `event` can be passed in."""

    def __init__(
        self,
        act: Callable[[], object],
        every_s: float,
        trouble: Callable[[Exception], object] = ignore,
        *,
        thread: Callable[..., Any] = threading.Thread,
        event: Callable[[], Any] = threading.Event,
    ) -> None:
        self._act, self._every_s, self._trouble = act, every_s, trouble
        self._wake, self._closed = event(), event()
        self._thread = thread(target=self._follow, daemon=True)

    def start(self) -> Periodic:
        try:
            self._thread.start()
        except RuntimeError as e:  # no memory for another thread: go on without it
            self._trouble(e)
        return self

    def wake(self) -> None:
        """Tick soon, without waiting for it."""
        self._wake.set()

    def close(self, wait_s: float | None = 0) -> None:
        """No more ticks; waits `wait_s` (None: to its end) for the one under way."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    @property
    def closed(self) -> bool:
        return bool(self._closed.is_set())

    def pause(self, seconds: float) -> None:
        """A sleep for `act`, over as soon as this is closed."""
        self._closed.wait(seconds)

    def _follow(self) -> None:
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if self.closed:
                return
            try:
                self._act()
            except Exception as e:  # the next tick follows
                self._trouble(e)
