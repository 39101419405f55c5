"""Whether batch settings divide by a number of GPUs, by the rules of nanochat's own scripts."""

from __future__ import annotations

from typing import Any

import pytest

from nanolan.trainers.batch import batch_problem
from nanolan.trainers.scripts.syntax import Expression

TOKENS = {"total_batch_size": 524288, "device_batch_size": 32, "max_seq_len": 2048}
EXAMPLES = {"target_examples_per_step": 32, "device_batch_size": 4}
RL = {"examples_per_step": 16, "device_batch_size": 8, "num_samples": 16}
BIG = 2**62
ROWS: list[tuple[dict[str, Any], int, str]] = [
    (TOKENS, 8, ""),
    (TOKENS, 4, ""),
    (TOKENS, 1, ""),
    (TOKENS, 3, "total_batch_size=524288 is no multiple of 32 device_batch_size x 2048 max_seq_len x 3 GPUs = 196608"),
    (TOKENS, 16, "= 1048576"),
    (TOKENS | {"device_batch_size": 16}, 16, ""),
    (EXAMPLES, 8, ""),
    (EXAMPLES, 7, "target_examples_per_step=32 is no multiple of 4 device_batch_size x 7 GPUs = 28"),
    (EXAMPLES, 16, "= 64"),
    (RL, 8, ""),
    (RL, 16, ""),
    (RL, 3, "examples_per_step=16 is no multiple of 3 GPUs = 3"),
    (RL, 32, "examples_per_step=16 is no multiple of 32 GPUs = 32"),
    (RL | {"device_batch_size": 5}, 8, "num_samples=16 is no multiple of 5 device_batch_size = 5"),
    (RL | {"device_batch_size": 32}, 8, "num_samples=16"),
    ({}, 8, ""),
    ({"device_batch_size": 7}, 8, ""),
    ({"total_batch_size": 7}, 8, ""),
    (TOKENS | {"max_seq_len": None}, 3, ""),
    (TOKENS | {"device_batch_size": None}, 3, ""),
    (TOKENS | {"total_batch_size": -1}, 3, ""),  # chosen by the script
    (TOKENS | {"total_batch_size": 0}, 3, ""),
    (TOKENS | {"total_batch_size": 524288.0}, 3, ""),
    (TOKENS | {"total_batch_size": "524288"}, 3, ""),
    (TOKENS | {"total_batch_size": True}, 3, ""),
    (TOKENS | {"device_batch_size": 0}, 3, ""),
    (TOKENS | {"total_batch_size": Expression("2**19 if x else 7")}, 3, ""),
    (TOKENS | {"total_batch_size": BIG, "device_batch_size": BIG}, 1, "total_batch_size"),
]  # fmt: skip


@pytest.mark.parametrize("values, processes, said", ROWS, ids=lambda v: str(v)[:50])
def test_what_does_not_divide_is_said_with_the_numbers(
    values: dict[str, Any], processes: int, said: str
) -> None:
    found = batch_problem(values, processes)
    assert said in found and bool(found) is bool(said)
