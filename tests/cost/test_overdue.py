"""When an instance is overdue: by the larger of two meters, or by the date, and for a minute."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.cost.overdue import (
    SLACK_S,
    InstanceFacts,
    OverdueTimer,
    over_limit,
    overdue,
    spent_cents,
    waiting_for_deletion,
)
from nanolan.run.record import Receipt
from nanolan.shadeform.models import Instance, instance_of
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import make_plan

NOW = now_utc().replace(microsecond=0)


def machine(hours: float | None = 1.0, **fields: Any) -> Instance:
    born = None if hours is None else iso(NOW - timedelta(hours=hours))
    return instance_of(
        dict(
            **(
                {
                    "id": "i-1",
                    "name": "x",
                    "status": "active",
                    "hourly_price": 100,
                    "created_at": born,
                }
                | fields
            )
        )
    )


def plan(limit_cents: int = 1000, hours_left: float = 5.0, **fields: Any) -> Any:  # $1 an hour
    return make_plan(
        "",
        "",
        limit_cents=limit_cents,
        created_at=iso(NOW - timedelta(hours=3)),
        deadline=iso(NOW + timedelta(hours=hours_left)),
        **fields,
    )


@pytest.mark.parametrize(
    "i, cents",
    [
        (machine(2.0), 200),
        (machine(2.0, cost_estimate="0"), 200),
        (machine(2.0, cost_estimate="4.50"), 450),
        (machine(2.0, cost_estimate="7.50"), 500),  # twice price x age, and a dollar
        (machine(2.0, cost_estimate="450"), 500),  # cents in place of dollars
        (machine(2.0, hourly_price=300, cost_estimate="9.50"), 950),
        (machine(2.0, hourly_price=None), 200),  # the agreed price
        (machine(2.0, hourly_price=50), 200),
        (machine(2.0, hourly_price=300), 600),
        (machine(None), 300),  # as old as the plan
        (machine(-1.0), 0),
        (machine(-1.0, cost_estimate="0.50"), 50),
    ],
)
def test_the_larger_meter_counts_and_a_missing_number_is_never_zero(
    i: Instance, cents: int
) -> None:
    assert spent_cents(plan(), i, NOW) == cents


@pytest.mark.parametrize(
    "i, p, why",
    [
        (machine(9.0), plan(), ""),
        (machine(10.0), plan(), "$10.00 is spent, the limit is $10.00"),
        (machine(5.0, cost_estimate="9.99"), plan(), ""),
        (machine(5.0, cost_estimate="10.00"), plan(), "$10.00 is spent"),
        (machine(1.0, cost_estimate="1000"), plan(), ""),  # no price and no age explains it
        (machine(1.0), plan(hours_left=0.0), "should have been deleted at"),
        (machine(1.0), plan(hours_left=0.01), ""),
        (machine(1.0, status="error"), plan(hours_left=-1.0), "should have been"),
        (machine(1.0, status="a_new_word"), plan(hours_left=-1.0), "should"),
        (machine(99.0, status="deleting"), plan(hours_left=-1.0), ""),
        (machine(99.0, status="deleted"), plan(), ""),
    ],
)
def test_over_the_limit_is_by_money_or_by_date_while_it_bills(
    i: Instance, p: Any, why: str
) -> None:
    over = over_limit(p, i, NOW)
    assert why in over and bool(over) == bool(why)


def test_it_is_due_after_a_minute_without_a_break() -> None:
    now = [0.0]
    guard, i = OverdueTimer(lambda: now[0]), machine()
    assert not guard.due(i, "over")
    now[0] = SLACK_S - 1
    assert not guard.due(i, "over")
    now[0] = SLACK_S
    assert guard.due(i, "over")
    assert not guard.due(i, "")  # a look that says otherwise starts the minute anew
    assert not guard.due(i, "over")


def test_each_machine_has_its_own_minute() -> None:
    now = [0.0]
    guard = OverdueTimer(lambda: now[0])
    guard.due(machine(), "over")
    now[0] = SLACK_S
    assert not guard.due(machine(id="i-2"), "over") and guard.due(machine(), "over")


# ---- a guard that sees many machines, and not always everything


def told(ended: timedelta | str, message: str = "", **fields: Any) -> Receipt:
    at = ended if isinstance(ended, str) else iso(NOW - ended)
    return Receipt(
        **({"run_id": "ab12cd34", "verdict": "succeeded", "ended": at, "message": message} | fields)
    )


MINUTE, FUTURE = timedelta(minutes=1), "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    "ended, self_delete, due",
    [
        (MINUTE, False, True),
        (MINUTE - timedelta(seconds=1), False, False),
        (timedelta(), False, False),
        (14 * MINUTE, True, False),
        (15 * MINUTE, True, True),
        (9 * 60 * MINUTE, True, True),
        ("", False, True),
        ("soon", True, True),
        (FUTURE, False, True),
        ("0001-01-01T00:00:00Z", True, True),
    ],
    ids=str,
)
def test_an_ended_run_leaves_its_instance_a_minute_or_the_time_to_delete_itself(
    ended: timedelta | str, self_delete: bool, due: bool
) -> None:
    seen = InstanceFacts(machine(1.0), plan(self_delete=self_delete), told(ended))
    assert bool(overdue(seen, NOW)) is due
    assert "its run is over (succeeded)" in overdue(seen, NOW) or not due


def test_what_is_not_saved_is_said_and_keeps_no_machine() -> None:
    lost = told(
        MINUTE,
        "the limit. NOT saved: sft step 5. Go on: just resume ab12cd34",
        verdict="stopped",
        reason="limit_lost",
    )
    why = overdue(InstanceFacts(machine(1.0), plan(self_delete=False), lost), NOW)
    assert "stopped limit_lost; NOT SAVED, lost with the instance: sft step 5" in why


@pytest.mark.parametrize(
    "i, p, due",
    [
        (machine(1.0), plan(hours_left=-1 / 60), True),
        (machine(1.0), plan(hours_left=-0.9 / 60), False),
        (machine(10.0 + 1 / 60), plan(), True),
        (machine(10.0), plan(), False),
        (machine(5.0, cost_estimate="10.00"), plan(), False),
        (machine(5.0, cost_estimate="10.02"), plan(), True),
        (machine(99.0, status="deleting"), plan(hours_left=-9.0), False),
        (machine(1.0), plan(), False),
    ],
)
def test_limits_are_passed_for_a_minute_before_a_guard_acts(i: Instance, p: Any, due: bool) -> None:
    assert bool(overdue(InstanceFacts(i, p), NOW)) is due


def stored(date: timedelta | None = None, spend: str | None = None, **fields: Any) -> Instance:
    """A machine as it is seen without a plan: with the limits that the provider keeps."""
    limits = {
        "date_threshold": iso(NOW + date) if date is not None else None,
        "spend_threshold": spend,
    }
    return machine(2.0, auto_delete=limits, **fields)


@pytest.mark.parametrize(
    "i, due",
    [
        (stored(-MINUTE), True),
        (stored(timedelta(seconds=-59)), False),
        (stored(None, "1.90"), True),
        (stored(None, "2.00"), False),
        (stored(MINUTE, "9.00"), False),
        (stored(None, "2.50", cost_estimate="2.52"), True),
        (stored(None, "9.00", cost_estimate="9.02"), False),
        (stored(None, "9.00", hourly_price=None), False),
        (machine(99.0), False),
        (stored(), False),
        (stored(-MINUTE, status="deleted"), False),
    ],
)
def test_without_the_hub_the_providers_limits_count_and_unknown_is_no_reason(
    i: Instance, due: bool
) -> None:
    assert bool(overdue(InstanceFacts(i, unseen="the Hub did not answer"), NOW)) is due


def test_the_earlier_of_the_plans_and_the_providers_limits_counts() -> None:
    assert "should have been deleted" in overdue(
        InstanceFacts(stored(-MINUTE), plan(hours_left=5.0)), NOW
    )
    assert "should have been deleted" in overdue(
        InstanceFacts(stored(5 * MINUTE), plan(hours_left=-1.0)), NOW
    )


def test_a_receipt_without_a_plan_is_no_reason() -> None:
    assert overdue(InstanceFacts(machine(1.0), None, told(MINUTE)), NOW) == ""


def test_only_a_machine_without_a_key_waits_to_be_deleted() -> None:
    assert (
        waiting_for_deletion(plan(self_delete=False), machine(), told(MINUTE))
        == "its run is over (succeeded)"
    )
    assert (
        waiting_for_deletion(plan(), machine(), told(MINUTE))
        == waiting_for_deletion(plan(self_delete=False), machine(), None)
        == ""
    )
    assert (
        waiting_for_deletion(plan(self_delete=False), machine(status="deleting"), told(MINUTE))
        == ""
    )


MOMENTS = st.integers(-(10**6), 10**6).map(lambda s: NOW + timedelta(seconds=s))
TOLD = st.builds(
    lambda ended, verdict, text: Receipt("ab12cd34", verdict, message=text, ended=ended),
    st.one_of(MOMENTS.map(iso), st.text(max_size=30)),
    st.sampled_from(["succeeded", "failed", "x"]),
    st.text(max_size=60),
)
SIGHTS = st.builds(
    lambda born, cost, price, limits, status, deadline, cents, key, receipt, known: InstanceFacts(
        instance_of(
            dict(
                id="i-1",
                name="x",
                status=status,
                created_at=iso(born) if born else None,
                cost_estimate=cost,
                hourly_price=price,
                auto_delete={"date_threshold": iso(limits[0]), "spend_threshold": limits[1]}
                if limits
                else None,
            )
        ),
        make_plan(
            "", "", limit_cents=cents, deadline=iso(deadline), created_at=iso(NOW), self_delete=key
        )
        if known
        else None,
        receipt,
    ),
    st.none() | MOMENTS,
    st.sampled_from([None, "0", "1.5", "99999"]),
    st.sampled_from([None, 0, 100, 9999]),
    st.none() | st.tuples(MOMENTS, st.sampled_from([None, "0.01", "50"])),
    st.sampled_from(["active", "error", "new", "deleting", "deleted"]),
    MOMENTS,
    st.integers(1, 10**6),
    st.booleans(),
    st.none() | TOLD,
    st.booleans(),
)


@given(SIGHTS, MOMENTS)
def test_every_combination_of_facts_has_a_verdict_with_a_known_reason(
    seen: InstanceFacts, now: datetime
) -> None:
    why = overdue(seen, now)
    i, p = seen.instance, seen.plan
    dates = [
        d for d in (parse_time(p.deadline) if p else None, i.limits.date if i.limits else None) if d
    ]
    money = any(c is not None for c in (i.cost_cents, i.hourly_cents)) or p is not None
    assert (
        not why
        or i.billing
        and (
            any(now >= d + timedelta(minutes=1) for d in dates)
            and "should have been deleted" in why
            or bool(p and seen.receipt)
            and "its run is over" in why
            or money
            and "is spent, the limit is" in why
        )
    )


@given(SIGHTS.filter(lambda s: s.receipt is None), MOMENTS, st.integers(0, 10**5))
def test_what_is_past_a_limit_stays_so(seen: InstanceFacts, now: datetime, later_s: int) -> None:
    assert not overdue(seen, now) or overdue(seen, now + timedelta(seconds=later_s))
