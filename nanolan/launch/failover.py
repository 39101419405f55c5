"""Fail-over: after a rejection, tries the same run on the next offer, within what the user agreed to.

A rejection is a stock-out, or an instance that is confirmed deleted. An empty wallet, a refused key and an unclear answer
end the launch instead: another create would not help, or might rent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    MachineFailed,
    NanolanError,
    NotRented,
    OutOfStock,
)
from nanolan.hub.client import Hub
from nanolan.launch.claim import stop_mark, stopped_error
from nanolan.launch.create import refuse_superseded
from nanolan.launch.policy import (
    ASK,
    GO,
    REJECTIONS,
    STOP,
    FailoverPolicy,
    Rejection,
    Step,
    decide,
    failed_attempt,
    goes_on_waiting,
    same_gpus,
    spent_cents,
)
from nanolan.launch.prepare import Prepared, next_attempt, on_offer
from nanolan.launch.readiness import DISAPPEARED, patience_s, wait_until_ready
from nanolan.launch.rent import rent, with_next_offer
from nanolan.launch.wait import OfferWait
from nanolan.money import dollars
from nanolan.run.ledger import PREEMPTED, STOPPED_BY_USER, Attempt, Ledger
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_leftovers
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.times import steady


@dataclass(frozen=True)
class Launched:
    """A rented instance, its prepared plan, and the earlier attempts."""

    prepared: Prepared
    instance: Instance
    earlier: tuple[Attempt, ...]


def rent_with_failover(
    prepared: Prepared,
    offers: Sequence[Offer],
    settings: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    policy: FailoverPolicy,
    *,
    before: tuple[Attempt, ...] = (),
    stops_from: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Launched:
    """Rent the offer of `prepared`; after a rejection the next of `offers` (by rank) with the same GPUs.

    `before` are the run's attempts before this launch: they are recorded, but do not count against the policy. A request to
    stop an attempt from `stops_from` on (None: the first of this launch) is for this launch, too.
    """
    launch = _Attempts(
        prepared, tuple(offers), settings, api, hub, ledger, say, policy, before, stops_from, clock
    )
    with ledger.launching(
        prepared.plan.run_id
    ):  # so a `just watch` elsewhere does not report a failed attempt as the run's end
        refuse_superseded(ledger, prepared.plan)
        waits = policy.offer_wait
        try:
            launched = launch.until_ready()
        except NanolanError as e:
            if waits:
                waits.gave_up(prepared.plan, e, say)
                waits.close()
            raise
        if waits:
            waits.close()
        return launched


@dataclass
class _Attempts:
    """The attempts of one launch: the one that is prepared, and what is left to try after a rejection."""

    prepared: Prepared
    offers: tuple[Offer, ...]  # by rank
    settings: Settings
    api: Shadeform
    hub: Hub
    ledger: Ledger
    say: Callable[[str], None]
    policy: FailoverPolicy
    before: tuple[Attempt, ...]
    stops_from: int | None
    clock: Callable[[], float] | None
    stops_seen: str | None = None  # the request to stop that was there before this launch
    earlier: tuple[Attempt, ...] = ()  # rejected ones of this launch
    tried: tuple[Offer, ...] = ()

    def until_ready(self) -> Launched:
        """Rent until an instance is rented, and trains if the policy says so; the last rejection ends it."""
        first = self.stops_from or self.prepared.plan.attempt
        waits = self.policy.offer_wait
        self.stops_seen = self.policy.stops_seen
        if self.before and self.stops_from is None and self.stops_seen is None:
            plan = self.prepared.plan
            self.stops_seen = stop_mark(self.hub.tree(plan.runs_repo), plan)
        if waits:
            self._wait_for_offers(waits)
            self._take(on_offer(self.prepared, self.settings, self.offers[0], self._left_cents))
        while True:
            self.tried += (self.prepared.offer,)
            try:
                instance = self._rent(first)
                if waits:
                    waits.rented(self.prepared.plan)
                if self.policy.wait:
                    self._wait_until_ready(instance)
                return Launched(self.prepared, instance, self.before + self.earlier)
            except REJECTIONS as e:
                if waits is None and not isinstance(e, OutOfStock | MachineFailed):
                    raise
                rejection = e
            self._after(rejection)

    @property
    def _left_cents(self) -> int:
        return self.policy.bill_cents - spent_cents(self.earlier)

    def _rent(self, first: int) -> Instance:
        run_id, waits = self.prepared.plan.run_id, self.policy.offer_wait
        try:
            if self.earlier:
                delete_leftovers(self.api, run_id, say=self.say)
        except ApiProblem as e:
            raise NotRented(str(e)) from None
        return rent(
            self.prepared,
            self.settings,
            self.api,
            self.hub,
            self.ledger,
            self.say,
            earlier=self.before + self.earlier,
            first_attempt=first,
            stops_seen=self.stops_seen,
            clock=self.clock or time.monotonic,
            may_create=waits.check_goes_on if waits else lambda plan: None,
        )

    def _after(self, rejection: Rejection) -> None:
        """Prepare the attempt that follows a rejection, or raise."""
        last, waits = self.prepared, self.policy.offer_wait
        self.earlier += (failed_attempt(rejection, last),)
        note = f"attempt {last.plan.attempt}: {self.earlier[-1].note}"
        if waits and not isinstance(rejection, MachineFailed):
            waits.refused(last.offer if isinstance(rejection, OutOfStock) else None)
        untried = [o for o in self.offers if o not in self.tried]
        step = decide(
            [o for o in untried if same_gpus(o, last.offer)],
            self.policy,
            self.earlier,
            last.estimate_on,
        )
        if waits and goes_on_waiting(rejection, step):
            self.say(note)
            self._wait_for_offers(waits)
            step = Step(GO, self.offers[0])
        elif step.action != STOP:
            self.say(note)
        if step.action == ASK and step.offer:
            step, self.policy = _ask_about(
                step.offer, last, self.settings, self.policy, self.earlier
            )
        if step.action == STOP or step.offer is None:
            raise _final_error(rejection, last.offer, step, untried, self.policy, self.earlier)
        self._take(
            next_attempt(
                self.prepared,
                self.settings,
                step.offer,
                self._left_cents,
                uploaded=isinstance(rejection, OutOfStock | MachineFailed),
            )
        )

    def _wait_for_offers(self, waits: OfferWait) -> None:
        """Return when there are offers to rent; the first one's price is then agreed to."""
        self.prepared, self.offers = waits.next(
            self.prepared, self.before + self.earlier, self._left_cents, self.say, self.policy.now
        )
        price = max(self.policy.hourly_cents, self.offers[0].hourly_cents)
        self.policy = replace(self.policy, hourly_cents=price)
        self.tried = ()

    def _take(self, prepared: Prepared) -> None:
        self.prepared, chosen = prepared, prepared.offer
        self.say(
            f"attempt {prepared.plan.attempt}: {chosen.where}, {chosen.instance_type}, "
            f"{dollars(chosen.hourly_cents)}/h\nBill: {prepared.bill()}."
        )

    def _wait_until_ready(self, instance: Instance) -> None:
        _wait_until_ready(
            self.prepared,
            instance,
            self.api,
            self.hub,
            self.ledger,
            self.say,
            self.clock or steady,
            self.policy.now,
        )


