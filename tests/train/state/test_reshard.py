"""Muon's momentum, dealt to another number of processes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from nanolan.errors import BadAnswer
from nanolan.train.state.reshard import Dealt, resharded

KEYS = ("2.momentum_buffer", "3.momentum_buffer")


def saved_by(ranks: int, totals: Mapping[str, int]) -> list[dict[str, Tensor]]:
    """What each rank saves of matrices that are numbered 1, 2, ...; padding is 0."""
    found: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    for key, total in totals.items():
        each = -(-total // ranks)
        whole = torch.zeros(ranks * each, 2, 3)
        whole[:total] = torch.arange(1, total + 1).view(-1, 1, 1)
        for rank in range(ranks):
            found[rank][key] = whole[rank * each :][:each].clone()
    return found


@pytest.mark.parametrize("total", [1, 2, 7, 8, 20, 80])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("saved", [1, 2, 3, 4, 8, 16])
def test_every_rank_gets_what_it_would_have_saved_itself(
    saved: int, ranks: int, total: int
) -> None:
    totals = dict(zip(KEYS, (total, 2 * total + 1), strict=True))
    files = saved_by(saved, totals)
    for rank, wanted in enumerate(saved_by(ranks, totals)):
        got = resharded(files.__getitem__, totals, saved, rank, ranks)
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_a_rank_reads_only_the_files_that_it_needs() -> None:
    totals, read = {KEYS[0]: 16}, set[int]()
    files = saved_by(8, totals)

    def counted(rank: int) -> dict[str, Tensor]:
        read.add(rank)
        return files[rank]

    resharded(counted, totals, 8, 3, 4)
    assert read == {0, 6, 7}, "and the first, for the shapes"


def test_a_state_before_the_first_step_has_no_slices() -> None:
    assert resharded(lambda rank: {}, {KEYS[0]: 8}, 2, 1, 3) == {}


def test_the_numbers_keep_their_type() -> None:
    files = [{KEYS[0]: torch.ones(2, 2, 2, dtype=torch.bfloat16)} for _ in range(2)]
    assert resharded(files.__getitem__, {KEYS[0]: 4}, 2, 0, 3)[KEYS[0]].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {KEYS[0]: torch.ones(3, 2, 3)},
        {KEYS[0]: torch.ones(1, 2, 3)},
        {KEYS[0]: torch.tensor(1)},
    ],
    ids=["missing", "too many", "too few", "a number"],
)
def test_a_damaged_slice_is_bad_data(damaged: dict[str, Tensor]) -> None:
    files = [*saved_by(2, {KEYS[0]: 4})[:1], damaged]
    with pytest.raises(BadAnswer, match="rank 1's"):
        resharded(files.__getitem__, {KEYS[0]: 4}, 2, 0, 1)


@pytest.mark.parametrize(
    ("total", "ranks", "parts"),
    [(8, 3, [3, 3, 2]), (3, 8, [1, 1, 1, 0, 0, 0, 0, 0]), (4, 1, [4])],
)
def test_matrices_are_dealt_in_order_with_the_padding_last(
    total: int, ranks: int, parts: list[int]
) -> None:
    assert [len(Dealt(total, ranks).to(rank)) for rank in range(ranks)] == parts
