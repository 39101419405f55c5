"""Ways a run ends early: SIGTERM sets a flag that ranks agree on; a rank whose parent dies ends at once. Imports no torch."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

POLL_S = 0.5


class StopFlag:
    """Within `with`, SIGTERM sets `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopFlag:
        self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)


def tell_stacks() -> None:
    """Print the stacks of all threads to stderr at SIGUSR1, also inside a hung collective."""
    if (
        sys.__stderr__ is not None
    ):  # the real stderr: a test's replacement may have no file descriptor
        faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)


def follow_parent() -> None:
    """Under torchrun: exit within a second of its death. Ranks are in sessions of their own, so nothing else
    would end them, and they would hold the GPUs and train on."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        follow(os.getppid())


def follow(parent: int) -> None:
    """Exit within a second of the death of `parent`, this process's parent."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