def _ask_about(
    offer: Offer,
    prepared: Prepared,
    settings: Settings,
    policy: FailoverPolicy,
    earlier: Sequence[Attempt],
) -> tuple[Step, FailoverPolicy]:
    """Ask about an offer above the agreed price; a yes raises the policy to its price and worst case."""
    spent = spent_cents(earlier)
    proposed = next_attempt(prepared, settings, offer, settings.spend_limit - spent)
    if policy.ask and policy.ask(proposed):
        return Step(GO, offer), replace(
            policy, hourly_cents=offer.hourly_cents, bill_cents=spent + proposed.worst_cents
        )
    return Step(STOP, offer, "not agreed to"), policy


def _wait_until_ready(
    prepared: Prepared,
    instance: Instance,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    clock: Callable[[], float],
    now: Callable[[str], None] | None,
) -> None:
    """Wait until the instance trains. Records a failed one as gone; a run that the user stopped ends the launch."""
    patience = prepared.rehearsal.boot_s if prepared.rehearsal else patience_s(prepared.offer)
    if not prepared.rehearsal:  # Ctrl-C ends a rehearsal completely
        say(
            "You may close this laptop or press Ctrl-C at any time: the run continues by itself, only fail-over ends"
        )
    try:
        wait_until_ready(api, hub, prepared.plan, instance, patience, say=say, clock=clock, now=now)
    except MachineFailed as e:
        entry = ledger.find(prepared.plan.run_id)
        if entry.note == STOPPED_BY_USER or ledger.stop_asked(prepared.plan.run_id):
            raise stopped_error(prepared.plan) from None
        note = str(e)
        if prepared.offer.spot and DISAPPEARED in note:
            note = f"{PREEMPTED}: {note}"
        ledger.note(structs.replace(entry, gone=True, note=note, spent_cents=e.spent_cents), say)
        raise


def _final_error(
    rejection: Rejection,
    offer: Offer,
    step: Step,
    untried: Iterable[Offer],
    policy: FailoverPolicy,
    earlier: tuple[Attempt, ...],
) -> NanolanError:
    """The last rejection with the number of offers tried, why the launch stops, and the command that continues."""
    error = with_next_offer(
        rejection,
        offer,
        [step.offer] if step.offer else untried,
        policy.typed,
        step.why,
        policy.command,
    )
    if len(earlier) == 1:
        return error
    return type(error)(
        f"{len(earlier)} offers tried for {dollars(spent_cents(earlier))}, none is rented now. {error}"
    )
