"""Conversations: rendering as nanochat does it, and bad lines named by number."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import BadAnswer
from nanolan.train.conversation import (
    MAX_LINE_BYTES,
    calculator_parts,
    check,
    conversation,
    multiple_choice,
    read_jsonl,
    render,
    render_prompt,
)
from nanolan.train.tiny import learn_encoding
from nanolan.train.tokenizer import Tokenizer, load_tokenizer

TOKENIZER = Tokenizer(learn_encoding(["hello there, who are you and what is 2 + 3?"], 7))


def test_ids_and_masks_are_exactly_nanochats(fixtures: Path) -> None:
    tokenizer = load_tokenizer(fixtures / "tiny" / "tokenizer")
    for name, want in json.loads((fixtures / "tiny" / "render.json").read_text()).items():
        c = check(want["conversation"], name)
        assert render(c, tokenizer) == (want["ids"], want["mask"])
        assert render(c, tokenizer, 9) == (want["ids_max9"], want["mask_max9"])
        assert render_prompt(c, tokenizer) == want["completion_ids"]


def test_only_what_the_assistant_writes_is_trained() -> None:
    parts = [{"type": "text", "text": "so "}, {"type": "python", "text": "2+3"}]
    ids, mask = render(conversation("hi", [*parts, {"type": "python_output", "text": "5"}]), TOKENIZER)
    trained = TOKENIZER.decode([t for t, m in zip(ids, mask, strict=True) if m])
    rest = TOKENIZER.decode([t for t, m in zip(ids, mask, strict=True) if not m])
    assert trained == "so <|python_start|>2+3<|python_end|><|assistant_end|>"
    assert rest == "<|bos|><|user_start|>hi<|user_end|><|assistant_start|><|output_start|>5<|output_end|>"


def test_a_system_message_joins_the_first_question() -> None:
    c = conversation("hi", "ok")
    with_system = {"messages": [{"role": "system", "content": "be kind"}, *c["messages"]]}
    assert render(with_system, TOKENIZER) == render(conversation("be kind\n\nhi", "ok"), TOKENIZER)


def test_calculator_notes_become_parts() -> None:
    assert calculator_parts("It is <<2+3=5>>5.") == [
        {"type": "text", "text": "It is "}, {"type": "python", "text": "2+3"}, {"type": "python_output", "text": "5"},
        {"type": "text", "text": "5."}]
    assert calculator_parts("<<a=b=c>>")[:2] == [
        {"type": "python", "text": "a=b"}, {"type": "python_output", "text": "c"}]


def test_a_multiple_choice_prompt_ends_with_what_to_answer() -> None:
    assert multiple_choice("Why?", "AB", ["x", "y"]) == (
        "Multiple Choice question: Why?\n- x=A\n- y=B\n\nRespond only with the letter of the correct answer.")


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(("line", "says"), [
    ("{", "not JSON"), ("[" * 100_000, "not JSON"),
    ('{"messages": []}', "not a list of messages"), ("null", "not a list"),
    ("[1, 2]", "not a list of messages"), (json.dumps([U]), "has 1 message"), ("[]", "has 0 message"),
    (json.dumps([A, U]), "message 1 has role 'assistant', expected 'user'"),
    (json.dumps([U, U]), "message 2 has role 'user'"), (json.dumps([U, {"role": "assistant"}]), "content is NoneType"),
    (json.dumps([{"role": "user", "content": 5}, A]), "message 1: content is int"),
    (json.dumps([{"role": "user", "content": []}, A]), "message 1: content is list"),
    (json.dumps([{"role": "system", "content": "s"}, U, A]), "message 1 is not plain text"),
    (json.dumps([U, {"role": "assistant", "content": [{"type": "python", "text": "1"}]}]), "message 2 is not plain text"),
    (b"\xff\xfe", "not JSON"), (b'["' + b"x" * MAX_LINE_BYTES + b'"]', "longer than 1 MiB"),
], ids=lambda x: repr(x)[:30])
def test_a_bad_line_is_named_by_its_number(line: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    good = json.dumps([U, A]).encode() + b"\n\n"
    path.write_bytes(good + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good)
    found, [wrong] = read_jsonl(path)
    assert re.match(f"line 3: .*{says}", wrong)
    assert len(wrong) <= 200
    assert len(found) == 2, "the lines around it are read"


def test_good_lines_and_empty_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    path.write_text("\n".join([json.dumps([U, A]), "", json.dumps([U, A, U, A])]))
    found, wrong = read_jsonl(path)
    assert [len(c["messages"]) for c in found] == [2, 4]
    assert not wrong


def test_a_file_that_is_mostly_wrong_is_refused_with_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    path.write_text("\n".join([json.dumps([U, A]), "x", "y"]))
    with pytest.raises(BadAnswer, match="2 of 3 lines are not conversations; line 2: not JSON"):
        read_jsonl(path)


def test_a_line_of_any_length_costs_only_its_bound_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    with open(path, "wb") as f:
        f.write(json.dumps([U, A]).encode() + b"\n" + b"x" * (5 * MAX_LINE_BYTES) + b"\n" + json.dumps([U, A]).encode())
    found, wrong = read_jsonl(path)
    assert len(found) == 2
    assert wrong == ["line 2: longer than 1 MiB"]
