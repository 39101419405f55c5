"""The two-stage limit: training stops while there is money to save, upload and delete."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.budget import ASSUMED, MARGIN_S, Margin, give_up_cents, soft_life_s, soft_limit_cents


def test_the_margin_is_taken_twice_at_the_rate_of_the_machine() -> None:
    assert soft_limit_cents(10_000, 2_400, 14 * 60) == 10_000 - 2 * 560      # $24/h, 14 minutes: $88.80 of $100
    assert soft_life_s(3600, 600) == 2400 and MARGIN_S == 14 * 60


@pytest.mark.parametrize("limit, rate, soft", [(500, 2_400, -620), (100, 0, 100), (0, 2_400, -1120)])
def test_a_limit_that_leaves_no_room_shows_as_such(limit: int, rate: int, soft: int) -> None:
    assert soft_limit_cents(limit, rate) == soft


@given(st.integers(1, 1_000_000), st.integers(0, 100_000), st.builds(Margin, *[st.floats(0, 10_000)] * 4))
def test_uploads_are_given_up_after_training_stops_and_before_the_limit(limit: int, rate: int, m: Margin) -> None:
    assert soft_limit_cents(limit, rate, m.total_s) <= give_up_cents(limit, rate, m) + 1 <= limit + 1


def test_both_kinds_of_machine_have_a_margin() -> None:
    assert set(ASSUMED) == {"cuda", "cpu"} and all(m.leave_s < m.total_s for m in ASSUMED.values())
