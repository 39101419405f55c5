"""Waits for an offer: looks at the market until one fits, `just stop` is typed, or the time agreed to is over. Rents nothing.

The time is that of the services' clock (nanolan/times.py), which goes on while the laptop sleeps; every pause is a series of
short naps, so that a look is due as soon as the laptop wakes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    NoOffer,
    PreflightFailed,
)
from nanolan.hub.client import Hub
from nanolan.hub.pins import what_is_lost
from nanolan.launch.claim import stopped_error
from nanolan.launch.looks import (
    POLITE,
    Look,
    Pace,
    Rests,
    Rule,
    delay_s,
    is_due,
    judge,
    one_line,
)
from nanolan.launch.preflight import check_box_key, check_hub
from nanolan.launch.prepare import Prepared
from nanolan.notify import FAILURE, SUCCESS, WARNING, Notifier, started
from nanolan.plan import Plan
from nanolan.run.ledger import STOPPED_BY_USER, WAITED, Attempt, Entry, Ledger, Waiting
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.offers import Expected, Offer
from nanolan.times import iso, local_text, now_utc

NAP_S = 1.0
MOST_REFUSED_LOOKS = 5  # refusals of the key in a row: a single one may be a proxy's


class OfferWait:
    """The wait of one launch. `next` returns as soon as an offer fits, and may be called again after that was refused."""

    def __init__(
        self,
        rule: Rule,
        settings: Settings,
        api: Shadeform,
        hub: Hub,
        ledger: Ledger,
        expected: Expected,
        *,
        again: str = "just launch",  # the command for another wait
        pace: Pace = POLITE,
        notifier: Notifier | None = None,
        now: Callable[[], datetime] = now_utc,
        sleep: Callable[[float], object] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.rule = rule
        self._settings = settings
        self._api = api
        self._hub = hub
        self._ledger = ledger
        self._expected = expected
        self._again = again
        self._pace = pace
        self._notifier = notifier
        self._now = now
        self._sleep = sleep
        self._jitter = jitter
        self._rests = Rests(pace)
        self._seen = "no look yet"
        self._looks = 0
        self._same = 0  # looks in a row that showed what the one before showed
        self._failed = 0  # looks in a row without an answer
        self._refusals = 0  # looks in a row at which the key was refused
        self._rented = False

    # -------------------------------------------------------------- looking
    def next(
        self,
        prepared: Prepared,
        earlier: tuple[Attempt, ...],
        left_cents: int,
        say: Callable[[str], None],
        now_line: Callable[[str], None] | None = None,
    ) -> tuple[Prepared, tuple[Offer, ...]]:
        """The run with inputs that the Hub still has, and the offers that may be rented now, best first.

        NoOffer when the time is over, RunFailed after `just stop`. `now_line` takes looks that show the same as before.
        """
        self._rented = False
        entry = Entry(prepared.plan, gone=True, note=WAITED, earlier=earlier)
        try:
            while True:
                self.check_goes_on(prepared.plan)
                since = self._now()
                found, prepared = self._look(prepared, left_cents, say)
                look = one_line(found)
                self._note(entry, look, since, say, now_line)
                if look.offers:
                    return prepared, look.offers
                delay = delay_s(
                    self._pace, self._same, self._failed, look.retry_after_s, self._jitter()
                )
                self._pause(prepared.plan, since, delay, now_line)
        except KeyboardInterrupt:
            why = "the wait was ended by hand; nothing is rented"
            self._end(entry.plan, why, say)
            raise KeyboardInterrupt(f"run {entry.plan.run_id}: {why}") from None

    def check_goes_on(self, plan: Plan) -> None:
        """Raise when nothing may be rented any more: the time is over, or `just stop` was typed here. Read before every create."""
        if self._ledger.stop_asked(plan.run_id):
            raise stopped_error(plan)
        if self.over:
            raise NoOffer(
                f"no offer until {local_text(self.rule.until)} ({self._looks} looks; the last one: {self._seen}); "
                f"nothing is rented. Wait again: {self._again}"
            )

    @property
    def over(self) -> bool:
        """Whether the time agreed to is over."""
        return self._now() >= self.rule.until

    def refused(self, offer: Offer | None) -> None:
        """Leave an offer alone for a while after its create was refused; None: all offers, after a service failed."""
        self._rests.refused(offer, self._now())

    def _look(
        self, prepared: Prepared, left_cents: int, say: Callable[[str], None]
    ) -> tuple[Look, Prepared]:
        self._looks += 1
        try:
            market = self._api.market(self.rule.spot)
            self._refusals = 0
        except AuthProblem as e:
            self._refusals += 1
            if self._refusals >= MOST_REFUSED_LOOKS:
                raise
            return Look(f"no answer: {e}", failed=True), prepared
        except ApiProblem as e:
            return _unanswered(e), prepared
        look = judge(
            market, self.rule, self._expected, lambda o: self._against(o, prepared, left_cents)
        )
        if not look.offers:
            return look, prepared
        if self._settings.shadeform_api_key_box:  # a box with a dead key could not delete itself
            key = check_box_key(self._settings, self._api.instances)
            if key.ok is False:
                return Look(f"an offer fits, but {key.text}", failed=True), prepared
        try:
            return look, with_valid_pins(prepared, self._hub, self._settings, say)
        except ApiProblem as e:
            return _unanswered(e), prepared

    def _against(self, offer: Offer, prepared: Prepared, left_cents: int) -> str:
        """Why an offer that fits is not rented: it refused a create just now, or a check of a launch fails there."""
        if end := self._rests.until(offer, self._now()):
            return f"a create failed just now; not before {local_text(end)} again"
        checks = prepared.estimate_on(offer, left_cents).checks
        return next((f"{c.name}: {c.text}" for c in checks if c.ok is False), "")

    def _note(
        self,
        entry: Entry,
        look: Look,
        at: datetime,
        say: Callable[[str], None],
        now_line: Callable[[str], None] | None,
    ) -> None:
        """Count the look, show it, and record it for `just status`."""
        repeated = look.line == self._seen
        self._same = self._same + 1 if repeated else 0
        self._failed = self._failed + 1 if look.failed else 0
        self._seen = look.line
        if not (repeated and now_line):
            say(f"{local_text(at)}  {look.line}")
        waiting = Waiting(iso(self.rule.until), iso(at), look.line)
        noted = structs.replace(entry, waiting=waiting)
        if self._looks == 1:
            self._ledger.put(noted)  # without a ledger nothing could be stopped: refused at once
        else:
            self._ledger.note(noted, say)

    def _pause(
        self,
        plan: Plan,
        since: datetime,
        delay: float,
        now_line: Callable[[str], None] | None,
    ) -> None:
        """Nap until the next look is due; a stop, the end of the time or a clock that was set are noticed at once."""
        while not is_due(now := self._now(), since, delay):
            self.check_goes_on(plan)
            left_s = delay - (now - since).total_seconds()
            if now_line:
                until = local_text(self.rule.until)
                now_line(f"until {until}, next look in {left_s:.0f} s | {self._seen}")
            self._sleep(max(0.0, min(NAP_S, left_s)))

    # -------------------------------------------------------------- the end of the wait
    def rented(self, plan: Plan) -> None:
        """Notify that an instance is rented, in the background."""
        self._rented = True
        number = f" (attempt {plan.attempt})" if plan.attempt > 1 else ""
        self._tell(f"rented{number}", started(plan), SUCCESS)

    def gave_up(self, plan: Plan, error: NanolanError, say: Callable[[str], None]) -> None:
        """Record and notify how a launch that waited has ended without a run. A box notifies of its own end."""
        stopped = STOPPED_BY_USER in str(error)  # here, or on another laptop
        self._end(plan, STOPPED_BY_USER if stopped else str(error), say)
        of_box = self._rented and not isinstance(error, MachineFailed | MayBeBilling)
        if not stopped and not of_box:
            self._tell("gave up", str(error), FAILURE if error.exit_code == 8 else WARNING)

    def close(self) -> None:
        """Wait until the notifications are sent, for some seconds at most."""
        if self._notifier:
            self._notifier.close()

    def _tell(self, event: str, text: str, kind: str) -> None:
        if self._notifier:
            self._notifier.send(event, text, kind)

    def _end(self, plan: Plan, note: str, say: Callable[[str], None]) -> None:
        """Write why into the entry, unless a create has replaced it: then that one tells."""
        for entry in self._ledger.readable()[0]:
            if entry.plan.run_id == plan.run_id and entry.waiting:
                self._ledger.note(structs.replace(entry, note=note), say)


def _unanswered(e: ApiProblem) -> Look:
    return Look(f"no answer: {e}", (), True, getattr(e, "retry_after_s", 0.0))


def with_valid_pins(
    prepared: Prepared, hub: Hub, settings: Settings, say: Callable[[str], None]
) -> Prepared:
    """The run as it is, if the Hub still has the revisions that were pinned before the wait; else with new pins, checked again.

    An upload since then does not change the run: a revision of the Hub stays. It is lost with its repo, or when the history
    was squashed. PreflightFailed when what is there now fails a check, ApiProblem when the Hub does not answer.
    """
    plan = prepared.plan
    lost = next(
        filter(None, (what_is_lost(hub, pin) for pin in (*plan.inputs, *plan.datasets))), ""
    )
    if not lost:
        return prepared
    found = check_hub(hub, settings)
    if found.failed:
        raise PreflightFailed(
            f"{lost} since the launch was agreed to, and what is there now fails a check ({found.failed[0].name}: "
            f"{found.failed[0].text}); nothing was rented"
        )
    say(f"{lost} since the launch was agreed to; the inputs were checked and pinned again")
    return replace(
        prepared, plan=structs.replace(plan, inputs=found.inputs, datasets=found.datasets)
    )
