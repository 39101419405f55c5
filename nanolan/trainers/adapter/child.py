"""Runs a fork's process and reads its output; passes a stop on to the ranks."""

from __future__ import annotations

import codecs
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from nanolan.trainers.adapter.output import parts_of

CHUNK = 1 << 16
MOST_LINE = 1 << 20  # without an end; the rest of such a line is another one


class Child:
    """A started process: its output goes to stdout line by line, and each part to `hear`."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        hear: Callable[[str], None],
    ) -> None:
        self._hear = hear
        self.stopping = False
        self._process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM to the ranks; torchrun itself gets none, for it would kill them 30 s later."""
        self.stopping = True
        for p in ranks_below(self._process.pid):
            try:
                p.send_signal(signal.SIGTERM)
            except psutil.Error:
                continue

    def end(self) -> int:
        """Wait for the end and for the rest of the output; the exit code."""
        code = self._process.wait()
        self._reader.join(10)  # a process that outlives its parent may hold the pipe open
        return code

    def _read(self) -> None:
        assert self._process.stdout  # noqa: S101  # a pipe, see Popen
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while data := os.read(self._process.stdout.fileno(), CHUNK):
            *whole, rest = re.split(r"(?<=[\r\n])", rest + decoder.decode(data))
            if len(rest) > MOST_LINE:
                whole, rest = [*whole, rest], ""
            for text in whole:
                self._take(text)
        self._take(rest)

    def _take(self, text: str) -> None:
        """One line, or one part of a line that a carriage return overwrites: of the latter nothing is printed."""
        if not text.endswith("\r"):
            sys.stdout.write(text)
            sys.stdout.flush()
        for part in parts_of(text):
            self._hear(part)


def ranks_below(pid: int) -> list[psutil.Process]:
    """The ranks that torchrun has started below a process; the process itself where there are none."""
    try:
        top = psutil.Process(pid)
        return [p for p in top.children(recursive=True) if _is_rank(p)] or [top]
    except psutil.Error:
        return []


def _is_rank(p: psutil.Process) -> bool:
    try:
        parent = p.parent()
        inherited = parent is not None and "LOCAL_RANK" in parent.environ()
        return "LOCAL_RANK" in p.environ() and not inherited
    except psutil.Error:
        return False
