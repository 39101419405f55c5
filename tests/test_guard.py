"""When a machine has outlived its limits: by the larger of two meters, or by the date, and for a minute."""
from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from nanolan.guard import SLACK_S, Guard, over_limit, spent_cents
from nanolan.instance import ApiInstance, Instance, instance_of
from nanolan.plan import iso, now_utc

from .box_fixtures import make_plan

NOW = now_utc().replace(microsecond=0)


def machine(hours: float | None = 1.0, **fields: Any) -> Instance:
    born = None if hours is None else iso(NOW - timedelta(hours=hours))
    return instance_of(ApiInstance(**({"id": "i-1", "name": "x", "status": "active", "hourly_price": 100, "created_at": born} | fields)))


def plan(limit_cents: int = 1000, hours_left: float = 5.0, **fields: Any) -> Any:   # $1 an hour
    return make_plan("", "", limit_cents=limit_cents, created_at=iso(NOW - timedelta(hours=3)),
                     deadline=iso(NOW + timedelta(hours=hours_left)), **fields)


@pytest.mark.parametrize("i, cents", [
    (machine(2.0), 200), (machine(2.0, cost_estimate="0"), 200), (machine(2.0, cost_estimate="7.50"), 750),
    (machine(2.0, hourly_price=None), 200),            # the agreed price
    (machine(2.0, hourly_price=50), 200), (machine(2.0, hourly_price=300), 600), (machine(None), 300),     # as old as the plan
    (machine(-1.0), 0), (machine(-1.0, cost_estimate="0.50"), 50)])
def test_the_larger_meter_counts_and_a_missing_number_is_never_zero(i: Instance, cents: int) -> None:
    assert spent_cents(plan(), i, NOW) == cents


@pytest.mark.parametrize("i, p, why", [
    (machine(9.0), plan(), ""), (machine(10.0), plan(), "$10.00 is spent, the limit is $10.00"),
    (machine(1.0, cost_estimate="9.99"), plan(), ""), (machine(1.0, cost_estimate="10.00"), plan(), "$10.00 is spent"),
    (machine(1.0), plan(hours_left=0.0), "should have been deleted at"), (machine(1.0), plan(hours_left=0.01), ""),
    (machine(1.0, status="error"), plan(hours_left=-1.0), "should have been"),
    (machine(1.0, status="a_new_word"), plan(hours_left=-1.0), "should"),
    (machine(99.0, status="deleting"), plan(hours_left=-1.0), ""), (machine(99.0, status="deleted"), plan(), "")])
def test_over_the_limit_is_by_money_or_by_date_while_it_bills(i: Instance, p: Any, why: str) -> None:
    over = over_limit(p, i, NOW)
    assert why in over and bool(over) == bool(why)


def test_it_is_due_after_a_minute_without_a_break() -> None:
    now = [0.0]
    guard, i = Guard(lambda: now[0]), machine()
    assert not guard.due(i, "over")
    now[0] = SLACK_S - 1
    assert not guard.due(i, "over")
    now[0] = SLACK_S
    assert guard.due(i, "over")
    assert not guard.due(i, "")                    # a look that says otherwise starts the minute anew
    assert not guard.due(i, "over")


def test_each_machine_has_its_own_minute() -> None:
    now = [0.0]
    guard = Guard(lambda: now[0])
    guard.due(machine(), "over")
    now[0] = SLACK_S
    assert not guard.due(machine(id="i-2"), "over") and guard.due(machine(), "over")
