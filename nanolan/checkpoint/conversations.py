"""Reads identity_conversations.jsonl, the user's own conversations, for upload, doctor, launch, the trainer and forks.

A conversation is an array of messages, or an object with them under "messages": perhaps one of the system first, then user
and assistant in turn; the last one is the assistant's. The content is text, of the assistant also parts: text, python, and
python_output. A file holds one conversation a line, or all of them in one array. Its readers get nanochat's form: an array,
the system's message merged into the user's first.
"""

from __future__ import annotations

import itertools
import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from nanolan.checkpoint.foreign_conversations import CONVERT, ROLE_OF, form_of, is_message, why_not
from nanolan.checkpoint.json_values import parse, read_values
from nanolan.errors import BadAnswer
from nanolan.phases import MOST_DATA_BYTES

Message = dict[str, Any]
ROLES = ("user", "assistant")
# What other trainers call it that an answer is not trained, if it is 0 or false
UNTRAINED = ("weight", "train", "training", "train_on_turn", "loss", "loss_weight")
PART_TYPES = ("text", "python", "python_output")
FORM = 'A conversation is [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'
PYTHON = 'a call is a part {"type": "python", "text": ...}, its result one of python_output'


class Found(NamedTuple):
    """A conversation, and where it stands in its file."""

    messages: list[Message]
    offset: int  # in bytes
    size: int  # in bytes


def read_conversations(path: Path) -> list[list[Message]]:
    """The conversations of a file; BadAnswer names the file, the line and what is wrong there."""
    return [found.messages for found in iter_conversations(path)]


def iter_conversations(path: Path) -> Iterator[Found]:
    """The conversations of a file, one at a time; BadAnswer as in `read_conversations`."""
    try:
        if path.stat().st_size > MOST_DATA_BYTES:
            raise BadAnswer(f"{path}: larger than {MOST_DATA_BYTES >> 20} MiB")
        with open(path, "rb") as f:
            yield from find_conversations(f, str(path))
    except OSError as e:
        raise BadAnswer(f"{path}: cannot be read ({e.strerror})") from None


def check_file(path: Path) -> int:
    """The number of conversations in a file; BadAnswer as in `read_conversations`."""
    return sum(1 for _ in iter_conversations(path))


def count_conversations(file: BinaryIO, where: str, *, text_only: bool = False) -> int:
    """The number of conversations in an open file; BadAnswer as in `find_conversations`."""
    return sum(1 for _ in find_conversations(file, where, text_only=text_only))


def find_conversations(file: BinaryIO, where: str, *, text_only: bool = False) -> Iterator[Found]:
    """The conversations of an open, seekable file; BadAnswer names the line that is wrong, or that has parts if `text_only`."""
    empty = True
    for value in read_values(file, where, is_message, FORM):
        place = f"{where}, line {value.line}"
        messages = check_conversation(value.value, place)
        if text_only:
            _check_text_only(messages, place)
        yield Found(messages, value.offset, value.size)
        empty = False
    if empty:
        raise BadAnswer(f"{where}: no conversations in it")


def read_spans(path: Path, spans: Iterable[tuple[int, int]]) -> Iterator[list[Message]]:
    """The conversations of a file that stand at these (offset, size), as `iter_conversations` found them."""
    with open(path, "rb") as f:
        for offset, size in spans:
            f.seek(offset)
            yield check_conversation(parse(f.read(size).decode())[0], f"{path}, byte {offset}")


def write_conversations(source: Path, target: Path) -> None:
    """Write the conversations of a file one a line, in nanochat's form and in ASCII, which every reader of lines reads."""
    temp = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(temp, "w", encoding="ascii") as f:
            f.writelines(json.dumps(c.messages) + "\n" for c in iter_conversations(source))
        temp.replace(target)
    finally:
        temp.unlink(missing_ok=True)


def check_conversation(value: Any, where: str) -> list[Message]:
    """The messages of a conversation in nanochat's form; BadAnswer says what is wrong."""
    if not isinstance(value, dict):
        return check_messages(value, where)
    if why := why_not(value):
        raise BadAnswer(f"{where}: {why}")
    if isinstance(value.get("messages"), list) and not form_of(value):
        return check_messages(value["messages"], where)
    if form := form_of(value):
        raise BadAnswer(f"{where}: {form}. {CONVERT}")
    if is_message(value):
        raise BadAnswer(
            f"{where}: a message, no conversation: a line holds all its messages. {FORM}"
        )
    keys = ", ".join(sorted(value))[:80] or "none"
    raise BadAnswer(f"{where}: an object without a list of messages (its keys: {keys}). {FORM}")


