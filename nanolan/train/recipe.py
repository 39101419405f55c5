"""The recipe of each phase, as data: batch, learning rates, schedules. It never depends on the GPU.

What depends on the GPU is the micro-batch alone (`micro_batch`); accumulation makes up the rest.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanolan.checkpoint import model_size
from nanolan.checkpoint.architecture import GPTConfig
from nanolan.checkpoint.model_size import size_of
from nanolan.errors import UsageProblem

ZERO = (
    "momentum_steps",
    "spelling_rows",
    "val_rows",
    "eval_questions",
    "seed",
)  # whole numbers that may be 0


@dataclass(frozen=True)
class Recipe:
    """How a phase trains. Exactly one of tokens_per_step and examples_per_step counts; in rl neither does."""

    sequence_len: int = 2048
    tokens_per_step: int | None = None  # positions, all processes and accumulation together
    examples_per_step: int | None = None  # rows of about this many conversations
    train_all_tokens: bool = False  # False: only the assistant's tokens
    own_attention: bool = False  # True: a conversation attends to no other in its row
    unembedding_lr: float = 0.004
    embedding_lr: float = 0.2
    matrix_lr: float = 0.02
    init_lr_frac: float = 1.0
    decay_from: float = 0.0  # progress at which the linear decay to 0 begins
    momentum_from: float = 0.95  # Muon's, rising to 0.95 over momentum_steps
    momentum_steps: int = 0
    max_steps: int | None = None  # None: one epoch; beyond an epoch the data repeats
    spelling_rows: int | None = None  # generated spelling tasks; None: the mixture's number
    val_rows: int = 256  # at most so many rows of the validation slice at the end, 0: none
    seed: int = 42
    # rl only, where sequence_len only bounds the question
    questions_per_step: int = 16  # all processes together
    samples: int = (
        16  # answers to a question; the policy learns from those better and worse than the mean
    )
    max_new_tokens: int = 256  # of an answer
    temperature: float = 1.0
    top_k: int | None = 50  # None: the whole vocabulary
    eval_questions: int = 400  # test questions before and after the phase, 0: none
    eval_samples: int = 8  # answers to each: pass@1 to pass@eval_samples
    # the evaluation after any phase
    exam_new_tokens: int = 512  # of an answer
    exam_problems: int | None = None  # of a task at most


# mid: half a million tokens a step, all tokens trained, constant then decaying over the last fifth.
# sft: nanochat updates on 32 conversations at a time. Packed into rows, 32 conversations are 32 times the
# mean number of rows a conversation takes in this very data (about 8 rows of 2,048): the number of
# updates, conversations / 32, and so the meaning of the learning rates stay as they were. In nanochat's mid a
# conversation sees what precedes it in its row; in its sft each is a row of its own, which own_attention keeps.
RECIPES = {
    "mid": Recipe(
        tokens_per_step=524_288,
        train_all_tokens=True,
        decay_from=0.8,
        momentum_from=0.85,
        momentum_steps=300,
    ),
    "sft": Recipe(examples_per_step=32, own_attention=True, init_lr_frac=0.02),
    "rl": Recipe(init_lr_frac=0.05),
}


def recipe_for(phase: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The phase's recipe with overrides; UsageProblem for an unknown phase, name or a wrong type.

    Overrides under the name of a phase are for that phase alone: {"max_steps": 20, "rl": {"samples": 8}}.
    """
    if phase not in RECIPES:
        raise UsageProblem(f"no recipe for phase {phase!r}; there is {', '.join(RECIPES)}")
    shared = dict(overrides or {})
    own = {
        name: _changes(shared.pop(name, {})) for name in RECIPES
    }  # all are checked, not only this phase's
    changes = _changes(shared) | own[phase]
    for one, other in (
        ("tokens_per_step", "examples_per_step"),
        ("examples_per_step", "tokens_per_step"),
    ):
        if changes.get(one):
            changes.setdefault(other, None)
    recipe = dataclasses.replace(RECIPES[phase], **changes)
    if phase != "rl" and bool(recipe.tokens_per_step) == bool(recipe.examples_per_step):
        raise UsageProblem(
            "recipe: one of tokens_per_step and examples_per_step is needed, not both"
        )
    return recipe


def _changes(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UsageProblem(f"recipe: {values!r} is not a table of overrides")
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: Any) -> Any:
    kinds = {f.name: str(f.type) for f in dataclasses.fields(Recipe)}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        raise UsageProblem(
            f"recipe has no {name!r}" + (f"; did you mean {near[0]}?" if near else "")
        )
    kind = kinds[name]
    good = (value is None and "None" in kind) or (
        type(value) is bool
        if kind == "bool"
        else type(value) in (int, float) and value >= 0
        if kind == "float"
        else type(value) is int and (value > 0 or name in ZERO and value == 0)
    )
    if not good:
        raise UsageProblem(f"recipe: {name} is {value!r}, expected {kind}, not negative")
    return value


def rows_per_step(recipe: Recipe, n_rows: int, n_conversations: int) -> int:
    """Rows of one optimizer step, over all processes; at least 1."""
    if recipe.examples_per_step:
        return max(1, round(recipe.examples_per_step * n_rows / n_conversations))
    return max(1, (recipe.tokens_per_step or 0) // recipe.sequence_len)


def steps_of(recipe: Recipe, n_rows: int, per_step: int) -> int:
    """Optimizer steps: max_steps, else one epoch of whole steps (the remainder is not trained), at least 1."""
    return recipe.max_steps or max(1, n_rows // per_step)


def lr_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Factor on every learning rate at `step` of `steps`: init_lr_frac, then linear decay to 0 from decay_from on."""
    progress = step / steps
    return recipe.init_lr_frac * min(1.0, (1 - progress) / (1 - recipe.decay_from))


def momentum(recipe: Recipe, step: int) -> float:
    """Muon's momentum at `step`."""
    done = min(1.0, step / recipe.momentum_steps) if recipe.momentum_steps else 1.0
    return (1 - done) * recipe.momentum_from + done * 0.95


def micro_batch(
    config: GPTConfig, sequence_len: int, gpu_gib: float | None, *, eager: bool = False
) -> int:
    """Rows of a micro-batch that fit, see nanolan.checkpoint.model_size."""
    return model_size.micro_batch(size_of(config), sequence_len, gpu_gib, eager=eager)


def resumed_micro_batch(wanted: int | None, saved: int | None, fits: int) -> int:
    """Rows of a micro-batch: the job's number, else as many as fit, but no more than the saved state had (there,
    memory may have run out; here, the GPU may be smaller)."""
    return wanted or min(saved or fits, fits)
