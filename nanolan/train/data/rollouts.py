"""Questions with a numeric answer, the model's answers to them, and the training signal of the answers.

A try is right (reward 1) when the number after its first "#### " is the reference's, letter by letter, commas aside.
Its advantage is its reward less the mean of all tries at the same question; where all are equal there is nothing
to learn, and such a question costs no backward pass. That is exact: their tokens still count in the mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from nanolan.errors import BadAnswer
from nanolan.model.conversation import Conversation, render_prompt
from nanolan.model.generation.engine import Completion, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.model.loss import CHUNK_LOGITS, summed_loss
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Part, open_part
from nanolan.train.data.packing import Batch

FINAL = re.compile(r"#### (-?[0-9.,]+)")


@dataclass(frozen=True)
class Question:
    """A prompt (ids, up to assistant_start) and the number that answers it."""

    prompt: list[int]
    answer: str


def final_number(text: str) -> str | None:
    """The number after the first "#### ", commas removed."""
    found = FINAL.search(text)
    return found[1].replace(",", "") if found else None


def question_of(c: Conversation, tokenizer: Tokenizer, max_tokens: int, where: str) -> Question:
    """A conversation whose answer ends in "#### number" as a Question; BadAnswer for any other."""
    content = c["messages"][-1]["content"]
    answer = final_number(
        content if isinstance(content, str) else "".join(part["text"] for part in content)
    )
    if answer is None:
        raise BadAnswer(f"{where}: no answer after ####")
    return Question(render_prompt(c, tokenizer, max_tokens), answer)


def read_questions(
    data_dir: Path, split: str, tokenizer: Tokenizer, max_tokens: int, limit: int | None = None
) -> list[Question]:
    """GSM8K's questions, or the first `limit`, in their original order; BadAnswer when the data set is missing or damaged."""
    source = open_part(Part("gsm8k", split), data_dir, 0)
    rows = (item for block in source.blocks for item in source.take(block))
    return [
        question_of(c, tokenizer, max_tokens, f"gsm8k {split}, row {row}")
        for row, c in islice(rows, limit)
    ]


def digest(questions: Sequence[Question]) -> str:
    """A fingerprint of these questions in this order."""
    return hashlib.sha256(repr([(q.prompt, q.answer) for q in questions]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Rollout:
    """A question and the tries at it."""

    question: Question
    tries: list[Completion]
    rewards: list[float]

    @property
    def advantages(self) -> list[float]:
        """Each reward less their mean."""
        mean = sum(self.rewards) / len(self.rewards)
        return [r - mean for r in self.rewards]

    @property
    def teaches(self) -> bool:
        """Whether some tries are better than others."""
        return len(set(self.rewards)) > 1


def roll_out(
    engine: Engine,
    questions: Sequence[Question],
    keys: Sequence[int],
    samples: int,
    sampling: Sampling,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Rollout]:
    """`samples` tries at each question, all in one batch; `keys` name the questions for the random numbers."""
    tries = engine.complete([q.prompt for q in questions], sampling, samples, keys, stopped)
    return [
        Rollout(
            q,
            group,
            [float(final_number(engine.tokenizer.decode(c.ids)) == q.answer) for c in group],
        )
        for q, group in zip(questions, tries, strict=True)
    ]


def pass_at(rollouts: Sequence[Rollout], samples: int) -> list[int]:
    """For k = 1..samples: how many questions have a right one among their first k tries."""
    return [sum(any(r.rewards[:k]) for r in rollouts) for k in range(1, samples + 1)]


def policy_batch(rollouts: Sequence[Rollout], pad: int) -> Batch | None:
    """The tries of questions that teach as ids (B, T) and weights (B, T), shortest first; None if there are none.

    A weight is the try's advantage where the token was sampled, else 0: prompt, forced tokens, padding.
    """
    rows = [
        (r.question.prompt + c.ids, [0.0] * len(r.question.prompt) + [a * m for m in c.mask])
        for r in rollouts
        if r.teaches
        for c, a in zip(r.tries, r.advantages, strict=True)
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: len(row[0]))
    ids = torch.full((len(rows), len(rows[-1][0])), pad)
    weights = torch.zeros(ids.shape)
    for i, (tokens, weight) in enumerate(rows):
        ids[i, : len(tokens)], weights[i, : len(tokens)] = (
            torch.tensor(tokens),
            torch.tensor(weight),
        )
    return Batch(ids, weights, None)


def policy_loss(
    model: GPT, ids: Tensor, weights: Tensor, chunk_logits: int = CHUNK_LOGITS
) -> Tensor:
    """Sum over tokens of weight * -log p(token), for ids and weights (B, T) of a policy_batch.

    Columns without weight at the end cost nothing, and only weighted positions reach the head. p is that of the
    whole softmax at temperature 1, whatever the sampling was (as in nanochat). `weights` are best on the CPU: what
    they leave out is left out there, and the host need not wait for a GPU.
    """
    head = model.lm_head.weight
    width = int(weights.any(0).nonzero().max()) + 1 if weights.any() else 2
    x, y, w = ids[:, : width - 1], ids[:, 1:width].flatten(), weights[:, 1:width].flatten()
    chosen = w.nonzero()[:, 0]
    y, w, at = (t.to(head.device) for t in (y[chosen], w[chosen], chosen))
    hidden = model.trunk(x.to(head.device)).flatten(0, 1).index_select(0, at)
    return summed_loss(hidden, head, y, w, max(1, chunk_logits // model.config.vocab_size))