def check_messages(messages: Any, where: str) -> list[Message]:
    """`messages` in nanochat's form, if they are a conversation: one of the system or none, then user and assistant in turn."""
    if not isinstance(messages, list):
        raise BadAnswer(f"{where}: no array of messages. {FORM}")
    if form := form_of(messages):
        raise BadAnswer(f"{where}: {form}. {CONVERT}")
    if messages and all(isinstance(m, list) for m in messages):
        raise BadAnswer(f"{where}: an array of {len(messages)} arrays, no conversation. {FORM}")
    found = [_check_message(m, f"{where}: message {i}") for i, m in enumerate(messages, 1)]
    if found and found[0]["role"] == "system":
        found = _merge_system(found, where)
    for i, (message, role) in enumerate(
        zip(found, itertools.cycle(ROLES), strict=False), 1 + len(messages) - len(found)
    ):
        if message["role"] != role:
            raise BadAnswer(
                f"{where}: message {i} is of the {message['role']}, but it is the {role}'s turn: "
                "user and assistant speak in turn, the user first"
            )
    if len(found) < 2:
        raise BadAnswer(f"{where}: no array of two or more messages. {FORM}")
    if len(found) % 2:
        raise BadAnswer(f"{where}: ends with the user: the last message is the assistant's")
    return found


def _merge_system(messages: list[Message], where: str) -> list[Message]:
    """The system's message before the first of the user, as nanochat trains it."""
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        raise BadAnswer(f"{where}: no message of the user after the system's")
    text = f"{system['content']}\n\n{rest[0]['content']}"
    return [{"role": "user", "content": text}, *rest[1:]]


def _check_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise BadAnswer(f"{where} is no object with role and content. {FORM}")
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        known = isinstance(role, str) and role.strip().lower() in ROLE_OF
        raise BadAnswer(
            f"{where} has the role {reprlib.repr(role)}: nanochat knows user, assistant and, first, system"
            + (f". {CONVERT}" if known else "")
        )
    if len(message) > 2:
        _check_rest(message, where)
    if isinstance(content, list):
        return {"role": role, "content": _check_parts(content, role, where)}
    if not isinstance(content, str):
        raise BadAnswer(f"{where} holds no text: its content is {type(content).__name__}")
    if not content.strip():
        raise BadAnswer(f"{where} is empty")
    return message if len(message) == 2 else {"role": role, "content": content}


def _check_rest(message: Mapping[str, Any], where: str) -> None:
    """BadAnswer for what changes the meaning of a message and has no place in nanochat's form; the rest is left out."""
    for key in ("tool_calls", "function_call"):
        if message.get(key):
            raise BadAnswer(f"{where} has {key}, which nanochat does not know: {PYTHON}")
    for key in UNTRAINED if message.get("role") == "assistant" else ():
        if key in message and message[key] in (0, False):
            raise BadAnswer(
                f"{where} has the {key} {json.dumps(message[key])}: nanochat trains every answer"
            )


def _check_parts(parts: list[Any], role: str, where: str) -> str | list[dict[str, str]]:
    """The parts of an answer; a single one of text as its text, which is trained the same."""
    if role != "assistant":
        raise BadAnswer(f"{where} is in parts, which only the assistant's may be. {CONVERT}")
    found = [_check_part(part, where) for part in parts]
    if not any(part["text"].strip() for part in found):
        raise BadAnswer(f"{where} is empty")
    for before, part in zip([None, *found], found, strict=False):
        if part["type"] == "python_output" and (before is None or before["type"] != "python"):
            raise BadAnswer(f"{where} has a python_output without a python before it")
        if part["type"] == "python" and not part["text"].strip():
            raise BadAnswer(f"{where} has a part python that is empty")
    return found[0]["text"] if len(found) == 1 and found[0]["type"] == "text" else found


def _check_part(part: Any, where: str) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else part
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in PART_TYPES:
        raise BadAnswer(
            f"{where} has a part {reprlib.repr(kind)}: nanochat knows text, python and python_output"
        )
    if not isinstance(part.get("text"), str):
        raise BadAnswer(f"{where} has a part {kind} without text")
    return {"type": kind, "text": part["text"]}


def _check_text_only(messages: list[Message], where: str) -> None:
    for message in messages:
        if not isinstance(message["content"], str):
            raise BadAnswer(
                f"{where}: an answer with tool calls, which the scripts of trainer= do not read from this file: take it "
                "out, or train without the file: --no-identity"
            )
