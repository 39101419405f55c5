"""Finds the error that ended a script, in the mixed output of all its ranks. Pure.

Under torchrun the last traceback is never the cause: the other ranks fail because one did, and torchrun itself raises
ChildFailedError. The cause is the last error of its own of the rank that failed first.
"""

from __future__ import annotations

import re

MOST_TEXT = 300
RANK = re.compile(r"^(?:\[(?:rank|default)(\d{1,6})\]:\s?)+")
TRACEBACK = "Traceback (most recent call last):"
CAUSED = "The above exception was the direct cause"
NAME = r"[A-Za-z_][\w.]{0,200}"
ENDINGS = "Error|Exception|Interrupt|Exit|Timeout|StopIteration"
ERROR = re.compile(rf"^(?:{NAME})?(?:{ENDINGS})(?::\s.*|:)?$")
IN_TRACEBACK = re.compile(rf"^(?:{NAME}\.)?[A-Z]\w{{0,100}}:(?:\s.*)?$")  # such as ArrowInvalid
# No exceptions: argparse, the watchdog of NCCL, torchrun's summary of a rank that was killed
OTHERS = re.compile(
    r"^[\w./-]{1,200}: error: .*|Watchdog caught collective operation timeout.*"
    r"|(?<=traceback : )Signal \d+ \(SIG(?!TERM)\w+\).*"
)
# Of a rank whose partner is gone, and of torchrun
CONSEQUENCE = re.compile(
    r"ChildFailedError|SignalException|DistNetworkError|DistStoreError|Broken ?pipe"
    r"|connection (was )?(closed|reset|refused)|socket (has )?timed? ?out|ncclRemoteError"
    r"|remote process exited|caused pair closure",
    re.I,
)


class RankOutput:
    """The tracebacks of one rank."""

    def __init__(self) -> None:
        self._inside = False  # a traceback has begun
        self._unfinished = False  # the newest error goes on in the next line
        self._error = self._before = ""  # the newest error, and the one that caused the next one

    def error_in(self, text: str) -> str:
        """The error that a line names, "" if it names none."""
        if text.endswith(TRACEBACK):
            self._inside, self._unfinished = True, False
        elif text.startswith(CAUSED):
            self._before = self._error
        elif self._unfinished:
            self._unfinished = False
            self._error = f"{self._error} {text.strip()}"[:MOST_TEXT]
            return self._error
        elif ERROR.match(text) or self._inside and IN_TRACEBACK.match(text):
            return self._note(text)
        return ""

    def _note(self, text: str) -> str:
        self._unfinished = text.endswith(":") and " " in text  # "RuntimeError: Error(s) in ...:"
        after = f" (after {self._before})" if self._before else ""
        self._error = f"{text.removesuffix(':') if ' ' not in text else text}{after}"[:MOST_TEXT]
        self._inside, self._before = False, ""
        return self._error


class Failures:
    """The errors of all ranks."""

    def __init__(self) -> None:
        self._ranks: dict[str, RankOutput] = {}
        self._own: dict[str, str] = {}  # rank -> its newest; in the order of their first ones
        self._consequence = ""

    @property
    def cause(self) -> str:
        """The error that ended the script, "" if none was printed."""
        return next(iter(self._own.values()), self._consequence)

    def read(self, rank: str, text: str) -> None:
        """One line of a rank, "" if it was not named."""
        error = self._ranks.setdefault(rank, RankOutput()).error_in(text)
        if error and CONSEQUENCE.search(error):
            self._consequence = self._consequence or error
        elif error:
            self._own[rank] = error
        elif found := OTHERS.search(text):
            self._own.setdefault(rank, found[0][:MOST_TEXT])
