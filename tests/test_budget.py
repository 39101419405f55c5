"""What may be spent before saving begins."""
from __future__ import annotations

import pytest

from nanolan.budget import limit_for, soft_life_s, soft_limit_cents


@pytest.mark.parametrize("limit, hourly, soft", [
    (10_000, 2400, 8_880),       # 8xH100 at $24/h: 14 minutes are $5.60, twice that is kept
    (1_120, 2400, 0), (100, 2400, -1_020), (15_000, 1, 14_998), (15_000, 3360, 13_432)])
def test_twice_the_time_of_a_checkpoint_an_upload_and_a_deletion_is_kept(limit: int, hourly: int, soft: int) -> None:
    assert soft_limit_cents(limit, hourly) == soft


def test_another_margin_keeps_another_sum_and_none_keeps_nothing() -> None:
    assert soft_limit_cents(10_000, 2400, 60) == 9_920 and soft_limit_cents(10_000, 2400, 0) == 10_000
    assert soft_life_s(3600) == 3600 - 28 * 60 and soft_life_s(3600, 60) == 3480


@pytest.mark.parametrize("cents, hourly", [(0, 2400), (2_409, 2400), (2_480, 2400), (15_000, 3360), (1, 1), (99, 14)])
def test_the_limit_to_type_is_the_least_in_dollars_that_is_enough(cents: int, hourly: int) -> None:
    dollars = limit_for(cents, hourly)
    assert dollars and soft_limit_cents(dollars * 100, hourly) > cents >= soft_limit_cents(dollars * 100 - 100, hourly)


def test_no_limit_is_named_that_nobody_may_type() -> None:
    assert limit_for(1_000_000, 2400) is None and limit_for(990_000, 100) == 9901
