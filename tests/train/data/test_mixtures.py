"""Data sets: their schemas, their absence, their damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import BadAnswer
from nanolan.phases import IDENTITY_FILE
from nanolan.train.data.mixtures import IDENTITY, READERS, TRAINING, VALIDATION, Part, open_part
from tests.support.tiny_world import write_parquet


def rows_of(part: Part, data: Path) -> list[tuple[int, dict[str, Any]]]:
    source = open_part(part, data, seed=42)
    return [item for block in source.blocks for item in source.take(block)]


MMLU = {"question": "Which?", "subject": "", "choices": ["p", "q", "r", "s"], "answer": 2}


@pytest.mark.parametrize(
    ("name", "row", "user", "assistant"),
    [
        (
            "gsm8k",
            {"question": "2+3?", "answer": "<<2+3=5>>5\n#### 5"},
            "2+3?",
            [
                {"type": "python", "text": "2+3"},
                {"type": "python_output", "text": "5"},
                {"type": "text", "text": "5\n#### 5"},
            ],
        ),
        ("mmlu", MMLU, "Which?\n- p=A\n- q=B\n- r=C\n- s=D\n", "C"),
        ("mmlu", {"train": MMLU}, "- r=C\n", "C"),
        (
            "arc-easy",
            {
                "question": "Q",
                "choices": {"text": ["x", "y"], "label": ["1", "2"]},
                "answerKey": "2",
            },
            "- x=1\n- y=2\n",
            "2",
        ),
        (
            "smol-smoltalk",
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "ok"},
                ],
                "source": "s",
            },
            "hi",
            "ok",
        ),
    ],
)
def test_a_row_becomes_a_conversation(
    name: str, row: dict[str, Any], user: str, assistant: Any, tmp_path: Path
) -> None:
    write_parquet(tmp_path, name, "train", [row])
    [(number, c)] = rows_of(Part(name), tmp_path)
    assert number == 0
    assert user in c["messages"][0]["content"]
    assert c["messages"][1]["content"] == assistant


def test_rows_are_numbered_through_all_row_groups_and_files(tmp_path: Path) -> None:
    rows = [{"question": str(i), "answer": str(i)} for i in range(25)]
    path = write_parquet(tmp_path, "gsm8k", "train", rows, row_group_size=10)
    path.rename(path.with_name("train-00000-of-00002.parquet"))
    second = write_parquet(tmp_path, "gsm8k", "train", rows[:5])
    second.rename(second.with_name("train-00001-of-00002.parquet"))
    found = rows_of(Part("gsm8k"), tmp_path)
    assert [n for n, _ in found] == list(range(30))
    assert found[25][1]["messages"][0]["content"] == "0"


def test_a_limit_takes_a_seeded_choice_of_rows(tmp_path: Path) -> None:
    write_parquet(
        tmp_path, "gsm8k", "train", [{"question": str(i), "answer": "a"} for i in range(50)]
    )
    chosen = [n for n, _ in rows_of(Part("gsm8k", limit=7), tmp_path)]
    assert len(chosen) == 7
    assert chosen != list(range(7))
    assert chosen == [n for n, _ in rows_of(Part("gsm8k", limit=7), tmp_path)]
    assert len(rows_of(Part("gsm8k", limit=99), tmp_path)) == 50


def test_a_missing_data_set_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="openai/gsm8k is missing: no main/train"):
        open_part(Part("gsm8k"), tmp_path, 42)


def test_a_missing_identity_file_is_a_note(tmp_path: Path) -> None:
    source = open_part(Part(IDENTITY), tmp_path, 42)
    assert source.rows == 0
    assert "no identity file" in source.notes[0]


def test_a_bad_identity_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text("[]\n")
    with pytest.raises(BadAnswer, match="line 1"):
        open_part(Part(IDENTITY), tmp_path, 42)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gsm8k", {"q": "no such column"}),
        ("gsm8k", {"question": "q", "answer": None}),
        ("mmlu", MMLU | {"answer": 7}),
        ("mmlu", MMLU | {"choices": ["only one"]}),
        ("smol-smoltalk", {"messages": []}),
        (
            "arc-easy",
            {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1"]}, "answerKey": "2"},
        ),
    ],
    ids=str,
)
def test_a_bad_row_is_named_with_its_file(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    path = write_parquet(tmp_path, name, "train", [row])
    with pytest.raises(BadAnswer, match=f"{path.name}(, row 0: not a row|: .*its layout changed)"):
        rows_of(Part(name), tmp_path)


ARC = {"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("mmlu", MMLU | {"answer": -1}, "the answer -1 is none of 0 to 3"),
        ("mmlu", MMLU | {"answer": 4}, "the answer 4 is none of"),
        (
            "mmlu",
            MMLU | {"choices": ["1", "2", "3", "4", "5"]},
            "5 choices for the letters A, B, C, D",
        ),
        ("arc-easy", ARC | {"answerKey": "C"}, "the answer 'C' is none of the choices A, B"),
        ("arc-easy", ARC | {"answerKey": ""}, "none of the choices"),
        (
            "arc-easy",
            ARC | {"choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answerKey": "A"},
            "2 choices for the letters A, A",
        ),
        (
            "arc-easy",
            ARC | {"choices": {"text": ["x", None], "label": ["A", "B"]}},
            "a choice is None",
        ),
        ("arc-easy", ARC | {"choices": None}, "not a row"),
    ],
    ids=str,
)
def test_an_answer_outside_of_its_choices_is_an_error_with_file_and_row(
    name: str, row: dict[str, Any], says: str, tmp_path: Path
) -> None:
    good = MMLU if name == "mmlu" else ARC
    path = write_parquet(tmp_path, name, "train", [good, good, row])
    with pytest.raises(BadAnswer, match=f"{path.name}, row 2: .*{says}"):
        rows_of(Part(name), tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_damaged_parquet_file_is_named(keep: float, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, "gsm8k", "train", [{"question": "q", "answer": "a"}] * 100)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(BadAnswer, match=path.name):
        rows_of(Part("gsm8k"), tmp_path)


def test_the_mixtures_are_nanochats() -> None:
    assert [(p.data, p.limit, p.times) for p in TRAINING["mid"]] == [
        ("smol-smoltalk", None, 1),
        ("mmlu", None, 1),
        ("gsm8k", None, 1),
        (IDENTITY, None, 2),
        ("spell", 200_000, 1),
        ("count-letters", 80_000, 1),
    ]
    assert [(p.data, p.limit, p.times) for p in TRAINING["sft"]] == [
        ("arc-easy", None, 1),
        ("arc-challenge", None, 1),
        ("gsm8k", None, 1),
        ("smol-smoltalk", 10_000, 1),
        (IDENTITY, None, 1),
        ("spell", 300, 1),
        ("count-letters", 300, 1),
    ]


def test_validation_never_reads_what_is_trained() -> None:
    assert all(p.split == "test" for parts in VALIDATION.values() for p in parts)
    assert all(p.split == "train" for parts in TRAINING.values() for p in parts)
    assert all(p.data in READERS for parts in VALIDATION.values() for p in parts)
