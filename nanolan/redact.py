"""Masks secrets: the `Secret` type, masks over texts, and a text stream that masks secrets and strips terminal control codes.

`scripts/` wrap stdout and stderr in such a stream, the box program its log, so that errors, tracebacks and texts of services are
masked too. Not covered: output of other programs (ssh, a trainer), and bytes written to the file descriptor.
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
# Colours and cursor moves; no titles, clipboards, or queries whose answers the terminal would type
MOVES = re.compile(r"(\x1b\[[0-9;?]*[A-HJKSTfhlmsu]|\r)")
# A prompt must not wait for its last letter, so a flush shows the start of a possible secret: at most 1/SHOWN of it
SHOWN = 3
OUTPUT = "the command's output"  # in the message of a write error
BEGUN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")


def printable(text: str) -> str:
    """`text` without control characters, so that an API or a log cannot control the terminal. Line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class RedactedStream:
    """A text stream that writes masked text to the stream behind it. `moves`: allow cursor moves; `note`: write a line after the
    first secret; `insist`: ignore write errors (a full disk, a closed pipe, a terminal that is gone)."""

    def __init__(
        self, behind: IO[str], *, moves: bool = False, note: bool = False, insist: bool = False
    ) -> None:
        self._behind = behind
        self._moves = moves
        self._note = note
        self._ignored = (OSError, ValueError) if insist else ()
        self._held = ""  # the end of the text, if a secret may begin there
        self._shown = 0  # characters of it that a flush has shown already
        self._note_due = False
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def write(self, text: str) -> int:
        with self._lock:
            whole = self._held + text
            cut = len(whole) - self._open(whole)
            shown = self._shown
            self._shown = max(0, shown - cut)
            self._held = whole[cut:]
            self._pass(whole[:cut], min(shown, cut))
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
            most = mask.cut_before(self._held, min(begun) // SHOWN) if begun else len(self._held)
            held = self._held
            shown = self._shown
            most = min(most, len(held))
            self._held = held if begun else ""
            self._shown = max(shown, most) if begun else 0
            if most > shown:
                self._pass(held[:most], shown)
            with self._naming_errors():
                self._behind.flush()

    @property
    def buffer(self) -> io.BufferedIOBase:
        """A masked binary stream: click writes bytes if the encoding is ASCII."""
        return _Bytes(self)

    @property
    def drawing(self) -> RedactedStream:
        """The same stream with cursor moves, for rich and progress bars; texts of services must be `printable` before."""
        return RedactedStream(self._behind, moves=True, insist=bool(self._ignored))

    def _pass(self, text: str, already: int) -> None:
        """Write `text` masked, except its first `already` characters, which were shown before."""
        if already == len(text):
            return
        shown = every_secret().hide(text)
        self._note_due = self._note_due or (self._note and shown != text)
        shown = shown[len(commonprefix([text[:already], shown])) :]
        if self._moves:
            shown = "".join(
                part if i % 2 else printable(part) for i, part in enumerate(MOVES.split(shown))
            )
        else:
            shown = printable(shown)
        if self._note_due and shown.endswith("\n"):
            shown = f"{shown}{NOTE}\n"
            self._note_due = False
            self._note = False
        with self._naming_errors():
            try:
                self._behind.write(shown)
            except UnicodeEncodeError:  # characters that the terminal's encoding lacks
                self._behind.write(shown.encode(self.encoding, "replace").decode(self.encoding))

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """A write error is ignored with `insist`; otherwise it names the output, for the message at the end of the command."""
        try:
            yield
        except self._ignored:
            pass
        except OSError as e:
            e.filename = e.filename or OUTPUT
            raise

    def _open(self, text: str) -> int:
        """The number of characters at the end that may be the start of a secret."""
        if text.endswith("\n"):
            return 0
        mask = every_secret()
        end = len(text)
        for start in range(max(0, end - mask.longest + 1), end):
            if text[start] in mask.firsts and any(
                form.startswith(text[start:]) for form in mask.forms
            ):
                end = start
                break
        end = mask.cut_before(text, end)
        begun = BEGUN.search(text[:end]) if self._moves else None
        return len(text) - (begun.start() if begun else end)


class _Bytes(io.BufferedIOBase):
    """The binary side of a redacted stream."""

    def __init__(self, stream: RedactedStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode(errors="replace"))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream._behind.fileno()

    def isatty(self) -> bool:
        return self._stream._behind.isatty()


def redact_stream(stream: IO[str], **options: bool) -> Any:
    """`stream`, wrapped in a RedactedStream unless it is one."""
    return (
        stream
        if stream is None or isinstance(stream, RedactedStream)
        else RedactedStream(stream, **options)
    )


def cursor_allowed(stream: Any) -> Any:
    """The stream for output that moves the cursor."""
    return stream.drawing if isinstance(stream, RedactedStream) else stream


STARS = "***"
SHORTEST = 6  # masking shorter values would blank out ordinary words
PIECE = 12  # shorter parts of an address or a key file may be ordinary words
# \\u0041, \\x41, %41, &#x41;; &#65;; escaped line ends and tabs
ESCAPE = re.compile(rb"(?:\\u00|\\x|%|&#x)([0-9A-Fa-f]{2});?|&#0*([1-9][0-9]{0,2});|\\[nrt]")


_values: dict[str, None] = {}  # of every secret of this process


class Secret:
    """A value that prints as ***; only `reveal()` returns it. From its creation on, `hide` masks it."""

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
    """Replaces every form of the given secrets in a text: raw, in a URL, JSON, HTML or Python, base64; whole or by line.

    `pieces`: also parts of addresses, which may be ordinary words: not for texts that a program reads."""

    def __init__(self, secrets: Iterable[Secret | None], *, pieces: bool = False) -> None:
        values = {s.reveal() for s in secrets if s}
        known = {
            part
            for value in values
            for part in (*parts(value), *(_pieces(value) if pieces else ()))
        }
        self.forms = sorted({form for part in known for form in forms(part)}, key=len, reverse=True)
        self.longest = max(map(len, self.forms), default=0)
        self.firsts = {form[0] for form in self.forms}
        self.hits = 0  # number of texts that contained a secret

    def hide(self, text: str) -> str:
        """`text` with *** in place of each secret."""
        shown = text
        for form in self.forms:
            shown = shown.replace(form, STARS)
        self.hits += shown != text
        return shown

    def cut_before(self, text: str, end: int) -> int:
        """`end`, or the start of the secret that a cut at `end` would split."""
        for form in self.forms:
            at = text.find(form, max(0, end - len(form) + 1), end + len(form) - 1)
            if -1 < at < end:
                return self.cut_before(text, at)
        return end


_all = Mask([])
_known = 0


def every_secret() -> Mask:
    """A mask over every secret that this process has created so far."""
    global _all, _known
    if _known != len(_values):
        _known = len(_values)
        mask = Mask(map(Secret, list(_values)))
        mask.hits = _all.hits
        _all = mask
    return _all


def hide(text: str) -> str:
    """`text` with *** in place of every secret that this process knows."""
    return every_secret().hide(text)


def known_values() -> list[str]:
    """Every secret that this process knows, in clear text: to search for, never to print."""
    return list(_values)


def short(text: str, most: int = 300) -> str:
    """A text of a service, safe to quote: masked, on one line, then cut. Masked first: a mask does not find half a secret."""
    words = " ".join(hide(text[: 100 * most]).split())
    return words if len(words) <= most else words[: most - 3] + "..."


def parts(value: str) -> Iterator[str]:
    """The value, and its parts that may occur alone: the lines of a key file, each of several addresses."""
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
    """The ways to write a value: raw, in a URL, JSON, HTML, Python, base64."""
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
    """The bytes as they appear in the base64 of a longer text, at each of the three alignments."""
    found = set()
    for shift, cut in enumerate((0, 2, 3)):
        whole = (shift + len(raw)) * 8 // 6  # characters that no neighbouring byte changes
        code = base64.b64encode(b"\0" * shift + raw).decode()[cut:whole]
        found |= {code, code.replace("+", "-").replace("/", "_")}
    return found


def password_of(url: str) -> Iterator[str]:
    """The password in a URL, as written and unquoted."""
    try:
        password = urlsplit(url if "://" in url else f"http://{url}").password
    except ValueError:
        return
    if password:
        yield from {password, unquote(password)}


def unescaped(data: bytes) -> bytes:
    """`data` with the escapes of JSON, notebooks, URLs and HTML replaced by their characters."""
    return ESCAPE.sub(lambda code: bytes([_code(code)]), data)


def _code(found: re.Match[bytes]) -> int:
    return int(found[1], 16) if found[1] else int(found[2]) & 0xFF if found[2] else ord("\n")
