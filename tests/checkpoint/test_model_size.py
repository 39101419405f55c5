"""Tests of nanolan/checkpoint/model_size.py."""

from __future__ import annotations

import re

import pytest

from nanolan.checkpoint.model_size import USABLE, ModelSize, micro_batch
from nanolan.errors import UsageProblem

D20, D26, D32 = (ModelSize(65_536, depth, 64 * depth) for depth in (20, 26, 32))
BESIDE_GIB = 2.6  # CUDA context and NCCL, which the counts below do not have


def test_the_published_models_have_their_published_sizes() -> None:
    assert D20.n_params == 560_988_160 and round(D32.n_params / 1e6) == 1879


@pytest.mark.parametrize(
    "size, gib, rows",
    [(D20, 80, 32), (D20, 40, 8), (D20, 24, 4), (D32, 192, 16), (D32, 80, 8), (D20, None, 4)],
)
def test_rows_by_gpu_and_model(size: ModelSize, gib: float | None, rows: int) -> None:
    assert micro_batch(size, 2048, gib) == rows


def test_a_d32_that_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        UsageProblem,
        match=re.escape(
            "1879M parameters at 2048 tokens a row needs 41 GiB of GPU memory, this one has 40"
        ),
    ):
        micro_batch(D32, 2048, 40)


# Counted peaks of a rank (GiB), of a compiled step of mid at T=2048: GPU, rows, peak on one rank and on eight
COUNTED = [
    (D20, 79.1, 32, 70.0),
    (D20, 79.1, 32, 67.1),
    (D20, 44.4, 8, 25.9),
    (D20, 39.4, 8, 24.7),
    (D26, 79.1, 16, 65.3),
    (D32, 79.1, 8, 63.2),
    (D32, 178, 16, 101.2),
]


@pytest.mark.parametrize("size, gib, rows, peak_gib", COUNTED)
def test_the_rows_of_a_compiled_step_stay_within_the_gpu(
    size: ModelSize, gib: float, rows: int, peak_gib: float
) -> None:
    assert micro_batch(size, 2048, gib) == rows
    assert peak_gib + BESIDE_GIB <= USABLE * gib


# The update of rl, eager, 32 rows of 496 tokens, on 79.1 GiB: the peak at 32 rows, and the rows it may have
@pytest.mark.parametrize(
    "size, peak_gib, rows", [(D20, 26.8, 32), (D26, 44.7, 32), (D32, 68.8, 16)]
)
def test_rl_of_a_d32_has_fewer_rows_because_its_loss_is_not_compiled(
    size: ModelSize, peak_gib: float, rows: int
) -> None:
    assert micro_batch(size, 496, 79.1, eager=True) == rows
    assert (rows == 32) == (peak_gib + BESIDE_GIB < 0.9 * 79.1)
    assert micro_batch(size, 496, 79.1) == 32, "a compiled step of the same rows would fit"
