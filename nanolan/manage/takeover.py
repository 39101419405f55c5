"""Takes a spot run up again: after its instance was taken away, the next attempt is rented, as `just resume` would do, without
asking.

Nothing is rented before a listing shows none of the run's instances (`check_ended`), after `just stop` on any laptop, above
the price that was agreed to, or for more than the run's limit, which counts all of its attempts. An unclear create ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from msgspec import structs

from nanolan.cost.gpu_check import read_checks
from nanolan.errors import (
    ApiProblem,
    CheckUnavailable,
    MayBeBilling,
    NanolanError,
    PreflightFailed,
    RunFailed,
)
from nanolan.hub.client import Hub
from nanolan.launch.claim import LaunchedElsewhere, stopped_error
from nanolan.launch.create import stop_asked_on_hub
from nanolan.launch.failover import Launched, rent_with_failover
from nanolan.launch.looks import POLITE, Pace, Rule
from nanolan.launch.make_plan import Rehearsal
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.preflight import check_hub
from nanolan.launch.prepare import Prepared, forecast_of, prepare
from nanolan.launch.wait import OfferWait
from nanolan.manage.resume import NextAttempt, check_addresses, check_ended, settings_of, upcoming
from nanolan.manage.run_budget import (
    MONEY,
    Agreed,
    attempts,
    whole_cents_of,
    with_new_limit,
)
from nanolan.money import dollars
from nanolan.notify import Notifier
from nanolan.phases import GATE
from nanolan.plan import Plan, Rented
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Entry, Ledger, was_preempted
from nanolan.run.presence import REPORTS
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.offers import Offer, wanted_from
from nanolan.status.status import look
from nanolan.status.view import RunView
from nanolan.times import now_utc

MOST_INSTANCES = 12  # of one run; then somebody should look at it
WAIT_S = 24 * 3600.0  # for an offer
FINAL_CHECKS = (MONEY, "max duration", GATE)  # names of checks that no later try would pass


class NotYet(NanolanError):
    """The run cannot be taken up now, and nothing was rented; a later try may succeed."""


@dataclass(frozen=True)
class TakeOver:
    """Rents the next attempt of a run whose spot instance was taken away.

    `say` takes progress, `now_line` the state every second while it waits."""

    ledger: Ledger
    settings: Settings
    api: Shadeform
    hub: Hub
    say: Callable[[str], None]
    rehearsal: Rehearsal | None = None
    now_line: Callable[[str], None] | None = None
    pace: Pace = POLITE
    wait_s: float = WAIT_S
    now: Callable[[], datetime] = now_utc
    sleep: Callable[[float], object] = time.sleep
    # of reading back and of waiting until it trains; None: the real ones
    clock: Callable[[], float] | None = None

    def run(self, entry: Entry, agreed: Agreed) -> Launched | None:
        """The next attempt, rented and training; None if every phase is proven already.

        NotYet: nothing was rented, try again later."""
        view = self._ended(self.ledger.newest(entry))
        run_id = view.entry.plan.run_id
        past = attempts(view, self.now())
        if (used := instances_of(past)) >= MOST_INSTANCES:
            raise PreflightFailed(
                f"run {run_id} has had {used} instances; nothing was rented. Go on: just resume {run_id}"
            )
        try:
            self._refuse_stopped(view.entry)
            prepared, settings = self._prepare(view, past, agreed)
        except (ApiProblem, CheckUnavailable) as e:  # nothing is rented yet
            raise NotYet(str(e)) from None
        if prepared is None:
            return None
        with_instance = tuple(a for a in past if a.instance_id or a.spent_cents != 0)
        try:
            return rent_with_failover(
                prepared,
                [],
                settings,
                self.api,
                self.hub,
                self.ledger,
                self.say,
                self._policy(prepared, settings, used),
                before=with_instance,
                stops_from=1,
                clock=self.clock,
            )
        except LaunchedElsewhere:
            self.ledger.note(view.entry, self.say)  # in place of the wait for an offer
            raise

    def _ended(self, entry: Entry) -> RunView:
        """The run as it is now, ended by the rule of `just resume`. PreflightFailed if its instance was not taken away."""
        run_id = entry.plan.run_id
        if self.ledger.is_launching(run_id):
            raise NotYet(f"another command is launching run {run_id}")
        check_addresses(self.settings, entry.plan)
        seen = look(self.ledger, [entry], self.api, lambda _: self.hub)
        if problems := (*seen.problems, *seen.runs[0].problems):  # not seen is not gone
            raise NotYet(
                f"the state of run {run_id} is unavailable ({problems[0]}); nothing was rented"
            )
        try:
            check_ended(seen)
        except PreflightFailed as e:
            raise NotYet(str(e)) from None
        except MayBeBilling as e:
            if not seen.runs[0].unknown.startswith(REPORTS):
                raise
            raise NotYet(str(e)) from None
        view = seen.runs[0]
        if not taken_away(view):
            raise PreflightFailed(f"run {run_id} was not taken away ({view.state}: {view.reason})")
        return view

    def _refuse_stopped(self, entry: Entry) -> None:
        """RunFailed after `just stop` on any laptop."""
        upto = structs.replace(entry.plan, attempt=entry.plan.attempt + 1)
        if self.ledger.stop_asked(entry.plan.run_id) or stop_asked_on_hub(self.hub, upto, 1):
            raise stopped_error(entry.plan)

    def _prepare(
        self, view: RunView, past: tuple[Attempt, ...], agreed: Agreed
    ) -> tuple[Prepared | None, Settings]:
        """(the next attempt, its settings); None if nothing is left to do. PreflightFailed if a check fails, such as the money."""
        whole = agreed.whole_cents
        if whole is None:
            whole = whole_cents_of(view.entry)
        new = upcoming(self.hub, view, past, whole, self.settings, {})
        if new is None:
            return None, self.settings
        if agreed.hourly_cents <= 0:
            raise PreflightFailed(
                f"the price that was agreed to for run {new.plan.run_id} is unknown; nothing was rented. Go on: "
                f"just resume {new.plan.run_id}"
            )
        settings = settings_of(self.settings, {}, new.plan, new.remaining, new.budget)
        price = min(agreed.hourly_cents, settings.max_price or agreed.hourly_cents)
        settings = replace(settings, max_price=price)
        prepared = new.apply(self._checked(new, settings))
        # the price that was agreed to is no limit that somebody has typed
        plan = structs.replace(prepared.plan, limits=new.plan.limits)
        prepared = replace(prepared, plan=plan)
        refuse_failed(prepared)
        return prepared, settings

    def _checked(self, new: NextAttempt, settings: Settings) -> Prepared:
        """A launch with these settings and its checks, on the offer that the run had: an example until there is another."""
        return prepare(
            settings,
            offer_like(new.plan.offer),
            new.plan.owner,
            self.hub,
            self.api.instances,
            rehearsal=self.rehearsal,
            keep_old=new.plan.keep_old,
            earlier=self.ledger.entries(),
            gpu_checks=read_checks(self.ledger.home),
            found=check_hub(self.hub, settings),
            code_of=new.code_of,
        )

    def _policy(self, prepared: Prepared, settings: Settings, used: int) -> FailoverPolicy:
        """Wait for an offer within the agreed price; replace an instance that does not come up. The run had `used` instances."""
        forecast = forecast_of(
            settings,
            None,
            self.ledger.entries(),
            self.rehearsal,
            read_checks(self.ledger.home),
        )
        rule = Rule(
            wanted_from(settings),
            "price",
            prepared.plan.limit_cents,
            self.now() + timedelta(seconds=self.wait_s),
            settings.spot,
        )
        command = f"just resume {prepared.plan.run_id}"
        name = f"{settings.run_name} {'+'.join(settings.phases)}"
        waits = OfferWait(
            rule,
            settings,
            self.api,
            self.hub,
            self.ledger,
            lambda offer: cost.likely_cents if (cost := forecast(offer)) else None,
            again=command,
            pace=self.pace,
            notifier=Notifier(settings.notify_url, name, say=self.say),
            now=self.now,
            sleep=self.sleep,
        )
        return FailoverPolicy(
            min(settings.failover, MOST_INSTANCES - used - 1),
            settings.max_price or 0,
            prepared.plan.limit_cents,
            command=command,
            now=self.now_line,
            offer_wait=waits,
        )


def refuse_failed(prepared: Prepared) -> None:
    """PreflightFailed if the money or the time does not suffice; NotYet for other checks, of which a service may be the cause."""
    if not prepared.failed:
        return
    why = "; ".join(f"{c.name}: {c.text}" for c in prepared.failed)
    text = f"run {prepared.plan.run_id} is not taken up, nothing was rented: {why}"
    final = any(c.name in FINAL_CHECKS for c in prepared.failed)
    raise (PreflightFailed if final else NotYet)(text)


def taken_away(view: RunView) -> bool:
    """Whether the run has ended because its spot instance was taken away; also when a later take-over has rented nothing."""
    entry = view.entry
    if entry.note == STOPPED_BY_USER:
        return False
    if view.preempted:
        return True
    rented_nothing = entry.gone and entry.instance_id is None and view.receipt is None
    return rented_nothing and bool(entry.earlier) and was_preempted(entry.earlier[-1].note)


def instances_of(past: tuple[Attempt, ...]) -> int:
    """How many instances the run has had."""
    return sum(a.instance_id is not None for a in past)


def offer_like(rented: Rented) -> Offer:
    """The offer of a plan."""
    return Offer(
        rented.cloud,
        rented.region,
        rented.instance_type,
        rented.gpu,
        rented.num_gpus,
        rented.vram_gb,
        rented.hourly_cents,
        (rented.os,),
        spot=rented.spot,
    )


def bound_text(agreed: Agreed, entry: Entry) -> str:
    """What a take-over may cost, for the question and the log."""
    whole = whole_cents_of(entry) if agreed.whole_cents is None else agreed.whole_cents
    return (
        f"at most {dollars(agreed.hourly_cents)}/h, {dollars(whole)} for all attempts of the run together, "
        f"{MOST_INSTANCES} instances"
    )


# ------------------------------------------------------------------ following a run to its end
def follow_and_take_up(
    take_over: TakeOver,
    agreed: Agreed,
    follow: Callable[[], RunView],
    *,
    retry_s: float = 30.0,
    plan: Plan | None = None,
    on_launched: Callable[[Launched], object] = lambda launched: None,
) -> RunView:
    """Follow the run until it has ended for good: each time its spot instance is taken away, rent the next one.
    `plan` is that of the first attempt followed: a limit that `just limit` sets later replaces the agreed one."""
    said, tried_s = "", 0.0  # since the last launch
    ended: RunFailed | None = None  # how the last launch has ended
    while True:
        view = follow()
        if not taken_away(view):
            if ended:
                raise ended
            return view
        try:
            agreed, plan = with_new_limit(agreed, plan, view.entry), view.entry.plan
            if not tried_s:
                take_over.say(f"run {view.entry.plan.run_id}: {view.reason}. Taking it up again")
            launched = take_over.run(view.entry, agreed)
            if launched is None:
                return view
            on_launched(launched)
            plan, said, tried_s, ended = launched.prepared.plan, "", 0.0, None
        except RunFailed as e:  # the next look says whether it was taken away again
            if STOPPED_BY_USER in str(e):
                raise
            ended = e
        except (NotYet, LaunchedElsewhere) as e:
            if tried_s >= take_over.wait_s:
                raise
            if str(e) != said:
                said = str(e)
                take_over.say(f"not yet: {said}")
            tried_s += retry_s
            take_over.sleep(retry_s)
