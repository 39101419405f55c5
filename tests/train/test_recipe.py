"""Recipes: the same for every GPU; micro-batches that fit; schedules as the facts say."""

from __future__ import annotations

from typing import Any

import pytest

from nanolan.errors import UsageProblem
from nanolan.model.gpt import GPTConfig
from nanolan.train.recipe import (
    RECIPES,
    Recipe,
    lr_factor,
    micro_batch,
    momentum,
    recipe_for,
    resumed_micro_batch,
    rows_per_step,
    steps_of,
)
from nanolan.train.step import even_micro_batch

D20 = GPTConfig(2048, 65_536, 20, 10, 10, 1280)
D32 = GPTConfig(2048, 65_536, 32, 16, 16, 2048)
D48 = GPTConfig(2048, 65_536, 48, 24, 24, 3072)


@pytest.mark.parametrize(
    ("config", "gib", "rows"),
    [
        (D20, 79.1, 32),
        (D20, 141, 32),
        (D20, 178, 32),
        (D20, 39.5, 8),
        (D20, 23.6, 4),
        (D32, 79.1, 8),
        (D32, 178, 16),
        (D20, None, 4),
    ],
)
def test_micro_batch_by_gpu_memory_and_model_size(
    config: GPTConfig, gib: float | None, rows: int
) -> None:
    assert micro_batch(config, 2048, gib) == rows


@pytest.mark.parametrize(("config", "gib"), [(D20, 15.7), (D32, 39.5), (D48, 79.1)])
def test_a_model_that_cannot_fit_is_refused_with_both_numbers(
    config: GPTConfig, gib: float
) -> None:
    with pytest.raises(UsageProblem, match=rf"needs \d+ GiB of GPU memory, this one has {gib:.0f}"):
        micro_batch(config, 2048, gib)


@pytest.mark.parametrize(
    ("per_rank", "fits", "micro"), [(32, 32, 32), (256, 32, 32), (12, 8, 6), (1, 8, 1), (7, 4, 4)]
)
def test_micro_batches_are_even(per_rank: int, fits: int, micro: int) -> None:
    assert even_micro_batch(per_rank, fits) == micro


@pytest.mark.parametrize(
    ("wanted", "saved", "fits", "rows"),
    [
        (None, None, 8, 8),
        (None, 32, 8, 8),  # a B200's number on a GPU with less memory
        (None, 4, 32, 4),  # memory ran out where the state was saved
        (None, 8, 8, 8),
        (16, 4, 8, 16),  # the user's own number
        (2, None, 8, 2),
    ],
)
def test_a_resumed_micro_batch_is_never_larger_than_the_table_allows(
    wanted: int | None, saved: int | None, fits: int, rows: int
) -> None:
    assert resumed_micro_batch(wanted, saved, fits) == rows


def test_mid_is_constant_then_decays_over_its_last_fifth() -> None:
    mid = RECIPES["mid"]
    assert [lr_factor(mid, s, 100) for s in (0, 79, 90, 99)] == pytest.approx([1, 1, 0.5, 0.05])


def test_sft_decays_from_a_fiftieth() -> None:
    sft = RECIPES["sft"]
    assert [lr_factor(sft, s, 100) for s in (0, 50, 99)] == pytest.approx([0.02, 0.01, 0.0002])


def test_muons_momentum_warms_up_in_mid_only() -> None:
    assert [momentum(RECIPES["mid"], s) for s in (0, 150, 300, 900)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95]
    )
    assert momentum(RECIPES["sft"], 0) == 0.95


def test_a_mid_step_is_half_a_million_tokens() -> None:
    assert rows_per_step(RECIPES["mid"], 207_000, 848_000) * 2048 == 524_288


def test_an_sft_step_is_32_conversations_worth_of_rows() -> None:
    per_step = rows_per_step(RECIPES["sft"], n_rows=5000, n_conversations=20_000)
    assert per_step == 8
    assert steps_of(RECIPES["sft"], 5000, per_step) == 20_000 // 32


def test_steps_are_one_epoch_unless_max_steps_says_otherwise() -> None:
    assert steps_of(Recipe(tokens_per_step=1), 25, 8) == 3
    assert steps_of(Recipe(tokens_per_step=1), 5, 8) == 1
    assert steps_of(Recipe(tokens_per_step=1, max_steps=50), 25, 8) == 50


def test_overrides_replace_what_they_name() -> None:
    recipe = recipe_for("sft", {"sequence_len": 128, "tokens_per_step": 2048, "matrix_lr": 1})
    assert (recipe.sequence_len, recipe.tokens_per_step, recipe.matrix_lr) == (128, 2048, 1)
    assert rows_per_step(recipe, 100, 100) == 16
    assert recipe.init_lr_frac == 0.02


def test_rl_is_16_answers_to_each_of_16_questions_at_a_twentieth_of_the_rates() -> None:
    rl = recipe_for("rl")
    assert (rl.questions_per_step, rl.samples, rl.max_new_tokens, rl.temperature, rl.top_k) == (
        16,
        16,
        256,
        1.0,
        50,
    )
    assert [lr_factor(rl, s, 467) for s in (0, 466)] == pytest.approx([0.05, 0.05 / 467])
    assert momentum(rl, 0) == 0.95


def test_overrides_under_a_phases_name_are_for_that_phase_alone() -> None:
    overrides = {"max_steps": 20, "rl": {"max_steps": 5, "top_k": None, "eval_questions": 0}}
    assert recipe_for("mid", overrides) == recipe_for("mid", {"max_steps": 20})
    rl = recipe_for("rl", overrides)
    assert (rl.max_steps, rl.top_k, rl.eval_questions) == (5, None, 0)


@pytest.mark.parametrize(
    ("phase", "overrides", "says"),
    [
        ("agent_rl", {}, "no recipe for phase 'agent_rl'"),
        ("mid", {"sequence_length": 1}, "did you mean sequence_len"),
        ("mid", {"xyz": 1}, "recipe has no 'xyz'"),
        ("mid", {"sequence_len": 0}, "sequence_len is 0"),
        ("mid", {"sequence_len": 128.0}, "sequence_len is 128.0"),
        ("mid", {"max_steps": True}, "max_steps is True"),
        ("mid", {"matrix_lr": "0.1"}, "matrix_lr is '0.1'"),
        ("mid", {"matrix_lr": -1.0}, "not negative"),
        ("mid", {"matrix_lr": None}, "matrix_lr is None"),
        ("mid", {"tokens_per_step": None}, "is needed"),
        ("mid", {"tokens_per_step": 5, "examples_per_step": 5}, "not both"),
        ("mid", {"rl": {"sample": 2}}, "did you mean samples"),
        ("rl", {"rl": 5}, "5 is not a table"),
        ("rl", {"samples": 0}, "samples is 0"),
        ("rl", {"top_k": 0}, "top_k is 0"),
        ("mid", {"matrix_lr": float("nan")}, "matrix_lr is nan"),
        ("mid", {"train_all_tokens": 1}, "train_all_tokens is 1"),
    ],
)
def test_a_bad_override_is_refused_by_name(
    phase: str, overrides: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageProblem, match=says):
        recipe_for(phase, overrides)
