"""Reads the columns of a parquet file from its footer: a launch checks data sets on the Hub without pyarrow.

The footer is a FileMetaData in Thrift's compact protocol and begins with the schema: a list of elements, depth first.
https://parquet.apache.org/docs/file-format/metadata/
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanolan.checkpoint.file_kind import HEAD_BYTES, mistaken_for
from nanolan.errors import BadAnswer

MAGIC = b"PAR1"
TAIL_BYTES = 64 << 10  # contain the whole footer of most files, and the schema of all
MOST_DEPTH = 32
MOST_ELEMENTS = 10_000
TYPES = {
    0: "BOOLEAN",
    1: "INT32",
    2: "INT64",
    3: "INT96",
    4: "FLOAT",
    5: "DOUBLE",
    6: "BYTE_ARRAY",
    7: "FIXED_LEN_BYTE_ARRAY",
}
# names that writers give to the levels of a list
WRAPPERS = ("list", "element", "item", "array", "bag", "array_element")
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
NUMBERS = (4, 5, 6)  # integers of 16, 32 and 64 bits


@dataclass(frozen=True)
class Footer:
    """A file's columns (plain path, such as messages.role, to type) and its number of rows."""

    columns: dict[str, str]
    rows: int


def read_footer(file: BinaryIO, where: str) -> Footer:
    """The footer of a parquet file; BadAnswer if it is not a parquet file."""
    footer = _footer(file, where)
    try:
        schema, rows = _schema_and_rows(footer)
        return Footer(dict(_leaves(schema)), rows)
    except Exception as e:  # a hostile footer can raise anything
        raise BadAnswer(
            f"{where}: not a parquet file, its footer cannot be read ({type(e).__name__})"
        ) from None


def plain_path(path: str) -> str:
    """A column's path without the levels that a list adds: messages.list.element.role is messages.role."""
    first, *rest = path.split(".")
    return ".".join([first, *(part for part in rest if part not in WRAPPERS)])


def _footer(file: BinaryIO, where: str) -> bytes:
    """The first bytes of the footer."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    if tail[-4:] != MAGIC or size < 12:
        file.seek(0)
        what = mistaken_for(file.read(HEAD_BYTES)) or "cut off, or not a parquet file"
        raise BadAnswer(f"{where}: {what}")
    length = int.from_bytes(tail[-8:-4], "little")
    start = size - 8 - length
    if start < 4:
        raise BadAnswer(f"{where}: cut off, or not a parquet file")
    if length + 8 <= len(tail):
        return tail[len(tail) - 8 - length : -8]
    file.seek(start)
    return file.read(min(length, TAIL_BYTES))


def _leaves(schema: list[dict[int, Any]]) -> Iterator[tuple[str, str]]:
    """(path, type) of the columns of a schema, which lists its elements depth first."""
    elements = iter(schema)

    def below(element: dict[int, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if len(path) > MOST_DEPTH:
            raise ValueError("too deep")
        if not element.get(5):
            yield plain_path(".".join(path)), TYPES[element[1]]
        for _ in range(element.get(5) or 0):
            child = next(elements)
            yield from below(child, (*path, child[4].decode()))

    root = next(elements)
    yield from below(root, ()) if root.get(5) else ()


def _schema_and_rows(footer: bytes) -> tuple[list[dict[int, Any]], int]:
    """Fields 2 and 3 of the FileMetaData; later fields are not read."""
    reader = _Compact(footer)
    found = dict[int, Any]()
    for field, kind in reader.fields():
        found[field] = reader.value(kind)
        if field >= 3:
            break
    return found[2], int(found[3])


class _Compact:
    """Decodes values of Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._input = io.BytesIO(data)

    def byte(self) -> int:
        return self._input.read(1)[0]

    def varint(self) -> int:
        found = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        raise ValueError("an endless number")

    def zigzag(self) -> int:
        n = self.varint()
        return (n >> 1) ^ -(n & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """(id, type) of each field of a struct; the caller must read the value before it asks for the next field."""
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.zigzag()
            yield field, head & 15

    def value(self, kind: int, depth: int = 0, in_list: bool = False) -> Any:
        """The next value; a struct as a dictionary by field id."""
        if depth > MOST_DEPTH:
            raise ValueError("too deep")
        if kind in (TRUE, FALSE):
            return self.byte() == TRUE if in_list else kind == TRUE
        if kind in NUMBERS:
            return self.zigzag()
        if kind == STRUCT:
            return {field: self.value(k, depth + 1) for field, k in self.fields()}
        if kind in (LIST, SET):
            head = self.byte()
            size = self.varint() if head >> 4 == 15 else head >> 4
            if size > MOST_ELEMENTS:
                raise ValueError("too many elements")
            return [self.value(head & 15, depth + 1, in_list=True) for _ in range(size)]
        if kind == MAP:
            return self._map(depth)
        return self._input.read(self.varint() if kind == BINARY else {BYTE: 1, DOUBLE: 8}[kind])

    def _map(self, depth: int) -> list[Any]:
        size = self.varint()
        kinds = self.byte() if size else 0
        if size > MOST_ELEMENTS:
            raise ValueError("too many elements")
        return [
            (self.value(kinds >> 4, depth + 1, True), self.value(kinds & 15, depth + 1, True))
            for _ in range(size)
        ]
