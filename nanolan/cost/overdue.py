"""When an instance is overdue: it has passed its limits, or its run has ended and it was not deleted. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nanolan.errors import BadAnswer
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan
from nanolan.run.record import Receipt
from nanolan.shadeform.models import Instance
from nanolan.times import iso, parse_time

SLACK_S = 60.0  # for the provider and the box, before anyone else deletes the instance
EXPLAINED, UNEXPLAINED_CENTS = 2, 100
LEAVE_S = 15 * 60.0  # how long a box with a key tries to delete itself


@dataclass(frozen=True)
class InstanceFacts:
    """What is known of one of our instances. None: missing or unavailable; `unseen` says what is unavailable, and why."""

    instance: Instance
    plan: Plan | None = None
    receipt: Receipt | None = None  # of this attempt, not of an earlier one
    unseen: str = ""


def spent_cents(plan: Plan | None, instance: Instance, now: datetime) -> int:
    """The larger of price x age and the provider's figure, as far as those explain it; the plan fills in a missing price or
    start."""
    born = instance.created_at or (parse_time(plan.created_at) if plan else None)
    price = max(instance.hourly_cents or 0, plan.offer.hourly_cents if plan else 0)
    if not (born and price):
        return instance.cost_cents or 0
    own = cost_cents(price, max((now - born).total_seconds(), 0.0))
    return max(own, explained_cents(instance.cost_cents or 0, own))


def explained_cents(reported: int, own: int) -> int:
    """A reported bill as far as our own figure explains it: twice that, and a dollar. More may be another unit."""
    return min(reported, EXPLAINED * own + UNEXPLAINED_CENTS)


def over_limit(plan: Plan, instance: Instance, now: datetime) -> str:
    """Why this instance has passed its plan's limits, or ""."""
    return _over(plan, instance, now, parse_time(plan.deadline), plan.limit_cents)


def over_provider_limit(instance: Instance, now: datetime) -> str:
    """The same by the limits stored at the provider, which are known without the Hub."""
    return (
        _over(None, instance, now, instance.limits.date, instance.limits.spend_cents)
        if instance.limits
        else ""
    )


def _over(
    plan: Plan | None,
    instance: Instance,
    now: datetime,
    deadline: datetime | None,
    limit_cents: int | None,
) -> str:
    if not instance.billing:
        return ""
    if deadline and now >= deadline:
        return f"it should have been deleted at {iso(deadline)}"
    spent = spent_cents(plan, instance, now)
    return (
        f"{dollars(spent)} is spent, the limit is {dollars(limit_cents)}"
        if limit_cents and spent >= limit_cents
        else ""
    )


def waiting_for_deletion(plan: Plan, instance: Instance, receipt: Receipt | None) -> str:
    """Why an instance without a key waits to be deleted, or ""."""
    return (
        f"its run is over ({outcome_text(receipt)})"
        if receipt and instance.billing and not plan.self_delete
        else ""
    )


def outcome_text(receipt: Receipt) -> str:
    """The outcome in a receipt, and what was not saved."""
    lost = re.search(r"NOT saved: ([^.]*)", receipt.message)
    return f"{receipt.verdict} {receipt.reason}".rstrip() + (
        f"; NOT SAVED, lost with the instance: {lost[1]}" if lost else ""
    )


def overdue(facts: InstanceFacts, now: datetime, slack_s: float = SLACK_S) -> str:
    """Why a guard must delete this instance now, or "".

    Either it passed the run's or the provider's limits a minute ago; or its run ended a minute ago, or, with a key, as long ago
    as a box tries to delete itself. This includes a run whose receipt says NOT saved: the box gives up an upload only when
    money, time or the retries at the Hub are used up, and does not try again after its receipt, so waiting only costs money; a
    box with a key deletes itself then, too. Unavailable information is never a reason.
    """
    instance, plan = facts.instance, facts.plan
    then = now - timedelta(seconds=slack_s)
    lag = cost_cents(
        max(instance.hourly_cents or 0, plan.offer.hourly_cents if plan else 0), slack_s
    )
    as_then = replace(
        instance,
        cost_cents=None if instance.cost_cents is None else max(0, instance.cost_cents - lag),
    )
    if over := (over_limit(plan, as_then, then) if plan else "") or over_provider_limit(
        as_then, then
    ):
        return over
    if not (plan and facts.receipt and instance.billing):
        return ""
    return (
        f"its run is over ({outcome_text(facts.receipt)})"
        if now >= deletion_due_at(plan, facts.receipt, now, slack_s)
        else ""
    )


def deletion_due_at(
    plan: Plan, receipt: Receipt, now: datetime, slack_s: float = SLACK_S
) -> datetime:
    """When others delete the instance of a receipt; at once if the receipt has no valid time or one in the future."""
    try:
        ended = parse_time(receipt.ended)
    except BadAnswer:
        return now
    return (
        now if ended > now else ended + timedelta(seconds=LEAVE_S if plan.self_delete else slack_s)
    )


class OverdueTimer:
    """Gives the provider and the box a minute before the instance counts as overdue."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def due(self, instance: Instance, over: str) -> bool:
        """Whether the instance has been over its limit for longer than the slack, without interruption."""
        if not over:
            self._since.pop(instance.id, None)
            return False
        return self._clock() - self._since.setdefault(instance.id, self._clock()) >= SLACK_S
