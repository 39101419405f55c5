"""The evaluation tasks as a table, their problems, and ChatCORE. A new task is a row of TASKS."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanolan.errors import BadAnswer
from nanolan.model.conversation import Conversation, render_prompt
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Part, open_mixture
from nanolan.train.data.rollouts import question_of
from nanolan.train.evaluation.humaneval import read_humaneval

SEED = 42  # of the sample that `quick` uses
MAX_PROMPT = 2048


@dataclass(frozen=True)
class Task:
    """One task: `key` names its accuracy in results and meta, `chance` is what guessing scores."""

    name: str
    key: str
    chance: float
    kind: str  # choice, number or code: how it is measured
    part: Part | None  # None: HumanEval has its own reader
    quick: int  # problems of it in a quick evaluation


@dataclass(frozen=True)
class Choice:
    """A prompt, the tokens of its letters, and which of them is right."""

    prompt: list[int]
    letters: list[int]
    right: int


TASKS = (
    Task("ARC-Easy", "arc_easy_acc", 0.25, "choice", Part("arc-easy", "test"), 96),
    Task("ARC-Challenge", "arc_challenge_acc", 0.25, "choice", Part("arc-challenge", "test"), 96),
    Task("MMLU", "mmlu_acc", 0.25, "choice", Part("mmlu", "test"), 96),
    Task("GSM8K", "gsm8k_acc", 0.0, "number", Part("gsm8k", "test"), 64),
    Task("HumanEval", "humaneval_acc", 0.0, "code", None, 32),
    Task("SpellingBee", "spellingbee_acc", 0.0, "number", Part("count-letters", "test", 256), 64),
)


def chat_core(accuracies: Mapping[str, float]) -> float | None:
    """Mean over the measured tasks (by key) of (accuracy - chance) / (1 - chance); None when nothing was measured.

    Comparable only between results over the same tasks.
    """
    scores = [(accuracies[t.key] - t.chance) / (1 - t.chance) for t in TASKS if t.key in accuracies]
    return sum(scores) / len(scores) if scores else None


def problems_of(
    task: Task, scope: str, data_dir: Path, tokenizer: Tokenizer, max_tokens: int
) -> list[Any]:
    """All problems of a task, or the same few for every model if `scope` is "quick"; prompts cut at max_tokens.

    BadAnswer when the data set is missing or damaged, or does not fit the tokenizer.
    """
    limit = task.quick if scope == "quick" else None
    if task.part is None:
        return read_humaneval(data_dir, limit)
    make = choice_of if task.kind == "choice" else question_of
    return [
        make(c, tokenizer, min(max_tokens, MAX_PROMPT), f"{task.name}, row {row}")
        for row, c in conversations_of(task.part, limit, data_dir)
    ]


def conversations_of(
    part: Part, limit: int | None, data_dir: Path
) -> Iterator[tuple[int, Conversation]]:
    """The rows of a task, or the same few for every model; BadAnswer when the data set is missing or damaged."""
    part = dataclasses.replace(part, limit=limit or part.limit)
    return (
        (row, c)
        for source in open_mixture((part,), data_dir, SEED, part.limit)
        for block in source.blocks
        for row, c in source.take(block)
    )


def choice_of(c: Conversation, tokenizer: Tokenizer, max_tokens: int, where: str) -> Choice:
    """A multiple choice conversation as a Choice; BadAnswer when a letter is not one token, or the answer no letter."""
    letters = [tokenizer.encode(letter) for letter in c["letters"]]
    answer = c["messages"][-1]["content"]
    if any(len(ids) != 1 for ids in letters) or answer not in c["letters"]:
        raise BadAnswer(
            f"{where}: the answer {answer!r} is not one of {c['letters']}, each a single token"
        )
    return Choice(
        render_prompt(c, tokenizer, max_tokens),
        [ids[0] for ids in letters],
        c["letters"].index(answer),
    )
