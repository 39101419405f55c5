"""A step of rl by its parts: generate, update, optimizer. The rewards are made up, so that every question teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.train.data.packing import Batch
from nanolan.train.data.rollouts import Question, Rollout, policy_batch, policy_loss, roll_out
from nanolan.train.optim import make_optimizer
from nanolan.train.probe.inputs import SEED, config_of, tokenizer_of
from nanolan.train.probe.timing import seconds
from nanolan.train.processes import Processes
from nanolan.train.recipe import RECIPES
from nanolan.train.rl import rows_that_fit
from nanolan.train.step import Stepper

PARTS = ("generate_s", "update_s", "optimizer_s")
STEPS = 2  # the first one warms up


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """{"generate_s", "update_s", "optimizer_s", "tokens", "tok_per_s"}: of all ranks, tokens are those generated in a step."""
    config, recipe = config_of(setup["size"]), RECIPES["rl"]
    tokenizer = tokenizer_of(config.vocab_size)
    model = GPT.fresh(config, SEED).to(world.device)
    rates = {
        name: getattr(recipe, name) for name in ("unembedding_lr", "embedding_lr", "matrix_lr")
    }
    optimizer = make_optimizer(model, world, **rates)
    engine = Engine(model, tokenizer)
    prompt = [(7 * i) % 256 for i in range(setup["prompt"])]
    mine = list(range(setup["questions"]))[world.rank :: world.size]
    sampling = Sampling(setup["new"], recipe.temperature, recipe.top_k)
    micro = rows_that_fit(model, setup["prompt"] + setup["new"], world)
    stepper = Stepper(
        lambda ids, weights: policy_loss(model, ids, weights),
        list(model.parameters()),
        micro,
        world.device,
    )
    questions = [Question(prompt, "1")] * len(mine)

    def step() -> dict[str, Any]:
        rollouts: list[Rollout] = []
        world.meet()
        engine.refresh()
        generate_s = seconds(
            lambda: rollouts.extend(roll_out(engine, questions, mine, setup["samples"], sampling)),
            world.device,
        )
        tokens = world.totals(sum(len(c.ids) for r in rollouts for c in r.tries))[0]
        batch = policy_batch([taught(r) for r in rollouts], tokenizer.bos)
        update_s = seconds(lambda: _update(stepper, batch, tokens), world.device)
        optimizer_s = seconds(lambda: optimizer.step(0.05, 0.95), world.device)
        parts = _slowest(world, generate_s, update_s, optimizer_s)
        return dict(zip(PARTS, parts, strict=True)) | {
            "tokens": int(tokens),
            "tok_per_s": round(tokens / max(sum(parts), 1e-6), 1),
        }

    return [step() for _ in range(STEPS)][-1]


def taught(r: Rollout) -> Rollout:
    """The same tries, every second one right."""
    return replace(r, rewards=[float(i % 2) for i in range(len(r.tries))])


def _update(stepper: Stepper, batch: Batch | None, tokens: float) -> None:
    if batch:
        stepper.gradients(batch, tokens)


def _slowest(world: Processes, *values: float) -> list[float]:
    """Each value's maximum over the ranks."""
    all_ranks = world.gather(torch.tensor([values], device=world.device))
    return [round(float(x), 4) for x in all_ranks.max(0).values]
