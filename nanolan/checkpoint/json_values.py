"""Reads a file of JSON values, one at a time: a value a line, or one document, an array of them, over any number of lines.

Values are bounded in size and depth, so a file of any size takes a few MiB. Stricter than Python's json: no NaN, no key
twice, no half of a surrogate pair, which every reader behind this one would take for something else.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from nanolan.checkpoint.file_kind import HEAD_BYTES, mistaken_for
from nanolan.errors import BadAnswer

MAX_VALUE_BYTES = 1 << 20
MAX_DEPTH = 64  # of arrays and objects; where json gives up differs by version of Python
CHUNK = 1 << 18
BOM = codecs.BOM_UTF8
LINE_END = re.compile(rb"\r\n|\n|\r")
SPACE = re.compile(r"[ \t\r\n]*")
FIRST_LINE = re.compile(r"[^\r\n]*([^ \t\r\n])[ \t]*[\r\n]")  # and its last character
OPEN_ARRAY = re.compile(r"\[[ \t\r\n]*")
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
# A string, also one that is cut off, or a bracket
BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
BINARY = ((b"pk\x03\x04", "a zip archive: unpack it"), (b"par1", "a parquet file"))
TOO_LONG = f"longer than {MAX_VALUE_BYTES >> 20} MiB"
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


class Value(NamedTuple):
    """A value and where it stands in the file."""

    value: Any
    line: int  # from 1
    offset: int  # in bytes
    size: int  # in bytes


class Refused(ValueError):
    """Why a text is not an accepted JSON value."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused(f"the key {twice[:40]!r} stands twice in one object")
    return found


def _constant(name: str) -> Any:
    raise Refused(f"not JSON: {name} is no JSON value")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse(text: str, start: int = 0) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends; Refused if it is not an accepted one, JSONDecodeError if no JSON."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except (RecursionError, json.JSONDecodeError):
        if _too_deep(text, start, len(text)):
            raise Refused(TOO_DEEP) from None
        raise
    except Refused:
        raise
    except ValueError:  # a number of thousands of digits
        raise Refused("not JSON that can be read") from None
    brackets = text.count("[", start, end) + text.count("{", start, end)
    if brackets > MAX_DEPTH and _too_deep(text, start, end):
        raise Refused(TOO_DEEP)
    if HALF_PAIR.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refused(r"half a character: a \uD800 to \uDFFF without its other half") from None
    return value, end


def _too_deep(text: str, start: int, end: int) -> bool:
    """Whether brackets outside of strings nest deeper than MAX_DEPTH in the value that begins at `start`."""
    depth = 0
    for found in BRACKETS.finditer(text, start, end):
        if (mark := text[found.start()]) in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif mark in "]}":
            depth -= 1
            if depth <= 0:
                break
    return False


def _no_json(column: int) -> str:
    return f"not JSON (column {column})"


