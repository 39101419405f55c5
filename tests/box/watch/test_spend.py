"""The meter: the larger of money and time, from the creation on; a number that is missing is never zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from nanolan.box.watch.spend import SpendMeter
from nanolan.cost.budget import ASSUMED
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, until
from tests.support.spend_fixtures import NOBODY, Clock, Told, machine, plan_of


@pytest.mark.parametrize(
    "fields, cents_after_an_hour",
    [
        (dict(), 200),
        (dict(hourly_price=100, cost_estimate="0"), 200),
        (dict(hourly_price=150), 300),
        (dict(hourly_price=50), 200),
        (dict(cost_estimate="7.005"), 701),
        (dict(cost_estimate=None, hourly_price=None), 200),
    ],
)
def test_what_the_api_does_not_tell_is_counted_at_the_agreed_price_or_a_higher_one(
    fields: dict[str, object], cents_after_an_hour: int
) -> None:
    clock = Clock()
    meter = SpendMeter(plan_of(), machine(3600, **fields), Told(**fields), clock)
    meter.look()
    clock.now += 3600
    assert abs(meter.spent_cents - cents_after_an_hour) <= 1 and abs(meter.age_s - 7200) < 3


def test_the_age_counts_from_the_creation_and_by_the_monotonic_clock() -> None:
    clock = Clock()
    plan = plan_of(born=now_utc() - timedelta(hours=2))
    for me in (machine(7200), machine(None)):  # without created_at: from the plan's own time
        meter = SpendMeter(plan, me, NOBODY, clock)
        before = meter.age_s
        clock.now += 600
        assert abs(before - 7200) < 3 and meter.age_s == before + 600
    assert SpendMeter(plan, machine(-3600), NOBODY, clock).age_s == 0, (
        "created in the future: a clock is wrong, the age is not negative"
    )


def test_training_stops_before_uploads_are_given_up_and_both_before_the_limit() -> None:
    clock = Clock()
    meter = SpendMeter(
        plan_of(36_000, 360_000, 3600), machine(), NOBODY, clock
    )  # a cent a second, twice 5 s of margin
    for at, soft, hard in ((35_980, False, False), (35_994, True, False), (36_000, True, True)):
        clock.now = 1000.0 + at
        assert (meter.should_stop() is not None, meter.must_give_up() is not None) == (
            soft,
            hard,
        ), at
    assert (
        (stop := meter.should_stop())
        and stop.reason == "spend_limit"
        and stop.text.endswith("of the limit of $360.00 used")
    )
    assert meter.give_up() == stop.text


def test_a_limit_of_time_works_the_same_way_and_is_not_taken_for_one_of_money() -> None:
    clock = Clock()
    meter = SpendMeter(plan_of(life_s=1000), machine(), NOBODY, clock)
    clock.now += 985
    assert meter.should_stop() is None
    clock.now += 8
    assert (
        (stop := meter.should_stop())
        and stop.reason == "max_duration"
        and "minutes used" in stop.text
        and meter.must_give_up() is None
    )
    clock.now += 7
    assert (stop := meter.must_give_up()) and stop.reason == "max_duration"


def test_the_margin_follows_what_was_measured() -> None:
    clock = Clock()
    meter = SpendMeter(plan_of(life_s=10_000), machine(), NOBODY, clock)
    clock.now += 9_000
    assert meter.should_stop() is None
    meter.note_save(0.1)
    assert meter.margin == ASSUMED["cpu"], "a quick save proves nothing about a slow one"
    meter.note_save(200)
    meter.note_upload(300)
    assert (meter.margin.checkpoint_s, meter.margin.upload_s) == (
        200,
        300,
    ) and meter.should_stop(), "1,002 s before the end"


def test_a_life_of_no_length_is_over_at_once() -> None:
    assert SpendMeter(plan_of(life_s=0), machine(), NOBODY, Clock()).must_give_up()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, key=KEY, boxes=False, delays=AT_ONCE) as server:
        yield server


def test_the_providers_figure_is_followed_upwards_only_and_through_its_failures(
    cloud: ShadeformServer,
) -> None:
    own = cloud.add_foreign("it", 100_000)  # an hour old: $1,000
    plan = plan_of(limit_cents=1_000_000)
    api = Shadeform(Secret(KEY), cloud.url, sleep=lambda s: None)
    cloud.fault(f"GET /v1/instances/{own.id}/info", "status", status=500, times=4)  # one whole look
    cloud.fault(f"GET /v1/instances/{own.id}/info", "html", times=1)
    meter = SpendMeter(plan, dataclasses.replace(machine(), id=own.id), api, poll_s=0.05).start()
    until(lambda: meter.spent_cents >= 100_000)
    cloud.fault(
        f"GET /v1/instances/{own.id}/info",
        "edit",
        times=None,
        change=lambda body: body | {"cost_estimate": "0.5"},
    )
    seen = len(cloud.requests)
    until(lambda: len(cloud.requests) > seen + 2)
    meter.stop()
    assert meter.spent_cents >= 100_000


@pytest.mark.parametrize(
    "told, warns",
    [("100.00", False), ("120.00", False), ("130.00", True), ("70.00", True), ("0", True)],
)
def test_meters_that_differ_by_more_than_a_quarter_are_reported_once(
    cloud: ShadeformServer, told: str, warns: bool
) -> None:
    own, said = cloud.add_foreign("it", 100), list[str]()
    cloud.fault(
        f"GET /v1/instances/{own.id}/info",
        "edit",
        times=None,
        change=lambda body: body | {"cost_estimate": told},
    )
    clock = Clock()
    meter = SpendMeter(
        plan_of(limit_cents=1_000_000, hourly_cents=1000),
        dataclasses.replace(machine(), id=own.id),
        Shadeform(Secret(KEY), cloud.url),
        clock,
        say=said.append,
    )
    clock.now += 36_000  # $100 by our own meter
    meter.look()
    meter.look()
    assert len(said) == warns and all("our own meter says $100" in line for line in said)
    assert abs(meter.spent_cents - max(10_000, meter.provider_cents or 0)) <= 1


@pytest.mark.parametrize("life_s, reason", [(50, "spend_limit"), (49, "max_duration")])
def test_a_deadline_that_only_says_when_the_money_is_used_up_is_the_spend_limit(
    life_s: int, reason: str
) -> None:
    plan, me = (
        plan_of(20_000, life_s, 1_438_080),
        machine(),
    )  # $200 last for 50.06 seconds; 10 are kept for saving
    assert me.created_at
    now = me.created_at + timedelta(seconds=40.02)  # a moment before the money itself says so
    meter = SpendMeter(plan, me, NOBODY, clock=lambda: 0.0, now=lambda: now)
    stop = meter.should_stop()
    assert meter.spent_cents < meter.soft_cents and stop and stop.reason == reason
