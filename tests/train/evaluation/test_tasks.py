"""The tasks of the evaluation: their problems, and ChatCORE as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import BadAnswer
from nanolan.model.conversation import conversation
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.data.mixtures import choose_one
from nanolan.train.data.rollouts import Question
from nanolan.train.evaluation.tasks import TASKS, Choice, chat_core, choice_of, problems_of

KEYS = (
    "arc_easy_acc",
    "arc_challenge_acc",
    "mmlu_acc",
    "gsm8k_acc",
    "humaneval_acc",
    "spellingbee_acc",
)
TASK = {task.key: task for task in TASKS}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


@pytest.mark.parametrize(
    ("accuracies", "core"),
    [
        ((0.3561, 0.2875, 0.3111, 0.0250, 0.0671), 0.0730),
        ((0.3876, 0.2807, 0.3151, 0.0455, 0.0854), 0.0884),
        ((0.4478, 0.3311, 0.3315, 0.0500, 0.0915, 1.0), 0.2703),
        ((0.4684, 0.3362, 0.3314, 0.0697, 0.0915, 1.0), 0.2793),
        ((0.3140, 0.2782, 0.2870, 0.0394, 0.1098, 0.984), 0.2176),
        ((0.3173, 0.2858, 0.2891, 0.0485, 0.1037, 0.977), 0.2197),
        ((0.2618, 0.2432, 0.2599, 0.0387, 0.0549), 0.0227),
        ((0.4230, 0.3114, 0.3232, 0.0553, 0.0671), 0.1065),
    ],
)
def test_chat_core_is_that_of_published_runs(accuracies: tuple[float, ...], core: float) -> None:
    assert chat_core(dict(zip(KEYS, accuracies, strict=False))) == pytest.approx(core, abs=1e-4)


def test_guessing_scores_zero_and_nothing_measured_scores_nothing() -> None:
    assert chat_core({"mmlu_acc": 0.25, "gsm8k_acc": 0.0}) == 0
    assert chat_core({}) is None


def test_a_choice_has_its_letters_and_the_right_one(tokenizer: Tokenizer) -> None:
    problem = choice_of(choose_one("Q", ["1", "2", "3"], ["x", "y", "z"], "2"), tokenizer, 99, "")
    assert isinstance(problem, Choice)
    assert [tokenizer.decode([t]) for t in problem.letters] == ["1", "2", "3"]
    assert problem.right == 1
    assert tokenizer.decode(problem.prompt).endswith(
        "correct answer.<|user_end|><|assistant_start|>"
    )


@pytest.mark.parametrize(("letters", "answer"), [(["A", "B"], "C"), (["AXQ", "B"], "B")])
def test_a_choice_that_cannot_be_measured_is_refused(
    letters: list[str], answer: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(BadAnswer, match="MMLU, row 3"):
        choice_of(conversation("Q", answer) | {"letters": letters}, tokenizer, 99, "MMLU, row 3")


@pytest.mark.parametrize("key", ["arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc"])
def test_full_takes_all_test_rows(key: str, tokenizer: Tokenizer, tiny: Path) -> None:
    assert len(problems_of(TASK[key], "full", tiny / "data", tokenizer, 99)) == 40


def test_quick_takes_the_same_few_each_time(tokenizer: Tokenizer, tiny: Path) -> None:
    few = [
        problems_of(TASK["spellingbee_acc"], "quick", tiny / "data", tokenizer, 99)
        for _ in range(2)
    ]
    assert few[0] == few[1]
    assert len(few[0]) == 64
    assert len(problems_of(TASK["spellingbee_acc"], "full", tiny / "data", tokenizer, 99)) == 256
    assert all(isinstance(p, Question) for p in few[0])


def test_quick_is_a_few_hundred_problems() -> None:
    assert 200 <= sum(task.quick for task in TASKS) <= 500


def test_prompts_are_cut_to_the_room_there_is(tokenizer: Tokenizer, tiny: Path) -> None:
    for key in ("mmlu_acc", "gsm8k_acc"):
        assert (
            max(
                len(p.prompt) for p in problems_of(TASK[key], "quick", tiny / "data", tokenizer, 12)
            )
            == 13
        )
