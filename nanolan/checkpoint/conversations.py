"""Reads identity_conversations.jsonl, for upload, doctor, launch and the trainer.

Each line is one conversation: a JSON array of messages with text, of user and assistant in turn, the user first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nanolan.checkpoint.file_kind import HEAD_BYTES, mistaken_for
from nanolan.errors import BadAnswer
from nanolan.phases import MOST_DATA_BYTES

Message = dict[str, str]
MAX_LINE_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
ROLES = ("user", "assistant")
FORM = 'Each line is one JSON array: [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'


def read_conversations(path: Path) -> list[list[Message]]:
    """The conversations of a file; BadAnswer names the file, the line and what is wrong there."""
    try:
        if path.stat().st_size > MOST_DATA_BYTES:
            raise BadAnswer(f"{path}: larger than {MOST_DATA_BYTES >> 20} MiB")
        with open(path, "rb") as f:
            return list(_conversations(f, str(path)))
    except OSError as e:
        raise BadAnswer(f"{path}: cannot be read ({e.strerror})") from None


def count_conversations(file: BinaryIO, where: str) -> int:
    """The number of conversations in an open file; BadAnswer as in `read_conversations`."""
    return sum(1 for _ in _conversations(file, where))


def _conversations(file: BinaryIO, where: str) -> Iterator[list[Message]]:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if what := mistaken_for(head):
        raise BadAnswer(f"{where}, line 1: {what}; no conversations in it")
    if head.startswith(BOM):
        raise BadAnswer(
            f"{where}, line 1: begins with a byte order mark: save it as UTF-8 without one"
        )
    found = 0
    for n, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        if messages := _line(line, f"{where}, line {n}"):
            found += 1
            yield messages
    if not found:
        raise BadAnswer(f"{where}: no conversations in it")


def _line(line: bytes, where: str) -> list[Message] | None:
    """The conversation in a line; None for an empty line."""
    if len(line) > MAX_LINE_BYTES:
        raise BadAnswer(f"{where}: longer than {MAX_LINE_BYTES >> 20} MiB")
    text = line.strip()
    if not text:
        return None
    if b"\r" in text:
        raise BadAnswer(f"{where}: its lines end in CR alone: save it with LF line ends")
    try:
        messages = json.loads(text.decode())
    except (ValueError, RecursionError) as e:
        raise BadAnswer(f"{where}: not JSON{_why(text, e)}. {FORM}") from None
    return check_messages(messages, where)


def _why(text: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return ", not even UTF-8 text"
    return ": an array over several lines" if text in (b"[", b"[[", b"[{") else ""


def check_messages(messages: Any, where: str) -> list[Message]:
    """`messages` if they are a conversation: two or more, of user and assistant in turn, each with text."""
    if isinstance(messages, list) and messages and all(isinstance(m, list) for m in messages):
        raise BadAnswer(f"{where}: one array of {len(messages)} conversations. {FORM}")
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadAnswer(f"{where}: not an array of two or more messages. {FORM}")
    for i, m in enumerate(messages):
        _check_message(m, ROLES[i % 2], f"{where}: message {i + 1}")
    return messages


def _check_message(message: Any, role: str, where: str) -> None:
    if not isinstance(message, dict) or message.get("role") != role:
        raise BadAnswer(f"{where} is not of the {role}: {ROLES[0]} and {ROLES[1]} speak in turn")
    content = message.get("content")
    if not isinstance(content, str):
        raise BadAnswer(f"{where} holds no text: its content is {type(content).__name__}")
    if not content.strip():
        raise BadAnswer(f"{where} is empty")
