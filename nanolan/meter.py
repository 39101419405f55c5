"""How much of the run's money and time is used: the larger of our own meter and the provider's figure.

A number that is missing or fails to load is never zero: our own meter counts from the instance's creation
at the agreed price, by the monotonic clock, whatever the API answers.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nanolan.errors import NanolanError
from nanolan.instance import Instance
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan, now_utc, parse_time
from nanolan.shadeform import Shadeform

STOP_TRAINING_SHARE = 0.85   # then what is whole is saved and uploaded
GIVE_UP_SHARE = 0.90         # then the machine goes, saved or not
POLL_S = 20.0


def used_share(plan: Plan, age_s: float, spent_cents: int) -> float:
    """The larger of money used / limit and time used / life of the instance."""
    life_s = (parse_time(plan.deadline) - parse_time(plan.created_at)).total_seconds()
    return max(spent_cents / plan.limit_cents, age_s / max(life_s, 1.0))


class Meter:
    """Follows one instance's bill in a thread of its own."""

    def __init__(self, plan: Plan, me: Instance, api: Shadeform, clock: Callable[[], float] = time.monotonic,
                 poll_s: float = POLL_S) -> None:
        self._plan, self._id, self._api, self._clock, self._poll_s = plan, me.id, api, clock, poll_s
        self._hourly = max(me.hourly_cents or 0, plan.offer.hourly_cents)
        born = me.created_at or parse_time(plan.created_at)
        self._age_at_start, self._start = max(0.0, (now_utc() - born).total_seconds()), clock()
        self._reported = me.cost_cents or 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> Meter:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._done.set()

    @property
    def age_s(self) -> float:
        return self._age_at_start + self._clock() - self._start

    @property
    def spent_cents(self) -> int:
        return max(self._reported, cost_cents(self._hourly, self.age_s))

    def share(self) -> float:
        return used_share(self._plan, self.age_s, self.spent_cents)

    def by_money(self, share: float) -> bool:
        """Whether `share` of the money is used, whatever the time."""
        return self.spent_cents / self._plan.limit_cents >= share

    def over(self, share: float) -> str:
        """Why `share` of the limit is reached, or ""."""
        if self.share() < share:
            return ""
        return (f"{dollars(self.spent_cents)} of the limit of {dollars(self._plan.limit_cents)} used" if self.by_money(share)
                else f"{self.age_s / 60:.0f} minutes used, the instance deletes itself at {self._plan.deadline}")

    def _follow(self) -> None:
        while not self._done.wait(self._poll_s):
            try:
                self._reported = max(self._reported, self._api.info(self._id).cost_cents or 0)
            except NanolanError:
                continue   # our own meter goes on
