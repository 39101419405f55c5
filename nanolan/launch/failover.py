"""Fail-over: after a rejection, tries the same run on the next offer, within what the user agreed to.

A rejection is a stock-out, or an instance that is confirmed deleted. An empty wallet, a refused key and an unclear answer
end the launch instead: another create would not help, or might rent twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from nanolan.errors import MachineFailed, NanolanError, OutOfStock
from nanolan.hub.client import Hub
from nanolan.launch.create import stopped_error
from nanolan.launch.prepare import OfferEstimate, Prepared, next_attempt
from nanolan.launch.readiness import patience_s, wait_until_ready
from nanolan.launch.rent import rent, with_next_offer
from nanolan.money import cost_cents, dollars
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Ledger
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_leftovers
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.times import now_utc, parse_time, steady

GAVE_UP = re.compile(
    r"boot failed: the machine gave up: (.+?)\. It is deleted"
)  # in the message of MachineFailed
GO, ASK, STOP = "go", "ask", "stop"


@dataclass(frozen=True)
class FailoverPolicy:
    """What the user agreed to: how many other offers, up to which price per hour and total; and how to ask for more."""

    others: int
    hourly_cents: int
    bill_cents: int
    ask: Callable[[Prepared], bool] | None = None  # None: not interactive
    wait: bool = True  # until the instance trains: only then can a bad one be replaced
    command: str = "just launch"
    now: Callable[[str], None] | None = None  # gets the state every second while it waits
    typed: tuple[str, ...] = ()  # the settings of this launch as typed, without the place


@dataclass(frozen=True)
class Step:
    """What to do after a rejection: rent the offer, ask about it, or stop for the reason `why`."""

    action: str
    offer: Offer | None = None
    why: str = ""


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
    clock: Callable[[], float] | None = None,
) -> Launched:
    """Rent the offer of `prepared`; after a rejection the next of `offers` (by rank) with the same GPUs.

    `before` are the run's attempts before this launch: they are recorded, but do not count against the policy.
    """
    with ledger.launching(
        prepared.plan.run_id
    ):  # so a `just watch` elsewhere does not report a failed attempt as the run's end
        return _rent_until_ready(
            prepared, offers, settings, api, hub, ledger, say, policy, before, clock
        )


def _rent_until_ready(
    prepared: Prepared,
    offers: Sequence[Offer],
    settings: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    policy: FailoverPolicy,
    before: tuple[Attempt, ...],
    clock: Callable[[], float] | None,
) -> Launched:
    earlier: tuple[Attempt, ...] = ()
    tried = [prepared.offer]
    first_attempt = prepared.plan.attempt
    while True:
        try:
            if earlier:
                delete_leftovers(api, prepared.plan.run_id, say=say)
            instance = rent(
                prepared,
                settings,
                api,
                hub,
                ledger,
                say,
                earlier=before + earlier,
                first_attempt=first_attempt,
                clock=clock or time.monotonic,
            )
            if policy.wait:
                _wait_until_ready(
                    prepared, instance, api, hub, ledger, say, clock or steady, policy.now
                )
            return Launched(prepared, instance, before + earlier)
        except (OutOfStock, MachineFailed) as e:
            rejection = e
        earlier += (failed_attempt(rejection, prepared),)
        untried = [o for o in offers if o not in tried]
        step = decide(
            [o for o in untried if _same_gpus(o, prepared.offer)],
            policy,
            earlier,
            prepared.estimate_on,
        )
        if step.action != STOP:
            say(f"attempt {prepared.plan.attempt}: {earlier[-1].note}")
        if step.action == ASK and step.offer:
            step, policy = _ask_about(step.offer, prepared, settings, policy, earlier)
        if step.action == STOP or step.offer is None:
            raise _final_error(rejection, prepared.offer, step, untried, policy, earlier)
        prepared = next_attempt(
            prepared, settings, step.offer, policy.bill_cents - spent_cents(earlier)
        )
        tried.append(prepared.offer)
        chosen = prepared.offer
        say(
            f"attempt {prepared.plan.attempt}: {chosen.where}, {chosen.instance_type}, "
            f"{dollars(chosen.hourly_cents)}/h\nBill: {prepared.bill()}."
        )


def _same_gpus(offer: Offer, chosen: Offer) -> bool:
    """Whether an offer has the type and number of GPUs that were agreed to."""
    return (offer.gpu, offer.num_gpus) == (chosen.gpu, chosen.num_gpus)


def decide(
    left: Sequence[Offer],
    policy: FailoverPolicy,
    earlier: Sequence[Attempt],
    estimate_on: Callable[[Offer, int], OfferEstimate],
) -> Step:
    """The step after a rejection; `left` are the untried offers by rank, `estimate_on` estimates the run on an offer."""
    if not left:
        return Step(STOP)
    if failure := repeated_failure(earlier):
        return Step(
            STOP,
            left[0],
            f'two boots failed at the same step, "{failure}", so this is not chance: read the log first',
        )
    if len(earlier) > policy.others:
        return Step(STOP, left[0], f"failover={policy.others}")
    cents = policy.bill_cents - spent_cents(earlier)
    good = [
        o
        for o in left
        if cents > 0 and not any(c.ok is False for c in estimate_on(o, cents).checks)
    ]
    if not good:
        return Step(
            STOP,
            left[0],
            f"its checks fail with the {dollars(cents)} left of the limit",
        )
    if policy.ask and good[0].hourly_cents > policy.hourly_cents:
        return Step(ASK, good[0])
    within = [o for o in good if o.hourly_cents <= policy.hourly_cents]
    if within:
        return Step(GO, within[0])
    return Step(
        STOP,
        good[0],
        f"dearer than the {dollars(policy.hourly_cents)}/h agreed to; with --yes, max-price= allows more",
    )


def repeated_failure(earlier: Sequence[Attempt]) -> str:
    """The step of boot.sh at which the two newest attempts both gave up, or ""."""
    steps = [m[1] if (m := GAVE_UP.search(a.note)) else "" for a in earlier[-2:]]
    return steps[0] if len(steps) == 2 and steps[0] == steps[1] else ""


def spent_cents(attempts: Iterable[Attempt]) -> int:
    """The total cost of the attempts."""
    return sum(a.spent_cents or 0 for a in attempts)


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
        ledger.note(structs.replace(entry, gone=True, note=str(e), spent_cents=e.spent_cents), say)
        raise


def failed_attempt(rejection: OutOfStock | MachineFailed, prepared: Prepared) -> Attempt:
    """The record of a failed attempt; an unknown cost is the price since the plan was made."""
    note = f"{prepared.offer.where}: {rejection}"
    spot_cents = prepared.offer.hourly_cents if prepared.offer.spot else 0
    if isinstance(rejection, OutOfStock):
        return Attempt(prepared.plan.attempt, None, 0, note, spot_cents)
    age_s = (now_utc() - parse_time(prepared.plan.created_at)).total_seconds()
    cents = (
        cost_cents(prepared.offer.hourly_cents, max(0.0, age_s))
        if rejection.spent_cents is None
        else rejection.spent_cents
    )
    return Attempt(prepared.plan.attempt, rejection.instance_id, cents, note, spot_cents)


def _final_error(
    rejection: OutOfStock | MachineFailed,
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
