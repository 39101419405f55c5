"""The bench's cases: a phase by the trainer's path or by the plain one, step after step.

mid and sft: packed rows, one loss for all their tokens; plainly, one stream of tokens, or a few conversations at a time
padded to the longest. rl: the answers to all questions at once, and those that teach are trained; plainly, one question
at a time in calls of a few answers, all of which are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nanolan.model.attention import flex_works
from nanolan.model.generation.engine import Completion, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.train.data.rollouts import Rollout, policy_batch, policy_loss
from nanolan.train.optim import make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.rl import rows_that_fit
from nanolan.train.step import Stepper, autocast, even_micro_batch
from tests.bench import plain
from tests.bench.workload import WORKS, Shape, made_tokenizer, questions, rewarded

PLAIN_ROWS = 8  # answers of a call, and of an update, in the plain path's rl
RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


@dataclass(frozen=True)
class Tally:
    """What a step went through: positions, those that are not padding, those trained, tokens generated."""

    positions: int
    real: int
    trained: int
    generated: int = 0


def train_ours(shape: Shape, phase: str, model: GPT, world: Processes) -> Iterator[Tally]:
    """mid and sft as the trainer does them."""
    config = shape.config
    optimizer = make_optimizer(model, world, **RATES)
    if shape.device == "cuda":
        heads = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        model.compile_parts(
            phase == "sft" and flex_works(*heads, config.sequence_len, world.device)
        )
    for [w] in WORKS[phase, "ours"](shape, phase):
        micro = even_micro_batch(len(w.batch.ids), shape.micro)
        Stepper(model.loss_sum, list(model.parameters()), micro, world.device).gradients(
            w.batch, w.trained
        )
        optimizer.step(1e-3, 0.95)
        yield Tally(w.batch.ids.numel(), w.real, w.trained)


def train_plain(shape: Shape, phase: str, model: GPT, world: Processes) -> Iterator[Tally]:
    """mid and sft the plain way."""
    optimizer = plain.PlainOptimizer(model, **RATES)
    for works in WORKS[phase, "plain"](shape, phase):
        trained = sum(w.trained for w in works)
        for w in works:
            with autocast(world.device):
                loss = plain.loss_sum(model, w.batch.to(world.device))
            (loss / trained).backward()
        optimizer.step(1e-3, 0.95)
        yield Tally(sum(w.batch.ids.numel() for w in works), sum(w.real for w in works), trained)


def rl_ours(shape: Shape, phase: str, model: GPT, world: Processes) -> Iterator[Tally]:
    """rl as the trainer does it."""
    engine, optimizer = Engine(model, made_tokenizer(shape)), make_optimizer(model, world, **RATES)
    micro = rows_that_fit(model, shape.config.sequence_len // 2 + shape.new_tokens, world)
    stepper = Stepper(
        lambda ids, weights: policy_loss(model, ids, weights),
        list(model.parameters()),
        micro,
        world.device,
    )
    for asked in questions(shape):
        engine.refresh()
        tries = engine.complete(
            [q.prompt for q in asked], Sampling(shape.new_tokens), shape.samples
        )
        rollouts = [rewarded(q, i, t) for i, (q, t) in enumerate(zip(asked, tries, strict=True))]
        batch = policy_batch(rollouts, engine.tokenizer.bos)
        assert batch  # noqa: S101
        stepper.gradients(batch, generated(rollouts))
        optimizer.step(1e-3, 0.95)
        teaching = [r for r in rollouts if r.teaches]
        yield Tally(batch.ids.numel(), real(teaching), generated(teaching), generated(rollouts))


def rl_plain(shape: Shape, phase: str, model: GPT, world: Processes) -> Iterator[Tally]:
    """rl the plain way: every try is trained, whatever it teaches."""
    tokenizer, optimizer = made_tokenizer(shape), plain.PlainOptimizer(model, **RATES)
    ends = (tokenizer.bos, tokenizer.special("assistant_end"))
    for asked in questions(shape):
        rollouts, positions = [], 0
        for i, q in enumerate(asked):
            with autocast(world.device):
                calls = [
                    plain.generate(model, q.prompt, PLAIN_ROWS, Sampling(shape.new_tokens), ends)
                    for _ in range(shape.samples // PLAIN_ROWS)
                ]
            rollouts.append(
                rewarded(
                    q, i, [Completion(ids, [1] * len(ids), True) for call in calls for ids in call]
                )
            )
        for r in rollouts:
            for at in range(0, shape.samples, PLAIN_ROWS):
                few = slice(at, at + PLAIN_ROWS)
                batch = plain.policy_batch(
                    r.question.prompt,
                    [c.ids for c in r.tries[few]],
                    r.advantages[few],
                    tokenizer.bos,
                )
                with autocast(world.device):
                    loss = plain.policy_loss(model, batch.to(world.device))
                (loss / generated(rollouts)).backward()
                positions += batch.ids.numel()
        optimizer.step(1e-3, 0.95)
        yield Tally(positions, real(rollouts), generated(rollouts), generated(rollouts))


def generated(rollouts: list[Rollout]) -> int:
    """Tokens of all tries."""
    return sum(len(c.ids) for r in rollouts for c in r.tries)


def real(rollouts: list[Rollout]) -> int:
    """Tokens of all tries with their questions."""
    return generated(rollouts) + sum(len(r.question.prompt) * len(r.tries) for r in rollouts)


CASES: dict[tuple[str, str], Callable[[Shape, str, GPT, Processes], Iterator[Tally]]] = {
    ("mid", "plain"): train_plain,
    ("mid", "ours"): train_ours,
    ("sft", "plain"): train_plain,
    ("sft", "ours"): train_ours,
    ("rl", "plain"): rl_plain,
    ("rl", "ours"): rl_ours,
}
