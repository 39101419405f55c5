"""Tests of nanolan/memory.py."""
from __future__ import annotations

import re
from typing import Any

import pytest

from nanolan.errors import BadAnswer, UsageProblem
from nanolan.memory import ModelSize, micro_batch, size_of

D20, D32 = ModelSize(65_536, 20, 1280), ModelSize(65_536, 32, 2048)
CONFIG = {"vocab_size": 65_536, "n_layer": 20, "n_embd": 1280, "n_head": 10, "n_kv_head": 10, "sequence_len": 2048}


def test_the_published_models_have_their_published_sizes() -> None:
    assert D20.n_params == 560_988_160 and round(D32.n_params / 1e6) == 1879


@pytest.mark.parametrize("size, gib, rows", [(D20, 80, 32), (D20, 40, 8), (D20, 24, 2), (D32, 192, 32), (D32, 80, 8), (D20, None, 4)])
def test_rows_by_gpu_and_model(size: ModelSize, gib: float | None, rows: int) -> None:
    assert micro_batch(size, 2048, gib) == rows


def test_a_d32_that_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageProblem, match=re.escape("1879M parameters at 2048 tokens a row needs 43 GiB of GPU memory, this one has 40")):
        micro_batch(D32, 2048, 40)


def test_grouped_keys_and_values_make_a_model_smaller() -> None:
    assert size_of(CONFIG | {"n_kv_head": 5}, "meta").n_params == D20.n_params - 20 * 1280 * 1280


@pytest.mark.parametrize("config", [{}, CONFIG | {"n_head": 0}, CONFIG | {"n_embd": "x"}, CONFIG | {"n_layer": None}, CONFIG | {"vocab_size": -1},
                                    {k: v for k, v in CONFIG.items() if k != "n_kv_head"}])
def test_a_config_without_a_size_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer, match="meta_000001.json holds no usable model_config"):
        size_of(config, "meta_000001.json")
