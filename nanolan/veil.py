"""A veil before a stream: whatever is written through it has no secret of this process left, and drives no terminal.

`scripts/` put one before stdout and stderr, the box program before its log; so errors, tracebacks and foreign words are covered by
construction. Not covered: what other programs write to the same place (ssh, a trainer), and bytes written to its file number.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
from os.path import commonprefix
from typing import IO, Any

from nanolan.secret import every_secret

NOTE = "[a secret stood here and was masked]"
# Colours and cursor moves; no titles, clipboards, or questions that the terminal would answer as if it were typed
MOVES = re.compile(r"(\x1b\[[0-9;?]*[A-HJKSTfhlmsu]|\r)")
# A flush shows the beginning of what may become a secret, since a prompt must not wait for its last letter: this part of it
SHOWN = 3
BEGUN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")


def printable(text: str) -> str:
    """`text` without control characters: an API or a log cannot drive the terminal. Line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class Veil:
    """A text stream like the one behind it, but for what it lets through. `moves`: of a program that draws; `note`: a line that
    follows the first secret; `insist`: of a program that goes on when nobody takes its words any more (a full disk, a closed
    pipe, a terminal that is gone)."""

    def __init__(
        self, behind: IO[str], *, moves: bool = False, note: bool = False, insist: bool = False
    ) -> None:
        self._behind, self._moves, self._note = behind, moves, note
        self._lost = (OSError, ValueError) if insist else ()
        self._held = ""  # the end of what was written, if a secret may begin there
        self._told = 0  # so many characters of it were shown all the same, by a flush
        self._due = False
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def write(self, text: str) -> int:
        with self._lock:
            whole = self._held + text
            cut = len(whole) - self._open(whole)
            told, self._told = self._told, max(0, self._told - cut)
            self._held = whole[cut:]
            self._pass(whole[:cut], min(told, cut))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._lock:
            mask = every_secret()
            begun = [
                len(form)
                for form in mask.forms
                if form != self._held and form.startswith(self._held)
            ]
            most = mask.before(self._held, min(begun) // SHOWN) if begun else len(self._held)
            held, told = self._held, self._told
            most = min(most, len(held))
            self._held, self._told = (held, max(told, most)) if begun else ("", 0)
            if most > told:
                self._pass(held[:most], told)
            with contextlib.suppress(*self._lost):
                self._behind.flush()

    @property
    def buffer(self) -> io.BufferedIOBase:
        """For whoever would go around the text stream: click does where the encoding is ASCII."""
        return _Bytes(self)

    @property
    def drawing(self) -> Veil:
        """The same for rich and progress bars, which move the cursor; foreign words must be `printable` before they get there."""
        return Veil(self._behind, moves=True, insist=bool(self._lost))

    def _pass(self, text: str, told: int) -> None:
        """Show `text` masked, but for its first characters that were `told` already."""
        if told == len(text):
            return
        shown = every_secret().hide(text)
        self._due = self._due or (self._note and shown != text)
        shown = shown[len(commonprefix([text[:told], shown])) :]
        if self._moves:
            shown = "".join(
                part if i % 2 else printable(part) for i, part in enumerate(MOVES.split(shown))
            )
        else:
            shown = printable(shown)
        if self._due and shown.endswith("\n"):
            shown, self._due, self._note = f"{shown}{NOTE}\n", False, False
        with contextlib.suppress(*self._lost):
            try:
                self._behind.write(shown)
            except UnicodeEncodeError:  # what this terminal cannot show
                self._behind.write(shown.encode(self.encoding, "replace").decode(self.encoding))

    def _open(self, text: str) -> int:
        """How many characters at the end may be the beginning of a secret."""
        if text.endswith("\n"):
            return 0
        mask, end = every_secret(), len(text)
        for start in range(max(0, end - mask.longest + 1), end):
            if text[start] in mask.firsts and any(
                form.startswith(text[start:]) for form in mask.forms
            ):
                end = start
                break
        end = mask.before(text, end)
        begun = BEGUN.search(text[:end]) if self._moves else None
        return len(text) - (begun.start() if begun else end)


class _Bytes(io.BufferedIOBase):
    """The binary side of a veil."""

    def __init__(self, veil: Veil) -> None:
        self._veil = veil

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._veil.write(bytes(data).decode(errors="replace"))
        return len(data)

    def flush(self) -> None:
        self._veil.flush()

    def fileno(self) -> int:
        return self._veil._behind.fileno()

    def isatty(self) -> bool:
        return self._veil._behind.isatty()


def veiled(stream: IO[str], **how: bool) -> Any:
    """A veil before `stream`; the same one again if it has one."""
    return stream if stream is None or isinstance(stream, Veil) else Veil(stream, **how)


def drawing(stream: Any) -> Any:
    """Where a program draws that moves the cursor on `stream`."""
    return stream.drawing if isinstance(stream, Veil) else stream
