"""Whole steps at d20 on a CUDA device: dtypes, devices, and how often the host waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.train.fake_cuda.conftest import QUICK, Run

SLOW = [("mid", 1), ("sft", 8), ("rl", 1)]
WAITS = {"nanolan/train/step.py", "nanolan/train/optim.py"}  # the loss and the gradient's norm
LOOKS = "nanolan/model/generation/decoder.py"  # at the tokens drawn


def check(step: dict[str, Any]) -> None:
    assert step["done"] == 1
    assert step["compiles"] is False, "a phase of one step"
    assert set(step["gradients"]) == {
        "torch.float32 of torch.float32 on cuda:0",
        "torch.bfloat16 of torch.bfloat16 on cuda:0",  # the token embedding
    }
    assert step["attention_dtypes"] == ["torch.bfloat16"]
    waits = {place: n for place, n in step["syncs"].items() if not place.startswith(LOOKS)}
    assert sum(waits.values()) <= 3, waits
    assert {place.partition(":")[0] for place in waits} == WAITS


@pytest.mark.parametrize("name", [name for name in QUICK if " on " in name])
def test_a_step_keeps_its_dtypes_and_waits_for_the_gpu_twice(
    name: str, quick: dict[str, Any]
) -> None:
    check(quick[name])


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "size"), SLOW)
def test_so_does_a_step_of_other_sizes(phase: str, size: int, fake_gpu: Run) -> None:
    [step] = fake_gpu(("step", {"phase": phase, "depth": 20, "size": size}))
    check(step)
