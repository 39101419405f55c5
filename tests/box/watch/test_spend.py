"""The meter: the larger of money and time, from the creation on; a number that is missing is never zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.watch.spend import SpendMeter
from nanolan.cost.budget import ASSUMED
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, instance_of
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, make_plan, until

NOBODY = Shadeform(Secret(KEY), "http://127.0.0.1:1/v1")


def plan_of(
    limit_cents: int = 1000,
    life_s: float = 36_000,
    hourly_cents: int = 100,
    born: datetime | None = None,
) -> Plan:
    """Ten hours at $1 an hour with a limit of $10."""
    now = born or now_utc()
    plan = make_plan(
        "",
        "",
        created_at=iso(now),
        deadline=iso(now + timedelta(seconds=life_s)),
        limit_cents=limit_cents,
    )
    return replace(plan, offer=replace(plan.offer, hourly_cents=hourly_cents))


def machine(age_s: float | None = 0.0, **fields: object) -> Instance:
    """An instance that was created `age_s` ago, as the API shows it."""
    born = None if age_s is None else iso(now_utc() - timedelta(seconds=age_s))
    return instance_of({"id": "i", "name": "n", "status": "active", "created_at": born} | fields)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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
    meter = SpendMeter(plan_of(), machine(3600, **fields), NOBODY, clock)
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


# ---- the provider changes its mind


class Told(Shadeform):
    """An account that answers as `body` says."""

    def __init__(self, **body: object) -> None:
        super().__init__(Secret(KEY), "http://127.0.0.1:1/v1")
        self.body = body

    def info(self, instance_id: str) -> Instance:
        return machine(0, **self.body)


def agreed(plan: Plan) -> dict[str, str]:
    return {"spend_threshold": f"{plan.limit_cents / 100:.2f}", "date_threshold": plan.deadline}


def looked(clock: Clock, meter: SpendMeter, seconds: float = 400.0) -> None:
    """Looks every 20 s."""
    for _ in range(int(seconds / 20)):
        meter.look()
        clock.now += 20


def test_a_price_that_rises_after_the_create_is_metered_though_the_providers_figure_is_frozen() -> (
    None
):
    clock, said, alarms, plan = Clock(), list[str](), list[tuple[str, str]](), plan_of()
    api = Told(hourly_price=100, cost_estimate="0", auto_delete=agreed(plan))
    meter = SpendMeter(
        plan,
        machine(0, hourly_price=100),
        api,
        clock,
        say=said.append,
        alarm=lambda *a: alarms.append(a),
    )
    looked(clock, meter)
    assert said == [] and meter.hourly_cents == 100
    api.body["hourly_price"] = 300
    looked(clock, meter)
    assert meter.hourly_cents == 300 and abs(meter.metered_cents - 67) <= 1, "800 s at $3"
    assert (
        len(said) == 1 == len(alarms)
        and "it costs $3.00/h instead of $1.00/h" in said[0]
        and alarms[0][0] == "price changed"
    )
    api.body["hourly_price"] = 100
    looked(clock, meter)
    assert meter.hourly_cents == 300 and len(said) == 1


@pytest.mark.parametrize(
    "stored, limit_cents, words",
    [
        (None, 1000, "keeps no spend limit and no date"),
        ({}, 1000, "keeps no spend limit and no date"),
        ({"spend_threshold": "10.00"}, 1000, "keeps no date"),
        ({"spend_threshold": "99.00", "date": "as agreed"}, 1000, "$99.00 instead of $10.00"),
        ({"spend_threshold": "4.00", "date": "as agreed"}, 400, "$4.00 instead of $10.00"),
        ({"spend_threshold": "10.00", "date": "an hour earlier"}, 1000, "it would be deleted at"),
    ],
    ids=str,
)
def test_limits_that_were_dropped_raised_or_lowered_are_told_once_and_the_nearer_counts(
    stored: dict[str, str] | None, limit_cents: int, words: str
) -> None:
    clock, said, plan = Clock(), list[str](), plan_of()
    earlier = iso(datetime.fromisoformat(plan.deadline.replace("Z", "+00:00")) - timedelta(hours=1))
    dates = {"as agreed": plan.deadline, "an hour earlier": earlier}
    meant = (
        None
        if stored is None
        else {
            "date_threshold": dates.get(stored.get("date", "")),
            "spend_threshold": stored.get("spend_threshold"),
        }
    )
    api = Told(hourly_price=100, auto_delete=agreed(plan))
    meter = SpendMeter(plan, machine(0), api, clock, say=said.append)
    looked(clock, meter)
    assert said == []
    api.body["auto_delete"] = meant
    looked(clock, meter, 180)
    assert said == [] and meter.limit_cents == limit_cents, "just limit changes them in two steps"
    looked(clock, meter)
    assert len(said) == 1 and words in said[0]
    assert meter.deadline == (
        earlier if stored and stored.get("date") == "an hour earlier" else plan.deadline
    )


def test_a_limit_of_the_users_own_is_no_change_of_the_providers_mind() -> None:
    clock, said, plan = Clock(), list[str](), plan_of()
    api = Told(hourly_price=100, auto_delete=agreed(plan))
    meter = SpendMeter(plan, machine(0), api, clock, say=said.append)
    looked(clock, meter)
    api.body["auto_delete"] = {
        "date_threshold": plan.deadline,
        "spend_threshold": "50.00",
    }  # `just limit` raises the provider's first
    looked(clock, meter, 60)
    meter.change(5000, plan.deadline)
    looked(clock, meter)
    assert said == [] and meter.limit_cents == 5000


def test_a_machine_without_a_key_sees_no_limits_and_complains_of_none() -> None:
    clock, said = Clock(), list[str]()
    meter = SpendMeter(
        replace(plan_of(), self_delete=False), machine(0), Told(), clock, say=said.append
    )
    looked(clock, meter)
    assert said == []


# ---- a spot instance is taken away


def spot_plan() -> Plan:
    plan = plan_of()
    return replace(plan, offer=replace(plan.offer, spot=True))


def in_seconds(seconds: float) -> str:
    return iso(now_utc() + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "plan, body, taken",
    [
        (spot_plan(), {"status": "deleting", "status_details": "preempted"}, True),
        (spot_plan(), {"status": "active", "status_details": "preempted"}, False),
        (spot_plan(), {"status": "deleting", "status_details": ""}, False),  # just stop --now
        (spot_plan(), {"rental_terms": {"ending_at": in_seconds(60)}}, True),
        (spot_plan(), {"rental_terms": {"ending_at": in_seconds(-60)}}, True),
        (spot_plan(), {"rental_terms": {"ending_at": in_seconds(7200)}}, False),
        (spot_plan(), {"rental_terms": {"ending_at": "soon"}}, False),
        (spot_plan(), {"rental_terms": None}, False),
        (plan_of(), {"status": "deleting", "status_details": "preempted"}, False),
        (plan_of(), {"rental_terms": {"ending_at": in_seconds(60)}}, False),
    ],
    ids=range(10),  # two of them hold the time, and every test process must name the tests alike
)
def test_a_notice_that_the_spot_instance_is_taken_away_ends_the_training(
    plan: Plan, body: dict[str, object], taken: bool
) -> None:
    said = list[str]()
    meter = SpendMeter(plan, machine(), Told(**body), Clock(), say=said.append)
    meter.margin = ASSUMED["cuda"]  # 14 minutes to save and to upload
    meter.look()
    meter.look()
    assert (meter.taken is not None) is taken
    if meter.taken:
        assert meter.taken.reason == "preempted" and said == [meter.taken.text]
        assert meter.should_stop() is None  # what is whole is still uploaded


def test_an_end_that_was_known_when_the_box_started_is_no_notice() -> None:
    terms = {"ending_at": in_seconds(60)}
    api = Told(rental_terms=terms)
    meter = SpendMeter(spot_plan(), machine(0, rental_terms=terms), api, Clock())
    meter.look()
    assert meter.taken is None
