"""Conversations: rendering as nanochat does it, and bad lines named by number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanolan.checkpoint.json_values import MAX_VALUE_BYTES
from nanolan.errors import BadAnswer
from nanolan.model.conversation import (
    calculator_parts,
    check,
    conversation,
    multiple_choice,
    read_jsonl,
    render,
    render_prompt,
)
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.data.mixtures import Block, Part, Source
from nanolan.train.data.rendering import Rendering
from nanolan.train.data.tiny_model import learn_encoding

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
    ids, mask = render(
        conversation("hi", [*parts, {"type": "python_output", "text": "5"}]), TOKENIZER
    )
    trained = TOKENIZER.decode([t for t, m in zip(ids, mask, strict=True) if m])
    rest = TOKENIZER.decode([t for t, m in zip(ids, mask, strict=True) if not m])
    assert trained == "so <|python_start|>2+3<|python_end|><|assistant_end|>"
    assert (
        rest
        == "<|bos|><|user_start|>hi<|user_end|><|assistant_start|><|output_start|>5<|output_end|>"
    )


def test_a_system_message_joins_the_first_question() -> None:
    c = conversation("hi", "ok")
    with_system = {"messages": [{"role": "system", "content": "be kind"}, *c["messages"]]}
    assert render(with_system, TOKENIZER) == render(conversation("be kind\n\nhi", "ok"), TOKENIZER)


def test_calculator_notes_become_parts() -> None:
    assert calculator_parts("It is <<2+3=5>>5.") == [
        {"type": "text", "text": "It is "},
        {"type": "python", "text": "2+3"},
        {"type": "python_output", "text": "5"},
        {"type": "text", "text": "5."},
    ]
    assert calculator_parts("<<a=b=c>>")[:2] == [
        {"type": "python", "text": "a=b"},
        {"type": "python_output", "text": "c"},
    ]


def test_a_multiple_choice_prompt_ends_with_what_to_answer() -> None:
    assert multiple_choice("Why?", "AB", ["x", "y"]) == (
        "Multiple Choice question: Why?\n- x=A\n- y=B\n\nRespond only with the letter of the correct answer."
    )


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_good_lines_and_empty_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    path.write_text("\r\n".join([json.dumps([U, A]), "", json.dumps([U, A, U, A])]))
    assert [len(c["messages"]) for c in read_jsonl(path)] == [2, 4]


def test_a_line_of_any_length_costs_only_its_bound_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "identity.jsonl"
    with open(path, "wb") as f:
        f.write(
            json.dumps([U, A]).encode()
            + b"\n"
            + b"x" * (5 * MAX_VALUE_BYTES)
            + b"\n"
            + json.dumps([U, A]).encode()
        )
    with pytest.raises(BadAnswer, match="line 2: longer than 1 MiB"):
        read_jsonl(path)


def test_a_million_blanks_are_tokens_as_any_text(fixtures: Path) -> None:
    """In one piece they make tiktoken panic, which is no Exception."""
    tokenizer = load_tokenizer(fixtures / "tiny" / "tokenizer")
    ids = tokenizer.encode("a" + " " * 1_100_000 + "b")
    assert tokenizer.decode(ids) == "a" + " " * 1_100_000 + "b"


class Panics:
    """An encoding that fails as Rust does."""

    n_vocab, _special_tokens = 265, TOKENIZER._encoding._special_tokens

    def encode_ordinary(self, text: str) -> list[int]:
        raise type("PanicException", (BaseException,), {})("StackOverflow")


def test_text_that_cannot_be_tokenised_is_named_with_its_row() -> None:
    source = Source(Part("gsm8k"), (Block(7, 1, lambda: [conversation("why?", "so")]),))
    rendering = Rendering([source], Tokenizer(Panics()), 99)  # type: ignore[arg-type]
    with pytest.raises(
        BadAnswer,
        match="gsm8k train, row 7: the tokenizer cannot read 'why.'.*PanicException: StackOverflow",
    ):
        rendering.block((0, 0))
