"""The plain path is another way to the same numbers: if not, the bench would compare two different things."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nanolan.model.generation.engine import Completion, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.train.data.rollouts import Question, Rollout, policy_batch, policy_loss
from nanolan.train.optim import make_optimizer
from nanolan.train.processes import Processes
from tests.bench import plain
from tests.bench.bench_shape import TINY
from tests.bench.workload import WORKS, made_tokenizer
from tests.support.chain import noisy

GROUPED = GPTConfig(sequence_len=16, vocab_size=64, n_layer=3, n_head=4, n_kv_head=2, n_embd=32)
RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    """So that reading what nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def texts(n: int = 3, T: int = 30) -> torch.Tensor:
    return torch.randint(0, 64, (n, T), generator=torch.Generator().manual_seed(3))


def gradients(loss: torch.Tensor, model: GPT) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, list(model.parameters()))


def test_logits_are_those_of_the_model() -> None:
    model, ids = noisy(GROUPED), texts()
    with torch.no_grad():
        torch.testing.assert_close(plain.all_logits(model, ids), model(ids), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_token_at_a_time_gives_the_logits_of_the_whole_row() -> None:
    model, ids = noisy(GROUPED), texts(1)
    past = plain.Past.of(model, 1, 8, torch.float32)
    plain.all_logits(model, ids[:, :8], past)
    past = past.copied(2, 30)
    for at in range(8, 20):
        logits = plain.all_logits(model, ids[:, at : at + 1].expand(2, 1), past)
        torch.testing.assert_close(logits[1, 0], model(ids)[0, at], rtol=0, atol=1e-4)


def test_loss_and_gradients_are_those_of_the_trainer() -> None:
    model = noisy(TINY.config)
    [w, *_] = next(WORKS["sft", "plain"](TINY, "sft"))
    want, got = model.loss_sum(w.batch.ids, w.batch.targets), plain.loss_sum(model, w.batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_policy_gradient_is_that_of_the_trainer() -> None:
    model = noisy(GROUPED)
    tries = [
        Completion([5, 6, 7], [1] * 3, True),
        Completion([8], [1], True),
        Completion([9, 9], [1, 1], False),
    ]
    r = Rollout(Question([1, 2, 3, 4], ""), tries, [1.0, 0.0, 0.0])
    ours = policy_batch([r], 0)
    assert ours is not None
    want = policy_loss(model, ours.ids, ours.targets)
    got = plain.policy_loss(
        model, plain.policy_batch(r.question.prompt, [c.ids for c in tries], r.advantages, 0)
    )
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for a, b in zip(gradients(got, model), gradients(want, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_steps_of_the_optimizer_are_those_of_the_trainer() -> None:
    models = [noisy(GROUPED), noisy(GROUPED)]
    ours = make_optimizer(models[0], Processes(0, 1, torch.device("cpu")), **RATES)
    theirs = plain.PlainOptimizer(models[1], **RATES)
    for seed in range(3):
        for model in models:
            generator = torch.Generator().manual_seed(seed)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
        ours.step(0.5, 0.9)
        theirs.step(0.5, 0.9)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)
        assert b.grad is None


def test_greedy_completions_are_those_of_the_engine() -> None:
    model, tokenizer = noisy(TINY.config), made_tokenizer(TINY)
    model.lm_head.weight.data[tokenizer.special("assistant_end")] *= 6
    ends = (tokenizer.bos, tokenizer.special("assistant_end"))
    prompts = torch.randint(0, 250, (6, 9), generator=torch.Generator().manual_seed(0)).tolist()
    want = [c.ids for [c] in Engine(model, tokenizer).complete(prompts, Sampling(12, 0.0))]
    for prompt, ids in zip(prompts, want, strict=True):
        assert plain.generate(model, prompt, 3, Sampling(12, top_k=1), ends) == [ids] * 3
    assert len({len(ids) for ids in want}) > 1, "some end by themselves"
