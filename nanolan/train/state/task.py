"""A piece of a save that runs in a thread of its own, beside the training."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nanolan.checkpoint.manifest import Cancelled

GIVEN_UP = "given up"


class Task:
    """Runs `act` in a thread, or at once if not `beside`. The thread is waited for when the program ends.

    `act` gets a function that says whether to give up; it may raise Cancelled then.
    """

    def __init__(self, act: Callable[[Callable[[], bool]], None], *, beside: bool) -> None:
        self.problem = ""  # what went wrong
        self._cancelled = threading.Event()
        self._act = act
        self._thread = threading.Thread(target=self._run, name="save") if beside else None
        if self._thread:
            self._thread.start()
        else:
            self._run()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def cancel(self) -> None:
        """Ask it to give up."""
        self._cancelled.set()

    def wait(self) -> None:
        """Wait for its end."""
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._act(self._cancelled.is_set)
        except Cancelled:
            self.problem = GIVEN_UP
        except Exception as e:  # a save that fails is a warning, whatever it raises
            self.problem = f"{type(e).__name__}: {e}"
