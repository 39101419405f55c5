"""Shared by tests/scripts/test_launch*.py."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import World
from tests.support.core_fixtures import (
    script,
)
from tests.support.launch_fixtures import progress, tell

KEYS = ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")


TRIO = ("cloud=datacrunch", "region=FIN-01", "instance-type=B200_sxm6x8")


CANARIES = {"SHADEFORM_API_KEY": f"{MARKER}+sf/{TWIST}", "WANDB_API_KEY": f"{MARKER}+wb/{TWIST}"}


def entries(world: World) -> list[Entry]:
    return Ledger(world.root / "nanolan-home").entries()


def launch(world: World, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A launch that does not wait for its machine, which in this world runs no script."""
    return script("launch", "--no-wait", *words, env=world.env() | env)


@contextmanager
def boxes_that_train(world: World) -> Iterator[None]:
    """While a launch waits: every run's newest attempt trains."""
    over = threading.Event()

    def play() -> None:
        while not over.wait(0.1):
            for entry in entries(world):
                if entry.instance_id and not entry.gone:
                    tell(world, entry.plan, progress("training"))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def commits(world: World, seen: int) -> list[str]:
    """What was sent to the Hub to be kept since its log had `seen` lines."""
    return [
        h["path"] for h in world.hub.log[seen:] if h["method"] != "GET" and h["method"] != "HEAD"
    ]


class Terminal:
    """A command at a terminal: what it shows so far, and what the user types."""

    def __init__(self, env: dict[str, str], *words: str, name: str = "launch") -> None:
        self.end, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / f"scripts/{name}.py"), *words],
            env=env,
            cwd=ROOT,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.text = ""

    def expect(self, part: str, timeout_s: float = 30) -> None:
        start = len(self.text)
        self._read_until(lambda: part in self.text[start:], timeout_s)

    def expect_question(self, text: str, timeout_s: float = 30) -> None:
        """Wait until it has asked this and waits for the answer."""
        self._read_until(lambda: self.text.endswith(text), timeout_s)

    def _read_until(self, shown: Callable[[], bool], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not shown():
            assert time.monotonic() < end, self.text
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.end, 65536).decode()
                except OSError:  # Linux: the other side is closed
                    assert shown(), self.text
                    return

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def close(self) -> int:
        try:
            while select.select([self.end], [], [], 20)[0] and (data := os.read(self.end, 65536)):
                self.text += data.decode()
        except OSError:
            pass
        finally:
            os.close(self.end)
            code = self.process.wait(20)
        return code
