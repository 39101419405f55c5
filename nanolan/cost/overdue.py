"""When a machine should be gone: it has outlived its limits, or its run and nobody deleted it. Pure."""

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

SLACK_S = 60.0  # for the provider and the machine itself, before anybody else deletes it
LEAVE_S = 15 * 60.0  # a machine with a key tries for so long to delete itself


@dataclass(frozen=True)
class InstanceFacts:
    """What is known of a machine of ours; None: it could not be seen, or is not there. `unseen` says which, and why."""

    instance: Instance
    plan: Plan | None = None
    receipt: Receipt | None = (
        None  # of this very machine: an earlier attempt's says nothing about it
    )
    unseen: str = ""


def spent_cents(plan: Plan | None, i: Instance, now: datetime) -> int:
    """The larger of the provider's figure and price x age; one that is missing is never zero, where a plan tells it."""
    born = i.created_at or (parse_time(plan.created_at) if plan else now)
    price = max(i.hourly_cents or 0, plan.offer.hourly_cents if plan else 0)
    return max(i.cost_cents or 0, cost_cents(price, max((now - born).total_seconds(), 0.0)))


def over_limit(plan: Plan, i: Instance, now: datetime) -> str:
    """Why this machine should be gone by now, or ""."""
    return _over(plan, i, now, parse_time(plan.deadline), plan.limit_cents)


def over_stored(i: Instance, now: datetime) -> str:
    """The same by the limits that the provider keeps of it, which are known without the Hub."""
    return _over(None, i, now, i.limits.date, i.limits.spend_cents) if i.limits else ""


def _over(
    plan: Plan | None,
    i: Instance,
    now: datetime,
    deadline: datetime | None,
    limit_cents: int | None,
) -> str:
    if not i.billing:
        return ""
    if deadline and now >= deadline:
        return f"it should have been deleted at {iso(deadline)}"
    spent = spent_cents(plan, i, now)
    return (
        f"{dollars(spent)} is spent, the limit is {dollars(limit_cents)}"
        if limit_cents and spent >= limit_cents
        else ""
    )


def waits(plan: Plan, i: Instance, receipt: Receipt | None) -> str:
    """Why a machine without a key is ready to be deleted, or ""."""
    return (
        f"its run is over ({over_words(receipt)})"
        if receipt and i.billing and not plan.self_delete
        else ""
    )


def over_words(receipt: Receipt) -> str:
    """A receipt in a few words; what is not saved above all."""
    lost = re.search(r"NOT saved: ([^.]*)", receipt.message)
    return f"{receipt.verdict} {receipt.reason}".rstrip() + (
        f"; NOT SAVED, and lost with it: {lost[1]}" if lost else ""
    )


def overdue(seen: InstanceFacts, now: datetime, slack_s: float = SLACK_S) -> str:
    """Why a guard must delete this machine now, or "".

    Its limits, the run's and the provider's, were passed a minute ago; or its run has been over for a minute, or for as long as
    a machine with a key tries to delete itself. That goes for a run whose receipt says NOT saved, too: the box program gives an
    upload up only when money, time or the Hub's patience are used up, and tries no more after its receipt, so what waits there
    only costs; a machine with a key does the same. What could not be seen is never a reason.
    """
    i, plan = seen.instance, seen.plan
    then = now - timedelta(seconds=slack_s)
    lag = cost_cents(max(i.hourly_cents or 0, plan.offer.hourly_cents if plan else 0), slack_s)
    as_then = replace(i, cost_cents=None if i.cost_cents is None else max(0, i.cost_cents - lag))
    if over := (over_limit(plan, as_then, then) if plan else "") or over_stored(as_then, then):
        return over
    if not (plan and seen.receipt and i.billing):
        return ""
    return (
        f"its run is over ({over_words(seen.receipt)})"
        if now >= leaves_at(plan, seen.receipt, now, slack_s)
        else ""
    )


def leaves_at(plan: Plan, receipt: Receipt, now: datetime, slack_s: float = SLACK_S) -> datetime:
    """When the machine of a receipt is deleted by others; at once when the receipt does not tell when it was written, or a time
    that is yet to come."""
    try:
        ended = parse_time(receipt.ended)
    except BadAnswer:
        return now
    return (
        now if ended > now else ended + timedelta(seconds=LEAVE_S if plan.self_delete else slack_s)
    )


class OverdueTimer:
    """Gives the provider and the machine itself a minute before it calls for a deletion."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def due(self, i: Instance, over: str) -> bool:
        """Whether machine `i` has been over its limit, without a break, for longer than the slack."""
        if not over:
            self._since.pop(i.id, None)
            return False
        return self._clock() - self._since.setdefault(i.id, self._clock()) >= SLACK_S
