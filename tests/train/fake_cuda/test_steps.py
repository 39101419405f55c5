"""Whole steps at d20 on a CUDA device: dtypes, devices, and how often the host waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.train.fake_cuda.conftest import Run

QUICK = [("mid", 8), ("sft", 1), ("rl", 8)]
SLOW = [("mid", 1), ("sft", 8), ("rl", 1)]
WAITS = {"nanolan/train/step.py", "nanolan/train/optim.py"}  # the loss and the gradient's norm
LOOKS = "nanolan/model/engine.py"  # at the tokens drawn


@pytest.fixture(scope="module")
def quick(fake_gpu: Run) -> dict[tuple[str, int], dict[str, Any]]:
    """The quick steps, from one process."""
    return dict(zip(QUICK, fake_gpu(*(case(*key) for key in QUICK)), strict=True))


def case(phase: str, size: int) -> tuple[str, dict[str, Any]]:
    return "step", {"phase": phase, "depth": 20, "size": size}


def check(step: dict[str, Any]) -> None:
    assert step["done"] == 1
    assert set(step["gradients"]) == {
        "torch.float32 of torch.float32 on cuda:0",
        "torch.bfloat16 of torch.bfloat16 on cuda:0",  # the token embedding
    }
    assert step["attention_dtypes"] == ["torch.bfloat16"]
    waits = {place: n for place, n in step["syncs"].items() if not place.startswith(LOOKS)}
    assert sum(waits.values()) <= 3, waits
    assert {place.partition(":")[0] for place in waits} == WAITS


@pytest.mark.parametrize("key", QUICK, ids=str)
def test_a_step_keeps_its_dtypes_and_waits_for_the_gpu_twice(
    key: tuple[str, int], quick: dict[tuple[str, int], dict[str, Any]]
) -> None:
    check(quick[key])


@pytest.mark.slow
@pytest.mark.parametrize("key", SLOW, ids=str)
def test_so_does_a_step_of_many_micro_batches(key: tuple[str, int], fake_gpu: Run) -> None:
    [step] = fake_gpu(case(*key))
    check(step)
