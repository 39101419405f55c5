"""A rank's peak memory at the micro-batch of nanolan/checkpoint/model_size.py, for models and GPUs that are rented."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.train.recipe import micro_batch
from tests.train.fake_cuda.conftest import Run
from tests.train.fake_cuda.shapes import config_of

GPUS_GIB = (23.6, 39.4, 79.1, 140.0, 178.0)  # as drivers report 24, 40, 80, 141 and 180 GB
DEPTHS = (20, 26, 32)
MOST = 0.92  # of the memory: context, NCCL and fragmentation need the rest


def fits(depth: int, gib: float) -> int:
    """Rows of the table, 0 where the model is too large."""
    try:
        return micro_batch(config_of(depth), 2048, gib)
    except UsageProblem:
        return 0


# Of GPUs with the same micro-batch, the smallest is the fullest
FULLEST = sorted(
    {
        (depth, rows): gib
        for depth in DEPTHS
        for gib in reversed(GPUS_GIB)
        if (rows := fits(depth, gib))
    }.items()
)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "rows", "gib"), [(*key, gib) for key, gib in FULLEST])
def test_the_tables_micro_batch_fits(depth: int, rows: int, gib: float, fake_gpu: Run) -> None:
    [found] = fake_gpu(("peak", {"depth": depth, "gib": gib, "size": 1}))
    assert found["micro"] == rows
    assert found["peak_gib"] <= MOST * gib


@pytest.mark.slow
def test_eight_ranks_need_no_more_than_one(fake_gpu: Run) -> None:
    [alone], [eighth] = (fake_gpu(("peak", {"depth": 20, "gib": 79.1, "size": n})) for n in (1, 8))
    assert eighth["peak_gib"] <= alone["peak_gib"]


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "gib"), [(20, 23.6), (26, 39.4), (32, 79.1)])
def test_a_phase_that_is_not_compiled_fits_too(depth: int, gib: float, fake_gpu: Run) -> None:
    [found] = fake_gpu(("step", {"phase": "sft", "depth": depth, "size": 1, "gib": gib}))
    assert found["micro"] <= micro_batch(config_of(depth), 2048, gib, eager=True)
    assert found["peak_gib"] <= MOST * gib
