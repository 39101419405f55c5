"""Spelling tasks: right, varied, the same every time, and none of the tests is ever trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanolan.model.conversation import check
from nanolan.model.generation.calculator import calculate
from nanolan.train.data.mixtures import MAKERS, TRAINING, Part, open_mixture
from nanolan.train.data.spelling import WORDS, count_letters, is_test, of_split, spell, words_of
from tests.support.tiny_world import write_data, write_parquet

TRAIN, TEST = of_split(WORDS, "train"), of_split(WORDS, "test")


def test_our_words_are_plain_and_there_are_enough_for_tests() -> None:
    assert len(set(WORDS)) == len(WORDS) > 800
    assert all(re.fullmatch("[a-z]{3,14}", word) for word in WORDS)
    assert len(TEST) > 80
    assert not set(TRAIN) & set(TEST)


def test_a_word_is_spelled_right() -> None:
    for n in range(300):
        user, assistant = (m["content"] for m in spell(n, "train", TRAIN)["messages"])
        word, _, letters = assistant.partition(": ")
        assert word in user
        assert letters.split(" ") == list(word)


def test_letters_are_counted_right_by_hand_and_by_the_calculator() -> None:
    for n in range(500):
        c = check(count_letters(n, "train", TRAIN), "made")
        user, [text, python, output, end] = (m["content"] for m in c["messages"])
        word, letter = re.fullmatch(r"'([a-z]+)'\.count\('([a-z])'\)", python["text"]).groups()  # type: ignore[union-attr]
        assert word in user and letter in user
        running = re.search(r"Counting .: (.*)\n", text["text"])[1].split(" ")  # type: ignore[index]
        assert running == [f"{c}:{word[: i + 1].count(letter)}" for i, c in enumerate(word)]
        assert calculate(python["text"]) == output["text"] == str(word.count(letter))
        assert end["text"].endswith(f"#### {word.count(letter)}")


@pytest.mark.parametrize("make", [spell, count_letters])
def test_a_row_is_the_same_every_time_and_rows_differ(make: object) -> None:
    rows = [str(make(n, "train", TRAIN)) for n in range(200)]  # type: ignore[operator]
    assert rows == [str(make(n, "train", TRAIN)) for n in range(200)]  # type: ignore[operator]
    assert len(set(rows)) > 190


@pytest.mark.parametrize("make", [spell, count_letters])
def test_no_test_row_is_ever_trained(make: object) -> None:
    questions = [
        {str(make(n, split, words)["messages"][0]) for n in range(-50, 1000)}  # type: ignore[operator]
        for split, words in (("train", TRAIN), ("test", TEST))
    ]
    assert not questions[0] & questions[1]


def test_the_seeds_of_train_and_test_are_disjoint_even_over_the_same_words() -> None:
    rows = [
        [str(count_letters(n, split, WORDS)) for n in range(-300, 300)]
        for split in ("train", "test")
    ]
    assert (
        len(set(rows[0]) & set(rows[1])) < 10
    )  # chance; a negative seed that is a positive one gives hundreds


def test_words_of_texts_are_those_used_twice_and_come_after_ours() -> None:
    words = words_of(
        [
            "the zyzzyva, the Quokka's o'clock re-read",
            "zyzzyva once http3 naïve naïve supercalifragilistic " * 2,
        ]
    )
    assert words[: len(WORDS)] == tuple(WORDS)
    assert set(words[len(WORDS) :]) == {"zyzzyva", "the", "once"}


def test_the_made_rows_are_nanochats_for_its_data_and_fewer_for_less(tmp_path: Path) -> None:
    write_data(tmp_path, 40)  # 40 rows each, and 5 of identity

    def made(phase: str, rows: int | None) -> list[int]:
        return [
            s.taken
            for s in open_mixture(TRAINING[phase], tmp_path, 42, rows)
            if s.part.data in MAKERS
        ]

    assert made("mid", None) == [46, 18]  # half of 130, five to two
    assert made("sft", None) == [41, 41]
    assert made("mid", 700) == [500, 200]
    assert made("mid", 0) == [0, 0]
    parts = (Part("gsm8k"), Part("spell", limit=200), Part("count-letters", limit=80))
    write_parquet(tmp_path, "gsm8k", "train", [{"question": "q", "answer": "a"}] * 1000)
    assert [s.taken for s in open_mixture(parts, tmp_path, 42, None)] == [1000, 200, 80]


def test_made_rows_spell_the_words_of_the_data_and_no_test_word(tmp_path: Path) -> None:
    chat = [
        {
            "messages": [
                {"role": "user", "content": "quixotic zebrafish"},
                {"role": "assistant", "content": "a"},
            ]
        }
    ] * 2
    write_parquet(tmp_path, "smol-smoltalk", "train", chat)
    [_, source] = open_mixture(
        (Part("smol-smoltalk"), Part("spell", limit=30_000)), tmp_path, 42, 20_000
    )
    spelled = {
        c["messages"][1]["content"].split(":")[0]
        for block in source.blocks
        for _, c in source.take(block)
    }
    assert "quixotic" in spelled or "zebrafish" in spelled
    assert not any(map(is_test, spelled))
    assert [n for block in source.blocks for n, _ in source.take(block)] == list(range(20_000))
