"""The bench's work: what it says it is, for both paths alike."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nanolan.model.generation.engine import Completion
from nanolan.model.tokenizer import SPECIAL_TOKENS
from tests.bench.bench_shape import TINY
from tests.bench.workload import (
    TEACHES,
    WORKS,
    conversations,
    made_tokenizer,
    questions,
    rewarded,
)


@pytest.mark.parametrize(("phase", "path"), list(WORKS))
def test_the_work_of_a_step_is_counted_right(phase: str, path: str) -> None:
    for works in islice(WORKS[phase, path](TINY, phase), 3):
        for w in works:
            assert w.trained == int((w.batch.targets >= 0).sum())
            assert 0 < w.trained <= w.real <= w.batch.ids.numel()


def test_both_paths_of_sft_train_32_conversations_a_step() -> None:
    trained = {
        path: sum(w.trained for works in islice(WORKS["sft", path](TINY, "sft"), 40) for w in works)
        for path in ("ours", "plain")
    }
    assert trained["ours"] == pytest.approx(trained["plain"], rel=0.1)


def test_the_stream_is_the_conversations_one_after_the_other() -> None:
    [first, *_] = next(WORKS["mid", "plain"](TINY, "mid"))
    want = torch.cat([torch.from_numpy(c) for c in conversations(TINY)])[
        : first.batch.ids.numel() + 1
    ].long()
    want = torch.where(want >= 0, want, ~want)
    assert torch.equal(first.batch.ids.flatten(), want[:-1])
    assert torch.equal(first.batch.targets.flatten(), want[1:])


def test_the_vocabulary_is_the_models() -> None:
    tokenizer = made_tokenizer(TINY)
    assert tokenizer.vocab_size == TINY.config.vocab_size
    assert tokenizer.bos == TINY.config.vocab_size - len(SPECIAL_TOKENS)
    assert tokenizer.decode(tokenizer.encode("1+2")) == "1+2"


def test_questions_leave_room_for_their_answers() -> None:
    for asked in islice(questions(TINY), 5):
        assert len(asked) == TINY.questions
        assert all(0 < len(q.prompt) <= TINY.config.sequence_len // 2 for q in asked)


def test_one_question_in_four_teaches() -> None:
    [asked] = islice(questions(TINY), 1)
    tries = [Completion([1], [1], True)] * 16
    assert [rewarded(q, i, tries).teaches for i, q in enumerate(asked)] == [
        i % TEACHES == 0 for i in range(len(asked))
    ]
