"""Health: noise passes, an explosion does not."""
from __future__ import annotations

import math
import random

import pytest
import torch

from nanolan.errors import RunFailed
from nanolan.train.health import PATIENCE, RECENT, Health, check_number, finite
from nanolan.train.model import GPT, GPTConfig


def watched(losses: list[float]) -> Health:
    health = Health()
    for loss in losses:
        health.see(loss)
    return health


def test_a_loss_that_falls_noisily_is_healthy() -> None:
    dice = random.Random(0)
    health = watched([6 * math.exp(-i / 50) + dice.uniform(0, 1.5) for i in range(500)])
    assert health.calm
    assert not health.exploded()


@pytest.mark.parametrize("spike", [1, PATIENCE - 1])
def test_a_spike_passes_but_is_not_calm(spike: int) -> None:
    health = watched([1.2] * 50 + [9.0] * spike)
    assert not health.exploded()
    assert not health.calm
    health.see(1.3)
    assert health.calm


def test_a_loss_that_stays_high_has_exploded() -> None:
    health = watched([1.2] * 50 + [9.0] * PATIENCE)
    assert "the loss was over 3.6 for 10 steps" in health.exploded()


def test_high_losses_do_not_raise_the_mean_that_they_are_measured_by() -> None:
    assert watched([1.0] * 50 + [3.5] * PATIENCE).exploded()


def test_the_mean_is_of_enough_steps() -> None:
    assert not watched([1.0] + [8.0] * (RECENT - 1) + [20.0] * PATIENCE).exploded()


def test_tiny_losses_may_triple() -> None:
    assert watched([0.01] * 50 + [0.9] * 50).calm


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stops_the_phase(value: float) -> None:
    with pytest.raises(RunFailed, match="the loss is .* at step 3 of 9: stopped, nothing saved"):
        check_number("loss", value, 3, 9, "nothing saved")
    check_number("loss", 1e30, 3, 9, "")


def test_a_model_is_finite_until_a_weight_is_not() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 1, 2, 2, 32))
    assert finite(model)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.nan
    assert not finite(model)
