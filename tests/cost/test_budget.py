"""The two-stage limit: training stops while there is money to save, upload and delete."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.cost.budget import (
    ASSUMED,
    MARGIN_S,
    Margin,
    give_up_cents,
    limit_for,
    soft_life_s,
    soft_limit_cents,
)


def test_the_margin_is_taken_twice_at_the_rate_of_the_machine() -> None:
    assert (
        soft_limit_cents(10_000, 2_400, 14 * 60) == 10_000 - 2 * 560
    )  # $24/h, 14 minutes: $88.80 of $100
    assert soft_life_s(3600, 600) == 2400 and MARGIN_S == 14 * 60


@pytest.mark.parametrize(
    "limit, rate, soft", [(500, 2_400, -620), (100, 0, 100), (0, 2_400, -1120)]
)
def test_a_limit_that_leaves_no_room_shows_as_such(limit: int, rate: int, soft: int) -> None:
    assert soft_limit_cents(limit, rate) == soft


@given(
    st.integers(1, 1_000_000),
    st.integers(0, 100_000),
    st.builds(Margin, *[st.floats(0, 10_000)] * 4),
)
def test_uploads_are_given_up_after_training_stops_and_before_the_limit(
    limit: int, rate: int, m: Margin
) -> None:
    assert (
        soft_limit_cents(limit, rate, m.total_s) <= give_up_cents(limit, rate, m) + 1 <= limit + 1
    )


def test_both_kinds_of_machine_have_a_margin() -> None:
    assert set(ASSUMED) == {"cuda", "cpu"} and all(m.leave_s < m.total_s for m in ASSUMED.values())


@pytest.mark.parametrize(
    "limit, hourly, soft",
    [
        (10_000, 2400, 8_880),  # 8xH100 at $24/h: 14 minutes are $5.60, twice that is kept
        (1_120, 2400, 0),
        (100, 2400, -1_020),
        (15_000, 1, 14_998),
        (15_000, 3360, 13_432),
    ],
)
def test_twice_the_time_of_a_checkpoint_an_upload_and_a_deletion_is_kept(
    limit: int, hourly: int, soft: int
) -> None:
    assert soft_limit_cents(limit, hourly) == soft


def test_another_margin_keeps_another_sum_and_none_keeps_nothing() -> None:
    assert (
        soft_limit_cents(10_000, 2400, 60) == 9_920 and soft_limit_cents(10_000, 2400, 0) == 10_000
    )
    assert soft_life_s(3600) == 3600 - 28 * 60 and soft_life_s(3600, 60) == 3480


@pytest.mark.parametrize(
    "cents, hourly", [(0, 2400), (2_409, 2400), (2_480, 2400), (15_000, 3360), (1, 1), (99, 14)]
)
def test_the_limit_to_type_is_the_least_in_dollars_that_is_enough(cents: int, hourly: int) -> None:
    dollars = limit_for(cents, hourly)
    assert dollars and soft_limit_cents(dollars * 100, hourly) > cents >= soft_limit_cents(
        dollars * 100 - 100, hourly
    )


def test_no_limit_is_named_that_nobody_may_type() -> None:
    assert limit_for(1_000_000, 2400) is None and limit_for(990_000, 100) == 9901
