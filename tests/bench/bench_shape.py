"""The bench's smallest shape, for its tests."""

from __future__ import annotations

from dataclasses import replace

from nanolan.model.gpt import GPTConfig
from tests.bench.workload import SHAPES

TINY = replace(
    SHAPES["cpu-tiny"],
    config=GPTConfig(64, 304, 1, 2, 2, 32),
    usual=20,
    steps=1,
    new_tokens=6,
    rl_steps=1,
)