def _no_utf8(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"not UTF-8 text (byte 0x{byte:02x}; perhaps latin-1 or cp1252): save it as UTF-8"


def read_values(
    file: BinaryIO, where: str, is_message: Callable[[Any], bool], form: str
) -> Iterator[Value]:
    """The values of a seekable file: of each line, or of a document that is or holds them; BadAnswer names the line.

    An array is one value, a conversation, if `is_message` knows its first element; else a document of values.
    `form` says what is expected, and follows what is wrong.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    start = len(BOM) if head.startswith(BOM) else 0
    if what := _mistaken(head[start:]):
        raise BadAnswer(f"{where}, line 1: {what}; no conversations in it")
    file.seek(start)
    window = _Window(file, where, start, form)
    if _is_document(window, is_message):
        yield from _document(window, is_message)
    else:
        file.seek(start)
        yield from _lines(file, where, start, form)


def _mistaken(head: bytes) -> str:
    start = head.lstrip()[:4].lower()
    found = mistaken_for(head) or next((what for mark, what in BINARY if start == mark), "")
    wide = b"\0" in head[:4] and head.strip(b"\0")
    return found or ("UTF-16 or UTF-32 text: save it as UTF-8" if wide else "")


def _lines(file: BinaryIO, where: str, offset: int, form: str) -> Iterator[Value]:
    for number, (at, line) in enumerate(_split(file, offset), 1):
        text = line.strip(b" \t")
        if len(line) > MAX_VALUE_BYTES:
            raise BadAnswer(f"{where}, line {number}: {TOO_LONG}")
        if not text:
            continue
        blank = line.index(text)
        try:
            decoded = text.decode()
            value, end = parse(decoded)
            if end < len(decoded):
                raise json.JSONDecodeError("more", decoded, end)
        except UnicodeDecodeError as e:
            raise BadAnswer(f"{where}, line {number}: {_no_utf8(e)}") from None
        except json.JSONDecodeError as e:
            raise BadAnswer(
                f"{where}, line {number}: {_no_json(blank + e.pos + 1)}. {form}"
            ) from None
        except Refused as e:
            raise BadAnswer(f"{where}, line {number}: {e}") from None
        yield Value(value, number, at + blank, len(text))


def _split(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line, without its end: LF, CRLF or CR. A line too long comes in part, as the last."""
    data = b""
    while chunk := file.read(CHUNK):
        data += chunk
        if data.endswith(b"\r"):  # its LF may follow
            data += file.read(1)
        start = 0
        for end in LINE_END.finditer(data):
            yield offset + start, data[start : end.start()]
            start = end.end()
        offset, data = offset + start, data[start:]
        if len(data) > MAX_VALUE_BYTES:
            break
    yield offset, data


class _Window:
    """The decoded text around a position in a file: at least one value long, as far as there is so much."""

    def __init__(self, file: BinaryIO, where: str, offset: int, form: str) -> None:
        self._file, self._where, self._form = file, where, form
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fault: UnicodeDecodeError | None = None
        self._whole = False  # all of the file is in `text`, or what can be decoded
        self.text = ""
        self.at = 0
        self.line = 1
        self.offset = offset

    def _fill(self) -> None:
        while not self._whole and len(self.text) - self.at <= MAX_VALUE_BYTES:
            data = self._file.read(CHUNK)
            if data.endswith(b"\r"):  # its LF is no other line
                data += self._file.read(1)
            try:
                more = self._decoder.decode(data, not data)
            except UnicodeDecodeError as e:
                self._fault = e
                more = e.object[: e.start].decode()
            self._whole = not data or self._fault is not None
            self.text, self.at = self.text[self.at :] + more, 0

    def advance(self, to: int) -> None:
        """Move to index `to` of `text`."""
        passed = self.text[self.at : to]
        self.line += _count_lines(passed)
        self.offset += len(passed) if passed.isascii() else len(passed.encode())
        self.at = to

    def next(self) -> str:
        """The next character that is not blank; "" at the end."""
        self._fill()
        while True:
            end = _match_end(SPACE, self.text, self.at)
            self.advance(end)
            if end < len(self.text) or self._whole:
                break
            self._fill()
        if not (found := self.text[self.at : self.at + 1]) and self._fault:
            raise self.refuse(_no_utf8(self._fault))
        return found

    def value(self) -> Value:
        """The value that begins here; BadAnswer if there is none."""
        self._fill()
        line, offset = self.line, self.offset
        try:
            value, end = parse(self.text, self.at)
        except json.JSONDecodeError as e:
            raise self._no_value(e) from None
        except Refused as e:
            raise self.refuse(str(e)) from None
        self.advance(end)
        size = self.offset - offset
        if size > MAX_VALUE_BYTES:
            raise BadAnswer(f"{self._where}, line {line}: {TOO_LONG}")
        return Value(value, line, offset, size)

    def _no_value(self, e: json.JSONDecodeError) -> BadAnswer:
        cut = e.pos > len(self.text) - 16 or e.msg.startswith("Unterminated string")
        if cut and self._fault:
            self.advance(len(self.text))
            return self.refuse(_no_utf8(self._fault))
        if cut and not self._whole:
            return self.refuse(TOO_LONG)
        self.advance(e.pos)
        column = e.pos - max(self.text.rfind(end, 0, e.pos) for end in "\r\n")
        return self.refuse(f"{_no_json(column)}. {self._form}")

    def refuse(self, why: str) -> BadAnswer:
        """An error about this line."""
        return BadAnswer(f"{self._where}, line {self.line}: {why}")


def _match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _count_lines(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def _is_document(window: _Window, is_message: Callable[[Any], bool]) -> bool:
    """Whether the file is one document: by its first line, which is no value of its own, or by what its first array holds."""
    window.next()
    text, at = window.text, window.at
    end = FIRST_LINE.match(text, at)
    begun = end is not None and end[1] in "[{,"  # and goes on in the next line
    return begun or _holds_values(text, at, is_message)


def _holds_values(text: str, at: int, is_message: Callable[[Any], bool]) -> bool:
    """Whether an array of values begins here, rather than a value."""
    first = _match_end(OPEN_ARRAY, text, at)
    if first == at or text[first : first + 1] not in ("[", "{"):
        return False
    if text[first] == "[":
        return True
    try:
        return not is_message(parse(text, first)[0])
    except ValueError:
        return False


def _document(window: _Window, is_message: Callable[[Any], bool]) -> Iterator[Value]:
    while mark := window.next():
        if mark == "," or not _holds_values(window.text, window.at, is_message):
            if mark == ",":
                raise window.refuse("a comma after a conversation that is in no array")
            yield window.value()
            continue
        window.advance(window.at + 1)
        while True:
            window.next()
            yield window.value()
            mark = window.next()
            if mark not in (",", "]"):
                raise window.refuse("not JSON: the array of conversations has no end here")
            window.advance(window.at + 1)
            if mark == "]":
                break
