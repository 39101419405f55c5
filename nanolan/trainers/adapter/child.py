"""Runs a fork's process and reads its output; passes a stop on to the ranks."""

from __future__ import annotations

import codecs
import contextlib
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
MOST_LINE = 1 << 16  # without an end; the rest of such a line is another one
SHELLS = ("bash", "sh", "dash", "zsh")
REST_S = 10.0  # for the output that is left when the process has ended
LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")


class Lines:
    """Splits text that comes in pieces after each line end: \\n, \\r\\n, or a \\r that overwrites the line."""

    def __init__(self) -> None:
        self._begun: list[str] = []  # of a line without an end
        self._length = 0
        self._return = ""  # a \\r that may be the first half of \\r\\n

    def feed(self, text: str) -> list[str]:
        """The lines that this piece completes."""
        text = self._return + text
        self._return = "\r" if text.endswith("\r") else ""
        first, *others = LINE_END.split(text.removesuffix("\r"))
        whole = [*self._add(first)]
        for line in others:
            whole += [*self.end(), *self._add(line)]
        return whole

    def _add(self, text: str) -> list[str]:
        self._begun.append(text)
        self._length += len(text)
        return self.end() if self._length > MOST_LINE else []

    def end(self) -> list[str]:
        """The line that is not complete."""
        line, self._begun, self._length = "".join(self._begun), [], 0
        return [line] if line else []


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
        self.stopping = self._warned = False
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

    def kill(self) -> None:
        """SIGKILL to everything that it has started: nothing of it is worth saving."""
        try:
            family = [*psutil.Process(self._process.pid).children(recursive=True)]
        except psutil.Error:
            family = []
        for p in family:
            with contextlib.suppress(psutil.Error):
                p.kill()
        self._process.kill()

    def end(self) -> int:
        """Wait for the end and for the rest of the output; the exit code."""
        code = self._process.wait()
        self._reader.join(REST_S)  # a process that outlives its parent may hold the pipe open
        return code

    def _read(self) -> None:
        assert self._process.stdout  # noqa: S101  # a pipe, see Popen
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        lines = Lines()
        while data := os.read(self._process.stdout.fileno(), CHUNK):
            for text in lines.feed(decoder.decode(data)):
                self._take(text)
        for text in lines.feed(decoder.decode(b"", final=True)) + lines.end():
            self._take(text + "\n" * (not text.endswith("\n")))  # what follows is a line of its own

    def _take(self, text: str) -> None:
        """One line, or one that is overwritten by the next one: such a line is not printed."""
        if not text.endswith("\r"):
            sys.stdout.write(text)
            sys.stdout.flush()
        for part in parts_of(text):
            try:
                self._hear(part)
            except Exception as e:  # whatever it is: a pipe that is not read stops the training
                self._warn(f"{type(e).__name__}: {e}")

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stdout.write(f"adapter: warning: a line was not understood ({problem})\n")


def ranks_below(pid: int) -> list[psutil.Process]:
    """Who can save: the ranks that torchrun has started below a process, else the process, and what it runs if it is a shell."""
    try:
        top = psutil.Process(pid)
        ranks = [p for p in top.children(recursive=True) if _is_rank(p)]
        return ranks or [top, *_programs_of(top)]
    except psutil.Error:
        return []


def _programs_of(shell: psutil.Process) -> list[psutil.Process]:
    """The programs that a shell has started; their own workers get no signal, for a program fails without them."""
    if shell.name() not in SHELLS:
        return []
    found = []
    for p in shell.children():
        found += _programs_of(p) if p.name() in SHELLS else [p]
    return found


def _is_rank(p: psutil.Process) -> bool:
    try:
        parent = p.parent()
        inherited = parent is not None and "LOCAL_RANK" in parent.environ()
        return "LOCAL_RANK" in p.environ() and not inherited
    except psutil.Error:
        return False
