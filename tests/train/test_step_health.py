"""Health: noise passes, an explosion does not."""

from __future__ import annotations

import math
import random

import pytest
import torch

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.tiny_model import learn_encoding
from nanolan.train.step import (
    PATIENCE,
    RECENT,
    Health,
    check_number,
    check_start,
    expected_loss,
    finite,
)


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
        check_number("loss", value, 3, 9, lambda: "nothing saved")
    check_number("loss", 1e30, 3, 9, str)


def test_a_model_is_finite_until_a_weight_is_not() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 1, 2, 2, 32))
    assert finite(model)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.nan
    assert not finite(model)


TOKENIZER = Tokenizer(learn_encoding(["hello there, who are you and what is 2 + 3?"], 7))


@pytest.mark.parametrize(
    "meta, expected",
    [
        ({}, None),
        ({"val_bpb": None}, None),
        ({"val_bpb": "0.8"}, None),
        ({"val_bpb": True}, None),
        ({"val_loss": 1.5}, 1.5),
        ({"val_bpb": 0.8}, pytest.approx(0.8 * math.log(2), rel=0.2)),
    ],
)
def test_what_a_meta_says_of_the_loss_is_known_or_not(
    meta: dict[str, object], expected: float | None
) -> None:
    assert expected_loss(meta, TOKENIZER) == expected


@pytest.mark.parametrize(
    "loss, expected",
    [(2.7, 2.9), (6.0, 2.9), (8.8, 2.9), (10.9, None), (11.1, 9.0), (11.1, 11.1), (8.8, 0.5)],
)
def test_a_healthy_start_is_never_stopped(loss: float, expected: float | None) -> None:
    """A d20 begins mid near 3 nats; new data and special tokens that it has never seen do not double that."""
    check_start(loss, expected, 65_536)


@pytest.mark.parametrize("loss, expected", [(11.09, 2.9), (14.2, 2.9), (9.0, 2.9), (11.1, 0.5)])
def test_a_trained_model_that_begins_as_one_that_guesses_is_bad_data(
    loss: float, expected: float
) -> None:
    with pytest.raises(BadAnswer, match="the tokenizer is another model's"):
        check_start(loss, expected, 65_536)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1.0, -1.0], True),
        ([math.nan, 1.0], False),
        ([math.inf, -math.inf], False),
        ([-math.inf, 1.0], False),
        ([3e38, 3e38], True),  # their sum is not finite, but they are
    ],
)
def test_weights_are_finite_when_each_of_them_is(values: list[float], want: bool) -> None:
    model = GPT.fresh(GPTConfig(16, 64, 1, 2, 2, 16))
    with torch.no_grad():
        model.lm_head.weight[0, :2] = torch.tensor(values)
    assert finite(model) == want
