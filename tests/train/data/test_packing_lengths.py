"""Packing: nothing lost, nothing cut, little air, and the same on every rank."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from nanolan.train.data.packing import pack

LENGTHS = st.lists(st.integers(1, 50), max_size=300)


@given(LENGTHS, st.integers(1, 20))
def test_every_conversation_is_packed_exactly_once(lengths: list[int], look_ahead: int) -> None:
    assert sorted(i for row in pack(lengths, 50, look_ahead) for i in row) == list(
        range(len(lengths))
    )


@given(LENGTHS, st.integers(1, 20))
def test_no_row_is_empty_or_overfull(lengths: list[int], look_ahead: int) -> None:
    assert all(0 < sum(lengths[i] for i in row) <= 50 for row in pack(lengths, 50, look_ahead))


@given(LENGTHS)
def test_no_row_has_room_for_a_conversation_that_was_waiting(lengths: list[int]) -> None:
    rows = pack(lengths, 50, look_ahead=len(lengths) + 1)  # all wait from the start
    for n, row in enumerate(rows):
        room = 50 - sum(lengths[i] for i in row)
        assert all(lengths[i] > room for later in rows[n + 1 :] for i in later)


def test_rows_of_chat_like_lengths_are_98_percent_full() -> None:
    rng = random.Random(0)
    lengths = [min(2049, int(rng.lognormvariate(6, 0.7)) + 20) for _ in range(5000)]
    assert sum(lengths) / (2049 * len(pack(lengths, 2049))) > 0.98


def test_a_conversation_never_waits_longer_than_the_look_ahead() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 50) for _ in range(5000)]
    newest = 0
    for row in pack(lengths, 50):
        newest = max(newest, *row)
        assert min(row) >= 0
        assert newest - row[0] <= 300  # a row begins with the one that waited longest


def test_packing_is_the_same_every_time() -> None:
    lengths = [random.Random(1).randint(1, 9) for _ in range(100)]
    assert pack(lengths, 20) == pack(lengths, 20)
