"""Tests of nanolan/checkpoint/model_size.py."""

from __future__ import annotations

import re

import pytest

from nanolan.checkpoint.model_size import ModelSize, micro_batch
from nanolan.errors import UsageProblem

D20, D32 = ModelSize(65_536, 20, 1280), ModelSize(65_536, 32, 2048)


def test_the_published_models_have_their_published_sizes() -> None:
    assert D20.n_params == 560_988_160 and round(D32.n_params / 1e6) == 1879


@pytest.mark.parametrize(
    "size, gib, rows",
    [(D20, 80, 32), (D20, 40, 8), (D20, 24, 2), (D32, 192, 32), (D32, 80, 8), (D20, None, 4)],
)
def test_rows_by_gpu_and_model(size: ModelSize, gib: float | None, rows: int) -> None:
    assert micro_batch(size, 2048, gib) == rows


def test_a_d32_that_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        UsageProblem,
        match=re.escape(
            "1879M parameters at 2048 tokens a row needs 43 GiB of GPU memory, this one has 40"
        ),
    ):
        micro_batch(D32, 2048, 40)
