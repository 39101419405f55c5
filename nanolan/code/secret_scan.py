"""Searches files for secrets before they are sent: values that this process knows, and patterns of keys.

Searches files as they are, as UTF-16, and unpacked (gzip, bzip2, xz, zip; up to a size). Finds a known value raw, quoted, in
JSON, base64 and hex, also split over lines. A line with ALLOW is exempt from the patterns, but not from known values.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote

from nanolan.code.key_shapes import ANY_CASE, SHAPES
from nanolan.redact import base64_of, forms, known_values, parts, password_of, unescaped

ALLOW = b"pragma: allowlist secret"
WHOLE = 12  # shorter values are found only as whole words
MOST_UNPACKED = 64 << 20  # bytes unpacked from one file
DEEPEST = 4  # nesting of packed files
JOINTS = b" \t\r\n\0\"'\\+=,"  # characters that may separate the pieces of a value
YOURS = "a key, token or password of yours"
UNSEEN = "packed content that cannot be searched"

PATTERNS, ANY_CASE_PATTERNS = (
    tuple((what, anchor, re.compile(pattern)) for what, anchor, pattern in rows)
    for rows in (SHAPES, ANY_CASE)
)


@dataclass(frozen=True)
class Found:
    """A secret found in a file; does not contain the secret itself."""

    name: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.name if self.line is None else f"{self.name}, line {self.line}"
        return (
            f"{where} holds {self.what}"
            if self.what in (YOURS, UNSEEN)
            else f"{where} holds what looks like {self.what}"
        )


class Scanner:
    """Searches for the given values (by default all that this process knows) and for patterns of keys."""

    def __init__(self, values: Iterable[str] | None = None) -> None:
        values = known_values() if values is None else values
        pieces = {piece for value in values for piece in pieces_of(value) if is_distinctive(piece)}
        self._raw = sorted({form for piece in pieces for form in written(piece)})
        self._joined = {squeezed(form) for form in self._raw if len(squeezed(form)) >= WHOLE}
        self._short = [form for form in self._raw if len(squeezed(form)) < WHOLE]

    def files(self, contents: Mapping[str, bytes]) -> Iterator[Found]:
        """At most one finding per file; also checks the path."""
        for name, data in contents.items():
            if found := self.path(name) or self.file(name, data):
                yield found

    def path(self, name: str) -> Found | None:
        found = self.text(STARRED, os.fsencode(name))
        return Found(STARRED, found.what) if found else None

    def file(self, name: str, data: bytes) -> Found | None:
        """The first secret in a file, packed content included."""
        return self.text(name, data) or self._packed(name, data)

    def text(self, name: str, data: bytes, shapes: bool = True) -> Found | None:
        """The first secret in data, without unpacking; without `shapes` only known values."""
        if (at := self._known(data)) is not None:
            return Found(name, YOURS, line_of(data, at))
        if (plain := unescaped(data)) != data and self._known(plain) is not None:
            return Found(name, YOURS)
        if shapes:
            for layer in (data, data.replace(b"\0", b"")) if b"\0" in data else (data,):
                if found := shape_in(layer):
                    return Found(name, found[0], line_of(layer, found[1]))
        return None

    def _known(self, data: bytes) -> int | None:
        """The position of a known value; -1 if it was found in pieces."""
        joined = squeezed(data)
        whole = any(form in joined for form in self._joined)
        for form in self._raw if whole else self._short:
            if (at := word_at(form, data)) is not None:
                return at
        return -1 if whole else None

    def _packed(self, name: str, data: bytes) -> Found | None:
        try:
            for layer in unpacked(data, UnpackBudget(MOST_UNPACKED)):
                if found := self.text(name, layer):
                    return Found(name, found.what)
        except Unseen:
            return Found(name, UNSEEN)
        return None


STARRED = "a file name"


def pieces_of(value: str) -> Iterator[str]:
    """The value and its parts; of an address also the parts that look like tokens."""
    yield from parts(value)
    for address in value.split():
        if "://" in address:
            yield from password_of(address)
            yield from (
                piece
                for piece in re.split(r"[/@:?&=,]+", address)
                if len(piece) >= 16 and re.search(r"\d", piece)
            )


def is_distinctive(value: str) -> bool:
    """Whether a value differs from ordinary words: long, with a digit, or in mixed case."""
    if any(c.isdigit() for c in value):
        return len(value) >= 8
    return len(value) >= (12 if value.lower() != value != value.upper() else 24)


def written(value: str) -> Iterator[bytes]:
    """Every encoding of a value that is searched for."""
    raw = value.encode(errors="surrogatepass")
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), quote(raw, safe="")).encode()
    twice = (code for once in base64_of(raw) for code in base64_of(once.encode()))
    of_utf16 = base64_of(value.encode("utf-16-le", errors="surrogatepass"))
    for form in (*forms(value), *of_utf16, *twice):
        yield form.encode(errors="surrogatepass")


def squeezed(data: bytes) -> bytes:
    """Remove blanks, quotes and other separators: joins a split value, and turns UTF-16 into ASCII."""
    return data.translate(None, JOINTS)


def word_at(form: bytes, data: bytes) -> int | None:
    """The position of `form` in `data`; a short form matches only as a whole word."""
    if len(form) >= WHOLE:
        at = data.find(form)
        return at if at >= 0 else None
    found = re.search(rb"(?<![A-Za-z0-9])" + re.escape(form) + rb"(?![A-Za-z0-9])", data)
    return found.start() if found else None


def first_of(pattern: re.Pattern[bytes], data: bytes) -> int | None:
    """The first match of the pattern on a line without ALLOW."""
    for found in pattern.finditer(data):
        begin = data.rfind(b"\n", 0, found.start()) + 1
        end = data.find(b"\n", found.end())
        if ALLOW not in data[begin : end if end >= 0 else None]:
            return found.start()
    return None


def shape_in(data: bytes) -> tuple[str, int] | None:
    """What looks like a key in `data`, and its position."""
    for text, patterns in ((data, PATTERNS), (data.lower(), ANY_CASE_PATTERNS)):
        for what, anchor, pattern in patterns:
            if anchor in text and (at := first_of(pattern, text)) is not None:
                return what, at
    return None


def line_of(data: bytes, at: int) -> int | None:
    return data.count(b"\n", 0, at) + 1 if at >= 0 else None


# ------------------------------------------------------------------ packed files
class Unseen(Exception):
    """Packed content that is locked or too large."""


class UnpackBudget:
    """The number of bytes that may still be unpacked."""

    def __init__(self, most: int) -> None:
        self._left = most

    def read(self, stream: IO[bytes]) -> bytes:
        """The readable part of a stream, also if it is truncated or damaged."""
        data = bytearray()
        try:
            while piece := stream.read(1 << 16):
                data += piece
                if len(data) > self._left:
                    raise Unseen
        except DAMAGED:
            pass
        self._left -= len(data)
        return bytes(data)


# zstd, lz4, 7z, rar, compress, and git packs and bundles: not unpacked here
CLOSED = (
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x1f\x9d",
    b"PACK\0\0\0",
    b"# v2 git bundle\n",
    b"# v3 git bundle\n",
)
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
OPENERS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda f: gzip.GzipFile(fileobj=f)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)


def unpacked(data: bytes, budget: UnpackBudget, deep: int = 0) -> Iterator[bytes]:
    """Everything that is packed in `data`, recursively; Unseen if some of it cannot be unpacked."""
    for inside in opened(data, budget):
        if deep >= DEEPEST:
            raise Unseen
        yield inside
        yield from unpacked(inside, budget, deep + 1)


def opened(data: bytes, budget: UnpackBudget) -> Iterator[bytes]:
    if data.startswith(CLOSED):
        raise Unseen
    for magic, opener in OPENERS:
        if data.startswith(magic):
            yield budget.read(opener(io.BytesIO(data)))
    if b"PK\x05\x06" in data and zipfile.is_zipfile(io.BytesIO(data)):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield archive.comment
                for entry in archive.infolist():
                    yield budget.read(archive.open(entry))
        except DAMAGED:
            return
        except (RuntimeError, NotImplementedError):  # encrypted, or an unknown method
            raise Unseen from None
