"""Compares an instance's current price and limits at the provider with the plan. Pure.

The provider may change them after the read-back: the larger price and the nearer limit count, and each change is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from msgspec import structs

from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.shadeform.models import ON_DEMAND, SPOT, Instance, Limits
from nanolan.times import iso, parse_time

DATE_SLACK_S = 60.0
SETTLE_S = 180.0  # a limit may show late after a create; `just limit` changes limits in two steps


def price_differs(now: Instance, plan: Plan) -> str:
    """That the instance costs more than was agreed to, or ""."""
    agreed = plan.offer.hourly_cents
    if now.hourly_cents is None or now.hourly_cents <= agreed:
        return ""
    return f"it costs {dollars(now.hourly_cents)}/h instead of {dollars(agreed)}/h"


def rental_differs(now: Instance, plan: Plan) -> str:
    """That the instance is rented in another way than was agreed to, or ""; an unknown way does not differ."""
    agreed = SPOT if plan.offer.spot else ON_DEMAND
    if now.rental not in (ON_DEMAND, SPOT) or now.rental == agreed:
        return ""
    return f"it is rented as {now.rental.replace('_', ' ')} instead of {agreed.replace('_', ' ')}"


def limits_differ(now: Instance, plan: Plan) -> str:
    """That the provider's limits differ from the plan's, or ""; a missing one does not differ."""
    limits = now.limits
    if limits and limits.spend_cents is not None and limits.spend_cents != plan.limit_cents:
        return f"its limit is {dollars(limits.spend_cents)} instead of {dollars(plan.limit_cents)}"
    if (
        limits
        and limits.date is not None
        and abs((limits.date - parse_time(plan.deadline)).total_seconds()) > DATE_SLACK_S
    ):
        return f"it would be deleted at {iso(limits.date)} instead of {plan.deadline}"
    return ""


def limits_missing(now: Instance) -> str:
    """Which of the two limits the provider lacks, or ""; `now` comes from /info, since listings have no limits."""
    limits = now.limits
    missing = [
        name
        for name, value in (
            ("spend limit", limits and limits.spend_cents),
            ("date", limits and limits.date),
        )
        if value is None
    ]
    return f"the provider keeps no {' and no '.join(missing)} for it" if missing else ""


def agreed_terms(before: Instance, now: Instance) -> Instance:
    """`now` with the terms that two answers in a row support: the lower price and bill, the later limits.

    So one odd answer (another unit, another zone, another record) has no effect, and a change counts from its second answer on."""
    return replace(
        now,
        hourly_cents=_both(min, before.hourly_cents, now.hourly_cents),
        cost_cents=_both(min, before.cost_cents, now.cost_cents),
        limits=_later(before.limits, now.limits),
    )


def _both(pick: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    return None if a is None or b is None else pick(a, b)


def _later(a: Limits | None, b: Limits | None) -> Limits | None:
    if a is None or b is None:
        return None
    return Limits(_both(max, a.spend_cents, b.spend_cents), _both(max, a.date, b.date))


def changed_terms(now: Instance, plan: Plan, at: datetime) -> str:
    """How the provider's terms differ from the plan, or ""; `now` comes from /info, read at `at`."""
    if not now.billing:
        return ""
    young = (at - parse_time(plan.created_at)).total_seconds() < SETTLE_S
    return "; ".join(
        filter(
            None,
            (
                price_differs(now, plan),
                limits_differ(now, plan),
                "" if young else limits_missing(now),
            ),
        )
    )


def with_current_terms(plan: Plan, now: Instance | None) -> Plan:
    """The plan with the larger price and the nearer limits."""
    limits = now.limits if now else None
    price = max(plan.offer.hourly_cents, (now.hourly_cents if now else None) or 0)
    spend, date = (limits.spend_cents, limits.date) if limits else (None, None)
    return structs.replace(
        plan,
        offer=structs.replace(plan.offer, hourly_cents=price),
        limit_cents=min(plan.limit_cents, spend or plan.limit_cents),
        deadline=iso(date) if date and date < parse_time(plan.deadline) else plan.deadline,
    )
