"""The meter: the larger of money and time, from the creation on; a number that is missing is never zero."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.instance import ApiInstance, Instance, instance_of
from nanolan.meter import GIVE_UP_SHARE, STOP_TRAINING_SHARE, Meter, used_share
from nanolan.plan import Plan, iso, now_utc
from nanolan.secret import Secret
from nanolan.shadeform import Shadeform
from nanolan.sim.shadeform import ShadeformServer

from .box_fixtures import AT_ONCE, KEY, make_plan, until

NOBODY = Shadeform(Secret(KEY), "http://127.0.0.1:1/v1")


def plan_of(limit_cents: int = 1000, life_s: float = 36_000, hourly_cents: int = 100, born: datetime | None = None) -> Plan:
    """Ten hours at $1 an hour with a limit of $10."""
    now = born or now_utc()
    plan = make_plan("", "", created_at=iso(now), deadline=iso(now + timedelta(seconds=life_s)), limit_cents=limit_cents)
    return replace(plan, offer=replace(plan.offer, hourly_cents=hourly_cents))


def machine(age_s: float | None = 0.0, **fields: object) -> Instance:
    """An instance that was created `age_s` ago, as the API shows it."""
    born = None if age_s is None else iso(now_utc() - timedelta(seconds=age_s))
    return instance_of(ApiInstance(id="i", name="n", status="active", created_at=born, **fields))  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("age_s, spent_cents, share", [
    (0, 0, 0.0), (18_000, 0, 0.5), (0, 500, 0.5), (18_000, 900, 0.9), (36_000, 10, 1.0), (72_000, 0, 2.0)])
def test_the_larger_of_money_and_time_counts(age_s: float, spent_cents: int, share: float) -> None:
    assert used_share(plan_of(), age_s, spent_cents) == pytest.approx(share)


def test_a_life_of_no_length_is_over_and_divides_nothing_by_zero() -> None:
    assert used_share(plan_of(life_s=0), 5.0, 0) >= 1


@pytest.mark.parametrize("fields, cents_after_an_hour", [
    (dict(), 200), (dict(hourly_price=100, cost_estimate="0"), 200), (dict(hourly_price=150), 300), (dict(hourly_price=50), 200),
    (dict(cost_estimate="7.005"), 701), (dict(cost_estimate=None, hourly_price=None), 200)])
def test_what_the_api_does_not_tell_is_counted_at_the_agreed_price_or_a_higher_one(fields: dict[str, object],
                                                                                   cents_after_an_hour: int) -> None:
    clock = Clock()
    meter = Meter(plan_of(), machine(3600, **fields), NOBODY, clock)
    clock.now += 3600
    assert abs(meter.spent_cents - cents_after_an_hour) <= 1 and abs(meter.age_s - 7200) < 3


def test_the_age_counts_from_the_creation_and_by_the_monotonic_clock() -> None:
    clock = Clock()
    plan = plan_of(born=now_utc() - timedelta(hours=2))
    for me in (machine(7200), machine(None)):       # without created_at: from the plan's own time
        meter = Meter(plan, me, NOBODY, clock)
        before = meter.age_s
        clock.now += 600
        assert abs(before - 7200) < 3 and meter.age_s == before + 600
    assert Meter(plan, machine(-3600), NOBODY, clock).age_s == 0, "created in the future: a clock is wrong, the age is not negative"


def test_a_reached_share_says_whether_it_was_money_or_time() -> None:
    clock = Clock()
    by_money, by_time = (Meter(plan_of(life_s=life), machine(), NOBODY, clock) for life in (360_000, 10_000))
    assert by_money.over(STOP_TRAINING_SHARE) == by_time.over(STOP_TRAINING_SHARE) == ""
    clock.now += 8600
    assert "minutes used" in by_time.over(STOP_TRAINING_SHARE) and by_time.over(GIVE_UP_SHARE) == ""
    clock.now += 32_500 - 8600
    assert "of the limit of $10.00 used" in by_money.over(GIVE_UP_SHARE)
    assert by_money.by_money(GIVE_UP_SHARE)


def test_a_limit_of_time_is_not_taken_for_one_of_money() -> None:
    meter = Meter(plan_of(life_s=100), machine(95), NOBODY, Clock())
    assert meter.over(GIVE_UP_SHARE) and not meter.by_money(STOP_TRAINING_SHARE)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, key=KEY, boxes=False, delays=AT_ONCE) as server:
        yield server


def test_the_providers_figure_is_followed_upwards_only_and_through_its_failures(cloud: ShadeformServer) -> None:
    own = cloud.add_foreign("it", 100_000)      # an hour old: $1,000
    plan = plan_of(limit_cents=1_000_000)
    api = Shadeform(Secret(KEY), cloud.url, sleep=lambda s: None)
    cloud.fault(f"GET /v1/instances/{own.id}/info", "status", status=500, times=4)      # one whole look
    cloud.fault(f"GET /v1/instances/{own.id}/info", "html", times=1)
    meter = Meter(plan, dataclasses.replace(machine(), id=own.id), api, poll_s=0.05).start()
    until(lambda: meter.spent_cents >= 100_000)
    cloud.fault(f"GET /v1/instances/{own.id}/info", "edit", times=None, change=lambda body: body | {"cost_estimate": "0.5"})
    seen = len(cloud.requests)
    until(lambda: len(cloud.requests) > seen + 2)
    meter.stop()
    assert meter.spent_cents >= 100_000

