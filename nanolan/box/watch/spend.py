"""How much of the run's money and time is used: the larger of our own meter and the provider's figure.

A missing figure is never zero: our own meter counts from the instance's creation at the agreed price, by the monotonic
clock, whatever the API answers. Price, bill and limits are read again at every poll; the larger price and the nearer limit
count once two answers in a row support them, and each change is reported once. A bill that price and age do not explain ends the
training, but no upload: the provider enforces its own limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from msgspec import structs

from nanolan.box.watch.periodic import Periodic
from nanolan.cost.budget import ASSUMED, Margin, give_up_cents, soft_life_s, soft_limit_cents
from nanolan.cost.overdue import explained_cents
from nanolan.errors import NanolanError
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan
from nanolan.run.causes import OF_TIME
from nanolan.run.ledger import PREEMPTED
from nanolan.run.record import StopReason
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.terms import (
    SETTLE_S,
    agreed_terms,
    limits_differ,
    limits_missing,
    price_differs,
    with_current_terms,
)
from nanolan.times import iso, now_utc, parse_time

POLL_S = 20.0
# Warn when the two meters differ by more than a quarter and by more than a dollar
DISAGREE = 1.25
DISAGREE_CENTS = 100


class SpendMeter:
    """Follows one instance's bill, in its own thread once it is started."""

    def __init__(
        self,
        plan: Plan,
        me: Instance,
        api: Shadeform,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
        say: Callable[[str], None] = lambda text: None,
        *,
        now: Callable[[], datetime] = now_utc,
        ticker: Callable[..., Periodic] = Periodic,
        alarm: Callable[[str, str], object] = lambda event, text: None,
    ) -> None:
        self._plan = plan
        self._id = me.id
        self._api = api
        self._clock = clock
        self._say = say
        self._alarm = alarm  # (event, text) of a change by the provider
        self._agreed = plan  # with the limits that we set
        self._answer = me  # the provider's last one
        self._seen: Instance | None = None  # what its last two support
        self._ends_at = me.ends_at  # one that was there from the start is no notice
        self.taken: StopReason | None = None  # the provider takes this spot instance away
        self._odd_since: dict[str, float] = {}  # a difference in the limits -> since when
        self._reported: set[str] = set()
        self.hourly_cents = plan.offer.hourly_cents
        self._now = now
        born = me.created_at or parse_time(plan.created_at)
        self._age_at_start = max(0.0, (now() - born).total_seconds())
        self._start = clock()
        self.change(plan.limit_cents, plan.deadline)
        self.margin: Margin = ASSUMED[plan.device]
        self.provider_cents: int | None = None
        self._warned = False
        self._ticker = ticker(self.look, poll_s)

    def change(self, limit_cents: int, deadline: str) -> None:
        """Set new limits."""
        self._agreed = structs.replace(self._plan, limit_cents=limit_cents, deadline=deadline)
        self._apply()

    def _apply(self) -> None:
        """The nearer of our own limits and the provider's counts."""
        held = with_current_terms(self._agreed, self._seen)
        self.limit_cents, self.deadline = held.limit_cents, held.deadline
        self._life_s = (
            parse_time(self.deadline) - parse_time(self._plan.created_at)
        ).total_seconds()
        # a deadline at the second when the money is used up is not a limit of its own
        self._of_money = self._life_s >= self.limit_cents * 3600 // max(self.hourly_cents, 1)

    def start(self) -> SpendMeter:
        self._ticker.start()
        return self

    def stop(self) -> None:
        self._ticker.close()

    @property
    def age_s(self) -> float:
        return self._age_at_start + self._clock() - self._start

    @property
    def metered_cents(self) -> int:
        """By our own meter."""
        return cost_cents(self.hourly_cents, self.age_s)

    @property
    def spent_cents(self) -> int:
        return max(self.provider_cents or 0, self.metered_cents)

    @property
    def explained_cents(self) -> int:
        """The bill as far as price and age explain it."""
        return explained_cents(self.spent_cents, self.metered_cents)

    def cost_of(self, seconds: float) -> int:
        """Cents that `seconds` of this machine cost."""
        return cost_cents(self.hourly_cents, seconds)

    @property
    def soft_cents(self) -> int:
        """The bill at which training stops."""
        return soft_limit_cents(self.limit_cents, self.hourly_cents, self.margin.total_s)

    def note_save(self, seconds: float) -> None:
        """Take the seconds that saving a state took into the margin, which only grows by it."""
        if seconds > self.margin.checkpoint_s:
            self.margin = replace(self.margin, checkpoint_s=seconds)

    def note_upload(self, seconds: float) -> None:
        """Take the seconds of the newest upload of a state into the margin."""
        self.margin = replace(self.margin, upload_s=seconds)

    def should_stop(self) -> StopReason | None:
        """Why training must stop now, if it must."""
        life_s = soft_life_s(self._life_s, self.margin.total_s)
        return self._over(self.spent_cents, self.soft_cents, life_s)

    def must_give_up(self) -> StopReason | None:
        """Why even an upload must be given up now, if it must."""
        return self._over(
            self.explained_cents,
            give_up_cents(self.limit_cents, self.hourly_cents, self.margin),
            self._life_s - self.margin.leave_s,
        )

    def give_up(self) -> str:
        """The text of `must_give_up`, or ""."""
        stop = self.must_give_up()
        return stop.text if stop else ""

    def _over(self, spent: int, cents: int, age_s: float) -> StopReason | None:
        if spent >= cents:
            return StopReason(
                "spend_limit",
                f"{dollars(spent)} of the limit of {dollars(self.limit_cents)} used",
            )
        if self.age_s >= age_s:
            reason = "spend_limit" if self._of_money else "max_duration"
            whose = "" if self._of_money else f" {OF_TIME}"
            return StopReason(
                reason,
                f"{self.age_s / 60:.0f} minutes used{whose}, the instance deletes itself at {self.deadline}",
            )
        return None

    def look(self) -> None:
        """Poll the provider once; its answer never lowers what is known."""
        try:
            answer = self._api.info(self._id)
        except NanolanError:
            return  # our own meter goes on
        seen = agreed_terms(self._answer, answer)
        self._answer = answer
        self._take_terms(answer, seen)
        if seen.cost_cents is not None:
            self._take_bill(seen.cost_cents)

    def _take_terms(self, answer: Instance, seen: Instance) -> None:
        """Apply the price and the limits that two answers support; what the provider changed is reported."""
        self.hourly_cents = max(self.hourly_cents, seen.hourly_cents or 0)
        self._seen = seen
        self._apply()
        self._take_notice(answer)
        if price := price_differs(seen, self._agreed):
            self._report("price changed", f"{price}, and is metered so from its creation on")
        missing = (
            limits_missing(answer) if self._plan.holds_key else ""
        )  # without a key they are unknown
        self._odd_since = {
            text: self._odd_since.get(text, self._clock())
            for text in (limits_differ(answer, self._agreed), missing)
            if text
        }
        for text, since in self._odd_since.items():
            if self._clock() - since >= SETTLE_S:
                self._report(
                    "limits changed",
                    f"{text}; {dollars(self.limit_cents)} and {self.deadline} count here",
                )

    def _take_notice(self, answer: Instance) -> None:
        """Note that the provider is taking a spot instance away, or soon will: then what is whole is saved."""
        if self.taken or not self._plan.offer.spot:
            return
        if not answer.billing and PREEMPTED in answer.details.lower():
            self.taken = StopReason(PREEMPTED, "the provider is taking this spot instance away")
        elif answer.ends_at and answer.ends_at != self._ends_at:
            left_s = (answer.ends_at - self._now()).total_seconds()
            if left_s <= self.margin.total_s:
                when = iso(answer.ends_at)
                self.taken = StopReason(
                    PREEMPTED, f"the provider takes this instance away at {when}"
                )
        if self.taken:
            self._say(self.taken.text)

    def _report(self, event: str, text: str) -> None:
        """Say a change and notify of it, once."""
        if text not in self._reported:
            self._reported.add(text)
            self._say(f"warning: the provider changed the terms: {text}")
            self._alarm(event, text)

    def _take_bill(self, cents: int) -> None:
        """Apply the provider's figure; a warning when it differs much from our own."""
        self.provider_cents = max(self.provider_cents or 0, cents)
        mine = self.metered_cents
        if (
            not self._warned
            and max(cents, mine) > DISAGREE * min(cents, mine)
            and abs(cents - mine) > DISAGREE_CENTS
        ):
            self._warned = True
            self._say(
                f"warning: Shadeform's figure is {dollars(cents)}, our own meter says {dollars(mine)}; the larger one counts"
            )
