"""Decoding at d20 on a CUDA device: few shapes, few launches, few looks. A ratchet: lower the limits, never raise them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.train.fake_cuda.conftest import QUICK

STEPS = QUICK["decode"][1]["new_tokens"]
MOST_SHAPES = 8  # of attention, in all steps
MOST_LAUNCHES = 5  # a step, those of the prompts included
MOST_KERNELS = 560  # in a graph


@pytest.fixture
def found(quick: dict[str, Any]) -> dict[str, Any]:
    """Two questions with 16 answers each."""
    return quick["decode"]


def test_attention_sees_few_shapes(found: dict[str, Any]) -> None:
    assert len(found["shapes"]) <= MOST_SHAPES


def test_a_step_is_one_launch(found: dict[str, Any]) -> None:
    assert found["launches"] <= MOST_LAUNCHES * STEPS
    assert found["replays"] == STEPS - 1  # the first token comes from the prompt


def test_the_host_waits_at_its_looks_alone(found: dict[str, Any]) -> None:
    assert sum(found["syncs"].values()) == STEPS / 8 + 1  # at the first token, then at every 8


def test_a_graph_holds_kernels_and_nothing_that_needs_the_host(found: dict[str, Any]) -> None:
    assert found["recorded"]["kernels"] <= MOST_KERNELS
    assert found["recorded"]["forbidden"] == 0


def test_the_next_answers_need_no_new_graph(found: dict[str, Any]) -> None:
    assert (found["recorded_again"], found["new_shapes"]) == (0, 0)
