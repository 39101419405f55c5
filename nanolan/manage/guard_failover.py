"""`just guard --failover`: takes spot runs up again whose instance was taken away, each in a thread of its own.

It considers the spot runs in its ledger, and puts those there whose instance it guards. A run is taken up at its own price per
hour or less and within its own limit (nanolan/manage/takeover.py). An error that no later try would mend ends that for this
run, until the guard is started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec import structs

from nanolan.cost.overdue import InstanceFacts
from nanolan.cost.spending import seen_at
from nanolan.errors import ApiProblem, MayBeBilling, NanolanError, RunFailed
from nanolan.launch.claim import LaunchedElsewhere
from nanolan.manage.guard import Event, Guard
from nanolan.manage.run_budget import Agreed
from nanolan.manage.takeover import (
    MOST_INSTANCES,
    NotYet,
    TakeOver,
    bound_text,
    taken_away,
)
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.find import earlier_attempts
from nanolan.run.ledger import STOPPED_BY_USER, Entry, Ledger
from nanolan.shadeform.models import Instance
from nanolan.status.view import RunView
from nanolan.times import now_utc, parse_time

Start = Callable[[Callable[[], None]], object]


def in_thread(act: Callable[[], None]) -> None:
    """Run it beside the guard; it ends with the guard."""
    threading.Thread(target=act, daemon=True).start()


class Failover:
    """The runs that a guard takes up. `take_over_of` makes the means for a run, `look` reads its state."""

    def __init__(
        self,
        ledger: Ledger,
        owner: str,
        take_over_of: Callable[[Entry], TakeOver],
        look: Callable[[Entry], RunView],
        report: Callable[[Event], object],
        *,
        now: Callable[[], datetime] = now_utc,
        start: Start = in_thread,
    ) -> None:
        self._ledger, self._owner = ledger, owner
        self._take_over_of, self._look, self._report = take_over_of, look, report
        self._now, self._start = now, start
        self._said: dict[tuple[str, str], str] = {}  # (run, what) -> text
        self._over: set[tuple[str, int]] = set()  # (run, attempt) that is not taken up
        self._active: set[str] = set()

    @property
    def active(self) -> int:
        """How many runs are being taken up now."""
        return len(self._active)

    @property
    def unfinished(self) -> str:
        """The message about runs that were being taken up when the guard ends."""
        return "; ".join(
            f"run {run_id} was being taken up: whether an instance was rented for it is unknown. Look: just status "
            f"{run_id}; end it: just stop {run_id} --now"
            for run_id in sorted(self._active)
        )

    # -------------------------------------------------------------- what is guarded
    def watching(
        self, facts_of: Callable[[Instance], InstanceFacts | None]
    ) -> Callable[[Instance], InstanceFacts | None]:
        """`facts_of`, which also notes each spot instance that is guarded."""

        def look(instance: Instance) -> InstanceFacts | None:
            facts = facts_of(instance)
            if facts and facts.plan and facts.plan.offer.spot and not facts.unseen:
                self._note(facts)
            return facts

        return look

    def _note(self, facts: InstanceFacts) -> None:
        """Record a spot instance's bill and its run in the ledger: an instance that is gone names no run any more."""
        instance, plan = facts.instance, facts.plan
        if plan is None or not instance.billing:
            return
        if why := not_as_rented(facts):
            self._over.add((plan.run_id, plan.attempt))
            self._say_once(plan.run_id, "left alone", f"run {plan.run_id} is not taken up: {why}")
            return
        entry = self._recorded(plan, instance)
        if entry is None or self._ledger.is_launching(plan.run_id):
            return
        seen = structs.replace(entry, seen=seen_at(entry, instance, None, self._now()))
        if seen != entry and entry.plan.attempt == plan.attempt:
            self._ledger.note(seen, lambda text: self._say_once(plan.run_id, "trouble", text))

    def _recorded(self, plan: Plan, instance: Instance) -> Entry | None:
        """The run's entry in the ledger, made if it is missing or of an earlier attempt."""
        entry = self._known(plan.run_id)
        if entry and entry.plan.attempt >= plan.attempt:
            return entry
        try:
            hub = self._take_over_of(Entry(plan)).hub
            entry = Entry(plan, instance.id, earlier=earlier_attempts(hub, plan), rebuilt=True)
            self._ledger.put(entry)
        except NanolanError as e:
            self._say_once(plan.run_id, "trouble", f"run {plan.run_id} would not be taken up: {e}")
            return None
        return entry

    def _known(self, run_id: str) -> Entry | None:
        return next((e for e in self._ledger.readable()[0] if e.plan.run_id == run_id), None)

    # -------------------------------------------------------------- taking up
    def round(self, alive: set[str]) -> int:
        """Start what is to be taken up, given the runs whose instance bills; how many are in progress."""
        for entry in self._ledger.readable()[0]:
            run_id = entry.plan.run_id
            if run_id not in alive and run_id not in self._active and self._may(entry):
                self._take_up(entry)
        return self.active

    def _may(self, entry: Entry) -> bool:
        """Whether an entry may be of a run that was taken away. One whose date has passed is left to its user."""
        plan = entry.plan
        spot = plan.offer.spot or any(a.spot_cents for a in entry.earlier)
        young = self._now() < parse_time(plan.deadline)
        mine = plan.owner == self._owner and entry.note != STOPPED_BY_USER
        return spot and young and mine and (plan.run_id, plan.attempt) not in self._over

    def _take_up(self, entry: Entry) -> None:
        run_id = entry.plan.run_id
        try:
            view = self._look(entry)
            problem = next(iter(view.problems), "")
        except NanolanError as e:
            problem = str(e)
        if problem:
            self._say_once(run_id, "trouble", f"run {run_id} is unavailable: {problem}")
        elif taken_away(view):
            self._say_once(run_id, "taking up", f"TAKING UP run {run_id}: {view.reason}")
            self._active.add(run_id)
            self._start(lambda: self._in_thread(view))
        elif view.ended:
            self._over.add((run_id, view.entry.plan.attempt))

    def _in_thread(self, view: RunView) -> None:
        """One try, to its end."""
        entry, run_id = view.entry, view.entry.plan.run_id
        try:
            launched = self._take_over_of(entry).run(entry, agreed_for(entry))
            if launched is None:
                text = f"run {run_id} is complete: every phase is proven on the Hub"
            else:
                price = dollars(launched.prepared.offer.hourly_cents)
                text = (
                    f"run {run_id} goes on as attempt {launched.prepared.plan.attempt} on instance "
                    f"{launched.instance.id} ({price}/h)"
                )
            self._say_once(run_id, "taken up", text)
        except (NotYet, LaunchedElsewhere, ApiProblem) as e:
            self._say_once(run_id, "not yet", f"run {run_id} is not taken up yet: {e}")
        except Exception as e:
            self._failed(entry, e)
        finally:
            self._active.discard(run_id)

    def _failed(self, entry: Entry, error: Exception) -> None:
        """A try that ended otherwise. Of a run that has ended again the next look tells more; else it was the last try."""
        run_id = entry.plan.run_id
        of_run = isinstance(error, RunFailed) and STOPPED_BY_USER not in str(error)
        text = str(error) if isinstance(error, NanolanError) else f"a bug in nanolan: {error!r}"
        if not of_run:
            newest = self._known(run_id) or entry
            self._over.add((run_id, newest.plan.attempt))
        what = "unknown" if isinstance(error, MayBeBilling) else "not taken up"
        self._say_once(run_id, what, f"run {run_id} is not taken up: {text}")

    def _say_once(self, run_id: str, what: str, text: str) -> None:
        if self._said.get((run_id, what)) != text:
            self._said[run_id, what] = text
            self._report(Event(what, text))


