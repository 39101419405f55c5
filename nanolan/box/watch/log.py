"""Reads the training log for upload: whole, or what is new in numbered parts. Masked, and in whole lines: half a line may hold
half a secret, which no mask recognises.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nanolan.files import try_write_atomic
from nanolan.plan import Plan
from nanolan.redact import Mask
from nanolan.run.record import part_path

HEAD_BYTES, TAIL_BYTES = 1_000_000, 9_000_000  # what is kept of a log that a trainer floods
PART_BYTES = 1_000_000


def log_file() -> Path:
    """The log file, which boot.sh starts."""
    return Path(os.environ.get("BOX_ROOT", "") + "/var/log/lanbot-training.log")


def unsaid(mask: Mask) -> bytes:
    """Lines of this program that the disk did not take."""
    text = mask.hide(getattr(sys.stdout, "unsaid", ""))
    return f"[the disk did not take the rest]\n{text}".encode(errors="replace") if text else b""


def whole(path: Path, mask: Mask, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> bytes:
    """The log; of one that is too long the beginning and the end, and a line that says so."""
    try:
        with open(path, "rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(0)
            if size <= head + tail:
                return masked(f.read(), mask)
            first = f.read(head)
            first = first[: first.rfind(b"\n") + 1]
            f.seek(size - tail)
            f.readline()
            return masked(first + left_out(f.tell() - len(first)) + f.read(), mask)
    except OSError as e:
        return f"the log cannot be read: {e.strerror}\n".encode()


def new_lines(path: Path, start: int, most: int = PART_BYTES) -> tuple[bytes, int]:
    """(whole lines from byte `start` on, where the next ones begin); of more than `most` bytes the newest, with a note."""
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        begin = start if start <= size else 0  # the file was truncated
        note = b""
        f.seek(begin)
        if size - begin > most:
            f.seek(size - most)
            if not f.readline().endswith(b"\n"):
                return b"", begin  # one line that is not finished
            note, begin = left_out(f.tell() - begin), f.tell()
        data = f.read(most)
    lines = data[: data.rfind(b"\n") + 1]
    return note + lines, begin + len(lines)


def left_out(size: int) -> bytes:
    return f"[{size:,} bytes of the log are left out here]\n".encode()


def masked(data: bytes, mask: Mask) -> bytes:
    return mask.hide(data.decode(errors="replace")).encode()


class LogParts:
    """How much of the log is on the Hub, kept in the file `note` for a restarted program."""

    def __init__(self, plan: Plan, mask: Mask, note: Path) -> None:
        self._plan, self._mask, self._note = plan, mask, note
        self._number, self._start, self._end = 1, 0, 0
        try:
            kept = json.loads(note.read_bytes())
            self._number, self._start = int(kept["number"]), int(kept["start"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the first start of this program

    def next(self) -> dict[str, bytes | Path]:
        """Path and content of the next part, if there is something new; the same path until it is `sent`."""
        try:
            lines, self._end = new_lines(log_file(), self._start)
        except OSError:
            return {}
        return {part_path(self._plan, self._number): masked(lines, self._mask)} if lines else {}

    def sent(self) -> None:
        """The part that `next` gave is on the Hub."""
        if self._end == self._start:
            return
        self._number, self._start = self._number + 1, self._end
        try_write_atomic(
            self._note, json.dumps({"number": self._number, "start": self._start}).encode()
        )
