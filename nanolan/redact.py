"""A veil before a stream: whatever is written through it has no secret of this process left, and drives no terminal.

`scripts/` put one before stdout and stderr, the box program before its log; so errors, tracebacks and foreign words are covered by
construction. Not covered: what other programs write to the same place (ssh, a trainer), and bytes written to its file number.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import re
import threading
from collections.abc import Iterable, Iterator
from os.path import commonprefix
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

NOTE = "[a secret stood here and was masked]"
# Colours and cursor moves; no titles, clipboards, or questions that the terminal would answer as if it were typed
MOVES = re.compile(r"(\x1b\[[0-9;?]*[A-HJKSTfhlmsu]|\r)")
# A flush shows the beginning of what may become a secret, since a prompt must not wait for its last letter: this part of it
SHOWN = 3
BEGUN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")


def printable(text: str) -> str:
    """`text` without control characters: an API or a log cannot drive the terminal. Line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class RedactedStream:
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
    def drawing(self) -> RedactedStream:
        """The same for rich and progress bars, which move the cursor; foreign words must be `printable` before they get there."""
        return RedactedStream(self._behind, moves=True, insist=bool(self._lost))

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

    def __init__(self, veil: RedactedStream) -> None:
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


def redact_stream(stream: IO[str], **how: bool) -> Any:
    """A veil before `stream`; the same one again if it has one."""
    return (
        stream
        if stream is None or isinstance(stream, RedactedStream)
        else RedactedStream(stream, **how)
    )


def cursor_allowed(stream: Any) -> Any:
    """Where a program draws that moves the cursor on `stream`."""
    return stream.drawing if isinstance(stream, RedactedStream) else stream


STARS = "***"


SHORTEST = 6  # masking shorter values would blank out ordinary words


PIECE = 12  # of an address or a key file: what is shorter may be an ordinary word


# \\u0041, \\x41, %41, &#x41;; &#65;; the end of a line
ESCAPE = re.compile(rb"(?:\\u00|\\x|%|&#x)([0-9A-Fa-f]{2});?|&#0*([1-9][0-9]{0,2});|\\[nrt]")


_values: dict[str, None] = {}  # of every secret of this process


class Secret:
    """A value that shows as *** wherever it is printed; `reveal()` is the only way to it. `hide` knows it from now on."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        _values[value] = None

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return STARS

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class Mask:
    """Replaces every form of the given secrets in a text: raw, in an address, JSON, HTML or Python, base64; whole or by line.

    `pieces`: also what an address is made of, which may be ordinary words: for nothing that a program reads."""

    def __init__(self, secrets: Iterable[Secret | None], *, pieces: bool = False) -> None:
        values = {s.reveal() for s in secrets if s}
        known = {
            part
            for value in values
            for part in (*parts(value), *(_pieces(value) if pieces else ()))
        }
        self.forms = sorted({form for part in known for form in forms(part)}, key=len, reverse=True)
        self.longest, self.firsts = (
            max(map(len, self.forms), default=0),
            {form[0] for form in self.forms},
        )
        self.hits = 0  # how many texts held one

    def hide(self, text: str) -> str:
        """`text` with *** in place of each secret."""
        shown = text
        for form in self.forms:
            shown = shown.replace(form, STARS)
        self.hits += shown != text
        return shown

    def before(self, text: str, end: int) -> int:
        """`end`, or where the secret begins that it would cut in two."""
        for form in self.forms:
            at = text.find(form, max(0, end - len(form) + 1), end + len(form) - 1)
            if -1 < at < end:
                return self.before(text, at)
        return end


_all = Mask([])


_known = 0


def every_secret() -> Mask:
    """A mask over every secret that this process has made so far."""
    global _all, _known
    if _known != len(_values):
        _known = len(_values)
        made, made.hits = Mask(map(Secret, list(_values))), _all.hits
        _all = made
    return _all


def hide(text: str) -> str:
    """`text` with *** in place of every secret that this process knows."""
    return every_secret().hide(text)


def known_values() -> list[str]:
    """Every secret that this process knows, in clear: to look for, never to show."""
    return list(_values)


def short(text: str, most: int = 300) -> str:
    """Foreign words as they may be quoted: on one line, without any secret, cut (only then: half a secret is known to no mask)."""
    words = " ".join(hide(text[: 100 * most]).split())
    return words if len(words) <= most else words[: most - 3] + "..."


def parts(value: str) -> Iterator[str]:
    """The value, and what of it may turn up alone: the lines of a key file, each of several addresses."""
    yield value
    if "\n" in value:
        yield from (
            line
            for line in value.splitlines()
            if len(line) >= PIECE and not line.startswith("-----")
        )
    yield from (word.strip(",") for word in value.split() if "://" in word)


def _pieces(value: str) -> Iterator[str]:
    yield from (
        piece
        for piece in re.split(r"[/@:?&=,\s]+", value)
        if len(piece) >= PIECE and "://" in value
    )


def forms(value: str) -> set[str]:
    """How a value may be written: raw, in an address, JSON, HTML, Python, base64."""
    raw = value.encode(errors="surrogatepass")
    found = {
        value,
        quote(raw, safe=""),
        quote(raw),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
    } | base64_of(raw)
    return {f for f in found if len(f) >= SHORTEST}


def base64_of(raw: bytes) -> set[str]:
    """How bytes show in the base64 of a longer text, at each of the three alignments."""
    found = set()
    for shift, cut in enumerate((0, 2, 3)):
        whole = (shift + len(raw)) * 8 // 6  # characters that no neighbouring byte changes
        code = base64.b64encode(b"\0" * shift + raw).decode()[cut:whole]
        found |= {code, code.replace("+", "-").replace("/", "_")}
    return found


def password_of(url: str) -> Iterator[str]:
    """The password in an address, as it stands there and as it is meant."""
    try:
        password = urlsplit(url if "://" in url else f"http://{url}").password
    except ValueError:
        return
    if password:
        yield from {password, unquote(password)}


def unescaped(data: bytes) -> bytes:
    """With its characters in place of their codes, as JSON, a notebook, an address and HTML have them."""
    return ESCAPE.sub(lambda code: bytes([_code(code)]), data)


def _code(found: re.Match[bytes]) -> int:
    return int(found[1], 16) if found[1] else int(found[2]) & 0xFF if found[2] else ord("\n")
