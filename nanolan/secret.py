"""Secrets that print as ***, and the masks that keep their values out of everything that leaves the process."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

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
