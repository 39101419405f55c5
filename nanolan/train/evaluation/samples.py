"""A few sample answers of a model: about its identity, and to problems of the evaluation. Greedy, one batch, takes seconds.

A new question is a row of QUESTIONS or TAKEN.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from nanolan.checkpoint.evaluation import Sample
from nanolan.errors import BadAnswer
from nanolan.model.chat import texts
from nanolan.model.conversation import Conversation, render_prompt
from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.train.data.rollouts import final_number, question_of
from nanolan.train.evaluation.tasks import TASKS, conversations_of

QUESTIONS = ("Who are you?", "Who made you?", "Why is the sky blue?")
TAKEN = {
    "gsm8k_acc": 2,
    "spellingbee_acc": 2,
}  # of the evaluation's tasks with a number for an answer
MOST_TOKENS = 200


def answers(engine: Engine, data_dir: Path, most_tokens: int = MOST_TOKENS) -> tuple[Sample, ...]:
    """The samples, none if the model's positions leave no room; on this rank only."""
    sampling = Sampling(min(most_tokens, MOST_TOKENS), temperature=0.0)
    room = engine.room(sampling.max_new_tokens)
    asked = [
        (task, c, expected)
        for task, c, expected in questions(engine, data_dir)
        if len(prompt_of(c, engine)) <= room
    ]
    found = engine.complete([prompt_of(c, engine) for _, c, _ in asked], sampling)
    return tuple(
        _sample(engine, task, c, expected, tries[0].ids)
        for (task, c, expected), tries in zip(asked, found, strict=True)
    )


def questions(engine: Engine, data_dir: Path) -> Iterator[tuple[str, Conversation, str | None]]:
    """(task, conversation, the number that is right); a task whose data set is missing is left out."""
    for text in QUESTIONS:
        yield (
            "Chat",
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]},
            None,
        )
    for task in TASKS:
        if task.part is None or task.key not in TAKEN:
            continue
        try:
            for row, c in islice(
                conversations_of(task.part, task.quick, data_dir), TAKEN[task.key]
            ):
                yield (
                    task.name,
                    c,
                    question_of(c, engine.tokenizer, 1 << 30, f"{task.name}, row {row}").answer,
                )
        except BadAnswer:
            continue


def prompt_of(c: Conversation, engine: Engine) -> list[int]:
    return render_prompt(c, engine.tokenizer, 1 << 30)


def _sample(
    engine: Engine, task: str, c: Conversation, expected: str | None, ids: list[int]
) -> Sample:
    answer = "".join(texts(iter(ids), engine.tokenizer))
    right = None if expected is None else final_number(engine.tokenizer.decode(ids)) == expected
    return Sample(task, c["messages"][-2]["content"], answer, expected, right)
