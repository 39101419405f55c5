"""When a machine has outlived its own limits: what the provider, the box program and its timer should have seen to. Pure."""
from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from nanolan.instance import Instance
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan, parse_time

SLACK_S = 60.0


def spent_cents(plan: Plan, i: Instance, now: datetime) -> int:
    """The larger of the provider's figure and price x age; one that is missing is never zero."""
    age_s = (now - (i.created_at or parse_time(plan.created_at))).total_seconds()
    return max(i.cost_cents or 0, cost_cents(max(i.hourly_cents or 0, plan.offer.hourly_cents), max(age_s, 0.0)))


def over_limit(plan: Plan, i: Instance, now: datetime) -> str:
    """Why this machine should be gone by now, or ""."""
    if not i.billing:
        return ""
    if now >= parse_time(plan.deadline):
        return f"it should have been deleted at {plan.deadline}"
    spent = spent_cents(plan, i, now)
    return f"{dollars(spent)} is spent, the limit is {dollars(plan.limit_cents)}" if spent >= plan.limit_cents else ""


class Guard:
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
