"""What a launch may do after a rejection, by what the user agreed to. Pure.

A rejection is a stock-out, or an instance that is confirmed deleted. An empty wallet, a refused key and an unclear answer
end the launch instead: another create would not help, or might rent twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nanolan.errors import CheckUnavailable, MachineFailed, NotRented, OutOfStock
from nanolan.launch.prepare import OfferEstimate, Prepared
from nanolan.launch.wait import OfferWait
from nanolan.money import cost_cents, dollars
from nanolan.run.ledger import Attempt
from nanolan.shadeform.offers import Offer
from nanolan.times import local_text, now_utc, parse_time

GAVE_UP = re.compile(
    r"boot failed: the machine gave up: (.+?)\. It is deleted"
)  # in the message of MachineFailed
GO, ASK, STOP = "go", "ask", "stop"
# Nothing is rented after one of these, for certain; the last two end a launch that does not wait
REJECTIONS = (OutOfStock, MachineFailed, NotRented, CheckUnavailable)
Rejection = OutOfStock | MachineFailed | NotRented | CheckUnavailable


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
    offer_wait: OfferWait | None = None  # waits for an offer, first and after a create was refused
    stops_seen: str | None = (
        None  # mark of the request to stop on the Hub before the user was asked
    )


@dataclass(frozen=True)
class Step:
    """What to do after a rejection: rent the offer, ask about it, or stop for the reason `why`."""

    action: str
    offer: Offer | None = None
    why: str = ""


def goes_on_waiting(rejection: Rejection, step: Step) -> bool:
    """Whether a launch that waits looks at the market again: nothing is left, or a service failed; never after an instance."""
    if isinstance(rejection, MachineFailed):
        return False
    return step.action == STOP or not isinstance(rejection, OutOfStock)


def same_gpus(offer: Offer, chosen: Offer) -> bool:
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
    waits = policy.offer_wait
    failed = (
        [a for a in earlier if a.instance_id] if waits else earlier
    )  # stock-outs are waited for
    if len(failed) > policy.others:
        return Step(STOP, left[0], f"failover={policy.others}")
    if waits and waits.over:
        return Step(STOP, left[0], f"the wait ended at {local_text(waits.rule.until)}")
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


def failed_attempt(rejection: Rejection, prepared: Prepared) -> Attempt:
    """The record of a failed attempt; an unknown cost is the price since the plan was made."""
    note = f"{prepared.offer.where}: {rejection}"
    spot_cents = prepared.offer.hourly_cents if prepared.offer.spot else 0
    if not isinstance(rejection, MachineFailed):
        return Attempt(prepared.plan.attempt, None, 0, note, spot_cents)
    age_s = (now_utc() - parse_time(prepared.plan.created_at)).total_seconds()
    cents = (
        cost_cents(prepared.offer.hourly_cents, max(0.0, age_s))
        if rejection.spent_cents is None
        else rejection.spent_cents
    )
    return Attempt(prepared.plan.attempt, rejection.instance_id, cents, note, spot_cents)
