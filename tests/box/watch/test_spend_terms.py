"""The meter when the provider changes its mind, or gives an odd answer."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from nanolan.box.watch.spend import SpendMeter
from nanolan.cost.budget import ASSUMED
from nanolan.plan import Plan
from nanolan.times import iso, now_utc
from tests.support.spend_fixtures import Clock, Told, agreed, looked, machine, plan_of


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


ODD = [
    {"cost_estimate": "1523"},  # cents in place of dollars
    {"hourly_price": 336_000},
    {"auto_delete": {"spend_threshold": "0.01", "date_threshold": "2099-01-01T00:00:00Z"}},
    {"auto_delete": {"spend_threshold": "10.00", "date_threshold": "2020-01-01T00:00:00Z"}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["later", "at the start"])
def test_one_odd_answer_ends_nothing(odd: dict[str, object], first: bool) -> None:
    clock, said, plan = Clock(), list[str](), plan_of()
    usual: dict[str, object] = dict(
        hourly_price=100, cost_estimate="0.10", auto_delete=agreed(plan)
    )
    api = Told(**usual)
    me = machine(0, **usual | (odd if first else {}))
    meter = SpendMeter(plan, me, api, clock, say=said.append)
    for now in (usual, usual if first else usual | odd, usual, usual):
        api.body = now
        meter.look()
        clock.now += 20
        assert (meter.should_stop(), meter.must_give_up(), said) == (None, None, [])
    assert meter.spent_cents == 10 and meter.hourly_cents == 100


def test_a_bill_that_nothing_explains_stops_the_training_and_no_upload() -> None:
    clock, said, plan = Clock(), list[str](), plan_of()
    meter = SpendMeter(
        plan,
        machine(0),
        Told(cost_estimate="1523", auto_delete=agreed(plan)),
        clock,
        say=said.append,
    )
    looked(clock, meter)
    assert meter.should_stop() and meter.must_give_up() is None
    assert len(said) == 1 and "Shadeform's figure is $1,523.00" in said[0]
    clock.now += 6 * 3600  # $6 by our own meter, $10 is the limit: a bill of $12 would be explained
    assert (stop := meter.must_give_up()) and stop.reason == "spend_limit"


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
