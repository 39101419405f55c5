"""Rollouts: what is right, what is learned from, and a loss that is nanochat's policy gradient by the token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nanolan.errors import BadAnswer
from nanolan.model.conversation import conversation
from nanolan.model.generation.engine import Completion, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.data.rollouts import (
    Question,
    Rollout,
    digest,
    final_number,
    pass_at,
    policy_batch,
    policy_loss,
    question_of,
    read_questions,
    roll_out,
)
from tests.support.chain import chain, noisy, script
from tests.support.tiny_world import write_parquet
from tests.support.toy_world import sums

CONFIG = GPTConfig(sequence_len=16, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 18", "18"),
        ("#### -3.5 eggs", "-3.5"),
        ("#### 1,234", "1234"),
        ("#### 5 no #### 6", "5"),
        ("####5", None),
        ("5", None),
        ("#### x", None),
        ("#### ", None),
        ("", None),
        ("### 5", None),
        ("#### ٣", None),
    ],
)
def test_the_final_number_follows_four_hashes(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_questions_are_read_in_order_with_their_answers(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "gsm8k", "train", rows := sums(25, 0))
    questions = read_questions(tmp_path, "train", tokenizer, 99)
    assert [q.answer for q in questions] == [final_number(row["answer"]) for row in rows]
    assert [tokenizer.decode(q.prompt) for q in questions] == [
        f"<|bos|><|user_start|>{row['question']}<|user_end|><|assistant_start|>" for row in rows
    ]
    few = read_questions(tmp_path, "train", tokenizer, 99, limit=12)
    assert few == questions[:12]
    assert digest(few) == digest(questions[:12]) != digest(questions[1:13])


def test_a_question_without_a_number_is_refused_with_its_row(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(tmp_path, "gsm8k", "test", [*sums(2, 0), {"question": "q", "answer": "none"}])
    with pytest.raises(BadAnswer, match="gsm8k test, row 2: no answer after ####"):
        read_questions(tmp_path, "test", tokenizer, 99)


def test_a_plain_answer_will_do(tokenizer: Tokenizer) -> None:
    assert question_of(conversation("q", "#### 7"), tokenizer, 99, "").answer == "7"


def rollout(*rewards: float, prompt: int = 2, length: int = 3) -> Rollout:
    tries = [
        Completion([10 + i] * (length + i), [1] * (length + i - 1) + [0], True)
        for i in range(len(rewards))
    ]
    return Rollout(Question([1] * prompt, "5"), tries, list(rewards))


def test_an_advantage_is_the_reward_less_the_mean_of_the_question() -> None:
    assert rollout(1, 0, 0, 0).advantages == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("rewards", [(0.0, 0.0), (1.0, 1.0, 1.0), (0.0,)])
def test_equal_rewards_teach_nothing_and_cost_no_pass(rewards: tuple[float, ...]) -> None:
    assert not rollout(*rewards).teaches
    assert policy_batch([rollout(*rewards)], pad=0) is None


def test_only_sampled_tokens_have_weight() -> None:
    batch = policy_batch([rollout(0, 0), rollout(0, 1), rollout(1, 1)], pad=9)
    assert batch is not None
    assert batch.ids.tolist() == [[1, 1, 10, 10, 10, 9], [1, 1, 11, 11, 11, 11]]
    assert batch.targets.tolist() == [[0, 0, -0.5, -0.5, 0, 0], [0, 0, 0.5, 0.5, 0.5, 0]]


def naive(model: GPT, rollouts: list[Rollout]) -> torch.Tensor:
    """- sum of log p * advantage over sampled tokens, a row at a time, groups of equal rewards too."""
    total = torch.zeros(())
    for r in rollouts:
        for c, a in zip(r.tries, r.advantages, strict=True):
            row = r.question.prompt + c.ids
            logp = model(torch.tensor([row]))[0].log_softmax(-1)
            for t, sampled in enumerate(c.mask, len(r.question.prompt)):
                total = total - a * sampled * logp[t - 1, row[t]]
    return total


@pytest.mark.parametrize("chunk_logits", [1 << 28, 3 * CONFIG.vocab_size])
def test_the_loss_is_the_sum_of_log_p_times_advantage_and_skipping_is_exact(
    chunk_logits: int,
) -> None:
    model = noisy(CONFIG)
    rollouts = [
        rollout(0, 1, 0),
        rollout(1, 1, 1),
        rollout(1, 0, prompt=5, length=2),
        rollout(0, 0),
    ]
    batch = policy_batch(rollouts, pad=0)
    assert batch is not None
    parameters = list(model.parameters())
    want, got = naive(model, rollouts), policy_loss(model, batch.ids, batch.targets, chunk_logits)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for g, w in zip(
        torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True
    ):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)


def test_columns_of_padding_are_not_computed() -> None:
    model, batch = noisy(CONFIG), policy_batch([rollout(0, 1)], pad=0)
    assert batch is not None
    widths, plain = [], model.trunk
    model.trunk = lambda ids: (widths.append(ids.size(1)), plain(ids))[1]
    wide = (
        torch.nn.functional.pad(batch.ids, (0, 50)),
        torch.nn.functional.pad(batch.targets, (0, 50)),
    )
    policy_loss(model, *wide)
    assert widths == [4]


def test_rows_without_any_weight_have_a_loss_of_zero_with_gradients() -> None:
    model = noisy(CONFIG)
    loss = policy_loss(model, torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_try_is_right_if_its_number_is_the_questions(tokenizer: Tokenizer) -> None:
    start, end = tokenizer.special("assistant_start"), tokenizer.special("assistant_end")
    said = tokenizer.encode("#### 42")
    engine = Engine(chain(tokenizer, script([start, *dict.fromkeys(said), end])), tokenizer)
    text = tokenizer.decode(engine.complete([[start]], Sampling(9, 0.0))[0][0].ids)
    questions = [Question([start], final_number(text) or "?"), Question([5, start], "43")]
    right, wrong = roll_out(engine, questions, [0, 1], 3, Sampling(9, 0.0))
    assert right.rewards == [1.0] * 3
    assert wrong.rewards == [0.0] * 3


def test_pass_at_k_counts_questions_with_a_right_one_among_the_first_k() -> None:
    assert pass_at([rollout(0, 1, 0), rollout(1, 0, 1), rollout(0, 0, 0), rollout(0, 0, 1)], 3) == [
        1,
        2,
        3,
    ]
