"""Tests of nanolan/train/evaluation/samples.py: a few of the model's answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nanolan.model.checkpoint import load
from nanolan.model.generation.engine import Engine
from nanolan.model.tokenizer import load_tokenizer
from nanolan.phases import DATASETS
from nanolan.train.evaluation.samples import QUESTIONS, answers


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine(
        load(tiny / "base_checkpoints/d20", "cpu").model.eval(), load_tokenizer(tiny / "tokenizer")
    )


def test_it_is_asked_who_it_is_and_problems_with_a_right_answer(engine: Engine, tiny: Path) -> None:
    found = answers(engine, tiny / "data", 8)
    assert [s.question for s in found if s.task == "Chat"] == list(QUESTIONS)
    problems = [s for s in found if s.task != "Chat"]
    assert {s.task for s in problems} == {"GSM8K", "SpellingBee"}
    assert all(s.expected and s.right in (True, False) for s in problems)
    assert all(s.right is None and s.expected is None for s in found if s.task == "Chat")


def test_the_same_model_answers_the_same(engine: Engine, tiny: Path) -> None:
    assert answers(engine, tiny / "data", 8) == answers(engine, tiny / "data", 8)


def test_a_missing_data_set_costs_its_own_problems_alone(
    engine: Engine, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / DATASETS["gsm8k"].repo)
    tasks = {s.task for s in answers(engine, tmp_path / "data", 8)}
    assert "GSM8K" not in tasks and "SpellingBee" in tasks


class Short(Engine):
    """One whose model has positions for very short prompts only."""

    def room(self, max_new_tokens: int) -> int:
        return 12


def test_questions_that_leave_no_room_for_an_answer_are_left_out(
    engine: Engine, tiny: Path
) -> None:
    few = answers(Short(engine.source, engine.tokenizer), tiny / "data", 8)
    assert len(few) < len(answers(engine, tiny / "data", 8))
