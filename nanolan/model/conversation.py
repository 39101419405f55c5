"""Conversations: checked, read from JSONL, rendered to token ids and a mask of the trained tokens.

A conversation is {"messages": [{"role": "user"|"assistant"|"system", "content": str | parts}]}; parts
(assistant only) are {"type": "text"|"python"|"python_output", "text": str}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanolan.checkpoint.conversations import iter_conversations, read_conversations, read_spans
from nanolan.errors import BadAnswer
from nanolan.model.tokenizer import Tokenizer

Conversation = dict[str, Any]

# part type -> (token before, token after, is it trained)
PARTS = {
    "text": (None, None, 1),
    "python": ("python_start", "python_end", 1),
    "python_output": ("output_start", "output_end", 0),
}


def conversation(user: str, assistant: str | list[dict[str, str]]) -> Conversation:
    """One question and its answer."""
    return {
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    }


def check(c: Any, where: str) -> Conversation:
    """`c` if it is a conversation of at least two messages; BadAnswer says which message is wrong."""
    messages = c.get("messages") if isinstance(c, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadAnswer(f"{where}: not a list of messages")
    system = 1 if messages and messages[0].get("role") == "system" else 0
    if len(messages) - system < 2:
        raise BadAnswer(
            f"{where}: needs a question and an answer, has {len(messages) - system} message(s)"
        )
    for i, m in enumerate(messages):
        want = "system" if i < system else ("user", "assistant")[(i - system) % 2]
        if m.get("role") != want:
            raise BadAnswer(
                f"{where}: message {i + 1} has role {m.get('role')!r}, expected {want!r}"
            )
        _check_content(m.get("content"), want, f"{where}: message {i + 1}")
    return c


def _check_content(content: Any, role: str, where: str) -> None:
    if isinstance(content, str):
        return
    if role != "assistant" or not isinstance(content, list):
        raise BadAnswer(f"{where}: content is {type(content).__name__}, expected text")
    for part in content:
        if not (
            isinstance(part, dict)
            and part.get("type") in list(PARTS)
            and isinstance(part.get("text"), str)
        ):
            raise BadAnswer(f"{where}: a part of the content is not text, python or python_output")


def read_jsonl(path: Path) -> list[Conversation]:
    """The conversations of the identity file; BadAnswer names the first invalid line."""
    return [{"messages": messages} for messages in read_conversations(path)]


Spans = list[tuple[int, int]]  # (offset, size) of conversations in a file, in bytes


def spans_of(path: Path, count: int) -> list[Spans]:
    """Where the conversations of the identity file stand, `count` a list; BadAnswer names the first invalid line."""
    spans = [(found.offset, found.size) for found in iter_conversations(path)]
    return [spans[i : i + count] for i in range(0, len(spans), count)]


def read_block(path: Path, spans: Spans) -> Iterator[Conversation]:
    """The conversations at some of the places that `spans_of` found."""
    return ({"messages": messages} for messages in read_spans(path, spans))


def render(
    c: Conversation, tokenizer: Tokenizer, max_tokens: int = 2048
) -> tuple[list[int], list[int]]:
    """A checked conversation as ids and mask (1 = trained), both truncated at max_tokens."""
    ids, mask = [tokenizer.bos], [0]

    def put(tokens: Sequence[int], trained: int) -> None:
        ids.extend(tokens)
        mask.extend([trained] * len(tokens))

    for m in _merge_system(c["messages"]):
        if m["role"] == "user":
            put(
                [
                    tokenizer.special("user_start"),
                    *tokenizer.encode(m["content"]),
                    tokenizer.special("user_end"),
                ],
                0,
            )
            continue
        put([tokenizer.special("assistant_start")], 0)
        content = m["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            before, after, trained = PARTS[part["type"]]
            put([tokenizer.special(before)] if before else [], trained)
            put(tokenizer.encode(part["text"]), trained)
            put([tokenizer.special(after)] if after else [], trained)
        put([tokenizer.special("assistant_end")], 1)
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(c: Conversation, tokenizer: Tokenizer, max_tokens: int = 2048) -> list[int]:
    """Ids up to the start of the last answer: the last message dropped, assistant_start added."""
    ids, _ = render({"messages": c["messages"][:-1]}, tokenizer, max_tokens)
    return [*ids, tokenizer.special("assistant_start")]


def _merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if messages[0]["role"] != "system":
        return messages
    system, user, *rest = messages
    return [{"role": "user", "content": system["content"] + "\n\n" + user["content"]}, *rest]


def calculator_parts(answer: str) -> list[dict[str, str]]:
    """A GSM8K answer with its <<expression=result>> notes as python and python_output parts."""
    parts = []
    for i, piece in enumerate(re.split(r"<<([^<>]+)>>", answer)):
        if i % 2 == 0:
            parts.append({"type": "text", "text": piece})
            continue
        expression, equals, result = piece.rpartition("=")
        parts.append({"type": "python", "text": expression if equals else piece})
        parts.append({"type": "python_output", "text": result if equals else ""})
    return [p for p in parts if p["type"] != "text" or p["text"]]


def multiple_choice(question: str, letters: Sequence[str], choices: Sequence[str]) -> str:
    """The prompt of a multiple choice question; the answer to it is a bare letter."""
    lines = "".join(
        f"- {choice}={letter}\n" for letter, choice in zip(letters, choices, strict=True)
    )
    return f"Multiple Choice question: {question}\n{lines}\nRespond only with the letter of the correct answer."