class GuardWithFailover:
    """A guard that also takes runs up; its rounds are those of nanolan.manage.guard.run_forever."""

    def __init__(self, guard: Guard, failover: Failover) -> None:
        self._guard, self._failover = guard, failover

    def round(self) -> int | None:
        """How many instances bill or are being rented; None if the account could not be read: then nothing is taken up."""
        left = self._guard.round()
        if left is None:
            return None
        return left + self._failover.round(self._guard.alive)

    def report_failure(self, text: str) -> None:
        self._guard.report_failure(text)


def agreed_for(entry: Entry) -> Agreed:
    """The price and the limit that its user agreed to: the dearest spot instance so far, and the limit of the run."""
    rented = 0 if entry.waiting else entry.plan.offer.hourly_cents  # else the offer is an example
    return Agreed(max(rented, *(a.spot_cents for a in entry.earlier), 0))


def not_as_rented(facts: InstanceFacts) -> str:
    """Why the plan in the run folder, which others may be able to write, is not that of the instance, or "". Pure."""
    plan, limits = facts.plan, facts.instance.limits
    if plan is None or limits is None or limits.spend_cents is None:
        return ""
    if plan.limit_cents > limits.spend_cents:
        return (
            f"its plan has a limit of {dollars(plan.limit_cents)}, the provider keeps "
            f"{dollars(limits.spend_cents)} for its instance"
        )
    return ""


def rule_text(entries: Sequence[Entry]) -> str:
    """What a guard may rent, for the question at its start; `entries` are the ledger's runs of its owner."""
    now = [
        f"run {e.plan.run_id}: {bound_text(agreed_for(e), e)}"
        for e in entries
        if e.plan.offer.spot and not e.gone
    ]
    return (
        "It takes a spot run up again on the next offer when its instance is taken away: at the price per hour that the "
        f"run had, or less, within the run's own spend limit for all attempts together, {MOST_INSTANCES} instances a run. "
        f"Spot runs now: {'; '.join(now) or 'none in this ledger'}."
    )
