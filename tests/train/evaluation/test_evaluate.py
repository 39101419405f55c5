"""Evaluation: rigged models get the score they must, what cannot be measured has no score."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nanolan.errors import UsageProblem
from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.evaluation.evaluate import Exam, answer_choices, evaluate_model, measure
from nanolan.train.evaluation.tasks import TASKS, problems_of
from nanolan.train.processes import Processes
from tests.support.chain import chain, noisy, script
from tests.support.tiny_world import write_parquet
from tests.train.evaluation.test_humaneval import write_humaneval

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
TASK = {task.key: task for task in TASKS}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


def saying(tokenizer: Tokenizer, text: str) -> GPT:
    """A model with the same answer to everything."""
    start, end = (tokenizer.special(name) for name in ("assistant_start", "assistant_end"))
    return chain(tokenizer, script([start, *tokenizer.encode(text), end]))


def mmlu(answers: str) -> list[dict[str, object]]:
    return [
        {
            "question": "Which one? " * (i % 5 + 1),
            "subject": "s",
            "choices": ["a", "b", "c", "d"],
            "answer": "ABCD".index(answer),
        }
        for i, answer in enumerate(answers)
    ]


def exam(model: GPT, tokenizer: Tokenizer) -> Exam:
    return Exam(Engine(model, tokenizer), Sampling(20, 0.0), 99, 500, lambda: False)


def test_a_model_that_always_says_c_has_the_share_of_c(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "mmlu", "test", mmlu("CACBCCDCAC"))
    results = evaluate_model(
        saying(tokenizer, "C"), tokenizer, tmp_path, ALONE, "full", max_new_tokens=8
    )
    assert results["mmlu_acc"] == 0.6
    assert "arc_easy_acc" not in results


def test_choices_in_a_batch_are_those_of_each_prompt_alone(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "mmlu", "test", mmlu("ABCD" * 8))
    model = noisy(GPTConfig(64, tokenizer.vocab_size, 2, 4, 2, 64))
    problems = problems_of(TASK["mmlu_acc"], "full", tmp_path, tokenizer, 99)
    alone = []
    for p in problems:
        with torch.no_grad():
            logits = model(torch.tensor([p.prompt]))[0, -1]
        alone.append(max(range(4), key=lambda i: logits[p.letters[i]]) == p.right)
    assert answer_choices(exam(model, tokenizer), problems) == alone
    assert 0 < sum(alone) < 32


def test_a_model_that_always_answers_7_has_the_share_of_7(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(
        tmp_path,
        "gsm8k",
        "test",
        [
            {"question": "How many?" * (n % 3 + 1), "answer": f"So.\n#### {n}"}
            for n in (7, 8, 77, 7)
        ],
    )
    results = evaluate_model(
        saying(tokenizer, "#### 7"), tokenizer, tmp_path, ALONE, "full", max_new_tokens=8
    )
    assert results["gsm8k_acc"] == 0.5


def test_letters_are_counted_in_words_made_here(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ones = [
        p.answer for p in problems_of(TASK["spellingbee_acc"], "quick", tmp_path, tokenizer, 99)
    ].count("1")
    results = evaluate_model(
        saying(tokenizer, "#### 1"), tokenizer, tmp_path, ALONE, max_new_tokens=8
    )
    assert 0 < ones < 64
    assert results["spellingbee_acc"] == ones / 64
    assert (results["chatcore"], results["chatcore_tasks"]) == (results["spellingbee_acc"], 1)


def test_what_is_missing_or_damaged_is_not_measured_and_never_zero(
    tokenizer: Tokenizer, tiny: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny / "data", tmp_path / "data"))
    next(data.rglob("ARC-Easy/test-*.parquet")).unlink()
    next(data.rglob("main/test-*.parquet")).write_bytes(b"x")
    said: list[str] = []
    results = evaluate_model(
        saying(tokenizer, "B"), tokenizer, data, ALONE, max_new_tokens=4, say=said.append
    )
    assert set(results["not_measured"]) == {"ARC-Easy", "GSM8K", "HumanEval"}
    assert "allenai/ai2_arc is missing" in results["not_measured"]["ARC-Easy"]
    assert "on request" in results["not_measured"]["HumanEval"]
    assert not {"arc_easy_acc", "gsm8k_acc", "humaneval_acc"} & set(results)
    assert results["chatcore_tasks"] == 3
    assert any(line.startswith("ARC-Easy: not measured") for line in said)


def test_the_models_code_is_run_only_on_request(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"prompt": "def f", "test": "def check(c):\n    assert c == 1\n", "entry_point": "f"}
    write_humaneval(tmp_path, [row, row | {"test": "def check(c):\n    assert c == 2\n"}])
    model = saying(tokenizer, "f=1")
    assert "humaneval_acc" not in evaluate_model(
        model, tokenizer, tmp_path, ALONE, max_new_tokens=8
    )
    assert (
        evaluate_model(model, tokenizer, tmp_path, ALONE, max_new_tokens=8, humaneval=True)[
            "humaneval_acc"
        ]
        == 0.5
    )


class Lone(Processes):
    """A rank that sees only its own numbers."""

    def totals(self, *values: float) -> list[float]:
        return [float(v) for v in values]


@pytest.mark.parametrize("key", ["mmlu_acc", "gsm8k_acc"])
def test_ranks_share_the_problems_out(key: str, tokenizer: Tokenizer, tiny: Path) -> None:
    at = exam(noisy(GPTConfig(64, tokenizer.vocab_size, 1, 2, 2, 32)), tokenizer)
    parts = [measure(TASK[key], at, "full", tiny / "data", Lone(rank, 3, CPU)) for rank in range(3)]
    whole = measure(TASK[key], at, "full", tiny / "data", ALONE)
    assert [n for _, n, _ in parts] == [14, 13, 13]
    assert (sum(right for right, _, _ in parts), 40, "") == whole


def test_a_compiled_model_is_measured_uncompiled(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_parquet(tmp_path, "mmlu", "test", mmlu("CA"))
    model = saying(tokenizer, "C")
    model.trunk = model.trunk_at  # as compile_parts puts another function there
    assert evaluate_model(model, tokenizer, tmp_path, ALONE, max_new_tokens=8)["mmlu_acc"] == 0.5


def test_a_stop_ends_it_and_claims_nothing(tokenizer: Tokenizer, tiny: Path) -> None:
    results = evaluate_model(
        saying(tokenizer, "A"), tokenizer, tiny / "data", ALONE, stopped=lambda: True
    )
    assert results["chatcore"] is None
    assert set(results["not_measured"].values()) >= {"stopped"}
    assert not [key for key in results if key.endswith("_acc")]


def test_an_answer_without_room_is_not_measured(tokenizer: Tokenizer, tiny: Path) -> None:
    results = evaluate_model(
        saying(tokenizer, "A"), tokenizer, tiny / "data", ALONE, max_new_tokens=700
    )
    assert "no room" in results["not_measured"]["GSM8K"]


def test_a_model_trains_on_after_its_evaluation(tokenizer: Tokenizer, tiny: Path) -> None:
    model = noisy(GPTConfig(64, tokenizer.vocab_size, 1, 2, 2, 32))
    evaluate_model(model, tokenizer, tiny / "data", ALONE, max_new_tokens=4)
    ids = torch.ones(1, 8, dtype=torch.long)
    model.loss_sum(ids, ids).backward()
    assert model.lm_head.weight.grad is not None


def test_an_unknown_scope_is_refused(tokenizer: Tokenizer, tiny: Path) -> None:
    with pytest.raises(UsageProblem, match="there is quick and full"):
        evaluate_model(saying(tokenizer, "A"), tokenizer, tiny / "data", ALONE, "some")
