"""Failing over: after a definite no the same run is tried on the next offer, as far as was agreed to.

A definite no is a stock-out, or a machine that is seen to be deleted. An empty wallet, a refused key and an unclear answer
are none: they end the launch, since another create would not help or might rent twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from nanolan.errors import MachineFailed, NanolanError, OutOfStock
from nanolan.hub.client import Hub
from nanolan.launch.create import stopped
from nanolan.launch.prepare import OfferEstimate, Prepared, next_attempt
from nanolan.launch.readiness import patience_s, wait_until_ready
from nanolan.launch.rent import next_offer_hint, rent
from nanolan.money import cost_cents, dollars
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Ledger
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import sweep
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.times import now_utc, parse_time, steady

GAVE_UP = re.compile(
    r"boot failed: the machine gave up: (.+?)\. It is deleted"
)  # as MachineFailed says it
GO, ASK, STOP = "go", "ask", "stop"


@dataclass(frozen=True)
class FailoverPolicy:
    """What was agreed to: how many other offers, up to which price per hour, for how much in all; and whom to ask beyond."""

    others: int
    hourly_cents: int
    bill_cents: int
    ask: Callable[[Prepared], bool] | None = None  # None: nobody can be asked
    wait: bool = True  # until the machine has proved itself: only then can a bad one be replaced
    command: str = "just launch"
    words: tuple[str, ...] = ()  # the settings of this launch as they were typed, but for the place


@dataclass(frozen=True)
class Step:
    """What to do after a definite no: go on with the offer, ask about it, or stop; `why` it stops."""

    act: str
    offer: Offer | None = None
    why: str = ""


@dataclass(frozen=True)
class Launched:
    """A rented machine, with the plan that it has and the attempts before it."""

    prepared: Prepared
    instance: Instance
    earlier: tuple[Attempt, ...]


def rent_one(
    p: Prepared,
    offers: Sequence[Offer],
    s: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    rules: FailoverPolicy,
    *,
    before: tuple[Attempt, ...] = (),
    clock: Callable[[], float] | None = None,
) -> Launched:
    """Rent the offer of `p`; after a definite no the next of `offers` (by rank) that has as many GPUs.

    `before` are attempts at this run from before this launch: they are noted, and count for nothing here.
    """
    with ledger.launching(
        p.plan.run_id
    ):  # a watch elsewhere does not take a failed attempt for the run's end
        return _rent_one(p, offers, s, api, hub, ledger, say, rules, before, clock)


def _rent_one(
    p: Prepared,
    offers: Sequence[Offer],
    s: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    rules: FailoverPolicy,
    before: tuple[Attempt, ...],
    clock: Callable[[], float] | None,
) -> Launched:
    earlier: tuple[Attempt, ...] = ()
    tried = [p.offer]
    while True:
        try:
            if earlier:
                sweep(api, p.plan.run_id, say=say)
            instance = rent(
                p, s, api, hub, ledger, say, earlier=before + earlier, clock=clock or time.monotonic
            )
            if rules.wait:
                _stand_by(p, instance, api, hub, ledger, say, clock or steady)
            return Launched(p, instance, before + earlier)
        except (OutOfStock, MachineFailed) as e:
            no = e
        earlier += (_failed(no, p),)
        untried = [o for o in offers if o not in tried]
        step = decide(
            [o for o in untried if o.num_gpus == p.offer.num_gpus], rules, earlier, p.there
        )
        if step.act != STOP:
            say(f"attempt {p.plan.attempt}: {earlier[-1].note}")
        if step.act == ASK and step.offer:
            step, rules = _asked(step.offer, p, s, rules, earlier)
        if step.act == STOP or step.offer is None:
            raise _the_end(no, p.offer, step, untried, rules, earlier)
        p = next_attempt(p, s, step.offer, rules.bill_cents - spent_cents(earlier))
        tried.append(p.offer)
        say(
            f"attempt {p.plan.attempt}: {p.offer.where}, {p.offer.instance_type}, {dollars(p.offer.hourly_cents)}/h\n"
            f"Bill: {p.bill()}."
        )


def decide(
    left: Sequence[Offer],
    rules: FailoverPolicy,
    earlier: Sequence[Attempt],
    there: Callable[[Offer, int], OfferEstimate],
) -> Step:
    """The step after a definite no; `left` are the offers not tried yet, by rank, `there` says how the run would do on one."""
    if not left:
        return Step(STOP)
    if failure := same_failure(earlier):
        return Step(
            STOP,
            left[0],
            f'two boots failed in the same way, at "{failure}", which is no luck: see the log first',
        )
    if len(earlier) > rules.others:
        return Step(STOP, left[0], f"failover={rules.others}")
    cents = rules.bill_cents - spent_cents(earlier)
    good = [o for o in left if cents > 0 and not any(c.ok is False for c in there(o, cents).checks)]
    if not good:
        return Step(
            STOP,
            left[0],
            f"the checks fail there with {dollars(cents)}, which is left of the limit",
        )
    if rules.ask and good[0].hourly_cents > rules.hourly_cents:
        return Step(ASK, good[0])
    within = [o for o in good if o.hourly_cents <= rules.hourly_cents]
    if within:
        return Step(GO, within[0])
    return Step(
        STOP,
        good[0],
        f"dearer than the {dollars(rules.hourly_cents)}/h agreed to; with --yes, max-price= allows more",
    )


def same_failure(earlier: Sequence[Attempt]) -> str:
    """The step of boot.sh at which both of the two newest attempts gave up, or ""."""
    steps = [m[1] if (m := GAVE_UP.search(a.note)) else "" for a in earlier[-2:]]
    return steps[0] if len(steps) == 2 and steps[0] == steps[1] else ""


def spent_cents(attempts: Iterable[Attempt]) -> int:
    """What some attempts cost together."""
    return sum(a.spent_cents or 0 for a in attempts)


def _asked(
    offer: Offer, p: Prepared, s: Settings, rules: FailoverPolicy, earlier: Sequence[Attempt]
) -> tuple[Step, FailoverPolicy]:
    """What becomes of a dearer offer once somebody was asked; a yes is for its price and its worst case."""
    spent = spent_cents(earlier)
    there = next_attempt(p, s, offer, s.spend_limit - spent)
    if rules.ask and rules.ask(there):
        return Step(GO, offer), replace(
            rules, hourly_cents=offer.hourly_cents, bill_cents=spent + there.worst_cents
        )
    return Step(STOP, offer, "not agreed to"), rules


def _stand_by(
    p: Prepared,
    instance: Instance,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> None:
    """Until the machine has proved itself; a failed one is noted as gone, one that was stopped on purpose ends the launch."""
    patience = p.rehearsal.boot_s if p.rehearsal else patience_s(p.offer)
    if not p.rehearsal:  # which Ctrl-C ends with all that is in it
        say(
            "You may close this laptop or press Ctrl-C at any time: the run goes on by itself, only fail-over ends"
        )
    try:
        wait_until_ready(api, hub, p.plan, instance, patience, say=say, clock=clock)
    except MachineFailed as e:
        entry = ledger.find(p.plan.run_id)
        if entry.note == STOPPED_BY_USER or ledger.stop_asked(p.plan.run_id):
            raise stopped(p.plan) from None
        ledger.note(structs.replace(entry, gone=True, note=str(e), spent_cents=e.spent_cents), say)
        raise


def _failed(no: OutOfStock | MachineFailed, p: Prepared) -> Attempt:
    """What is kept of an attempt: what its machine cost, or when nobody told, its price since the plan was made."""
    note = f"{p.offer.where}: {no}"
    if isinstance(no, OutOfStock):
        return Attempt(p.plan.attempt, None, 0, note)
    age_s = (now_utc() - parse_time(p.plan.created_at)).total_seconds()
    cents = (
        cost_cents(p.offer.hourly_cents, max(0.0, age_s))
        if no.spent_cents is None
        else no.spent_cents
    )
    return Attempt(p.plan.attempt, no.instance_id, cents, note)


def _the_end(
    no: OutOfStock | MachineFailed,
    offer: Offer,
    step: Step,
    untried: Iterable[Offer],
    rules: FailoverPolicy,
    earlier: tuple[Attempt, ...],
) -> NanolanError:
    """The last no, with what was tried before it, why launch stops, and the command that goes on."""
    hint = next_offer_hint(
        no, offer, [step.offer] if step.offer else untried, rules.words, step.why, rules.command
    )
    if len(earlier) == 1:
        return hint
    return type(hint)(
        f"{len(earlier)} offers tried for {dollars(spent_cents(earlier))}, none of them is rented now. {hint}"
    )
