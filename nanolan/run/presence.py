"""Which instances of the account belong to a run, and whether it is certain that none of them bills.

A listing may lag behind a create for minutes. So "none" is only said where a look could have shown it: the provider gave an id
and knows it no more, the machine had found itself in a listing before, or its date and its limit have passed. All else is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nanolan.errors import ApiProblem, AuthProblem, MayBeBilling, NanolanError, NotFound
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.ledger import Entry
from nanolan.shadeform.client import DASHBOARD
from nanolan.shadeform.models import Instance
from nanolan.times import parse_time

SLACK_S = 60.0  # seconds after a date or limit in which the provider deletes
NOT_ASKED = "Shadeform could not be asked"
NOT_SHOWN = "its create was not answered, and no listing has shown it yet"


@dataclass(frozen=True)
class Presence:
    """What the account shows of a run."""

    machines: tuple[Instance, ...] = ()  # of all its attempts; what bills comes first
    unknown: str = ""  # why there may be one that is not shown, or ""

    @property
    def billing(self) -> tuple[Instance, ...]:
        return tuple(i for i in self.machines if i.billing)

    @property
    def gone(self) -> bool:
        """It is confirmed that no instance of the run bills."""
        return not self.unknown and not self.billing


def of_run(entry: Entry, i: Instance) -> bool:
    """Whether that instance is of this run, of any attempt."""
    return i.id == entry.instance_id or i.is_run(entry.plan.run_id)


def of_attempt(entry: Entry, i: Instance) -> bool:
    """Whether that instance is of the run's newest attempt."""
    return (
        i.id == entry.instance_id or i.is_run(entry.plan.run_id) and i.attempt == entry.plan.attempt
    )


def presence(
    info: Callable[[str], Instance],
    entry: Entry,
    listed: Sequence[Instance] | None,
    now: datetime,
    *,
    told: bool = False,
) -> Presence:
    """What is known of the machines of a run; `listed` None: the listing could not be read. What it does not show is asked for by
    its id (`info`, the account's). `told`: the newest attempt's machine has left a word in the run folder."""
    mine = tuple(
        sorted(
            (i for i in listed or () if of_run(entry, i)),
            key=lambda i: (not i.billing, i.id != entry.instance_id),
        )
    )
    if any(of_attempt(entry, i) for i in mine):
        return Presence(mine)
    try:
        by_id = (info(entry.instance_id),) if entry.instance_id and not entry.gone else ()
    except NotFound:
        by_id = ()
    except (ApiProblem, AuthProblem) as e:
        return Presence(mine, f"{NOT_ASKED}: {e}")
    return Presence(
        (*by_id, *mine), "" if by_id else why_unknown(entry, listed is not None, told, now)
    )


def why_unknown(entry: Entry, listed: bool, told: bool, now: datetime) -> str:
    """Why a run without a listed instance may still have one, or "". Pure."""
    plan = entry.plan
    if not listed:
        return NOT_ASKED
    found_itself = told and plan.self_delete  # in a listing; without a key it cannot look
    return (
        "" if entry.gone or entry.instance_id or found_itself or is_past(plan, now) else NOT_SHOWN
    )


def unresolved(entries: Iterable[Entry], listed: Sequence[Instance], now: datetime) -> list[Entry]:
    """Runs whose create got no clear answer and that are not in the listing: they may have an instance. Pure."""
    return [
        e
        for e in entries
        if why_unknown(e, True, e.receipt is not None, now)
        and not any(of_attempt(e, i) for i in listed)
    ]


def is_past(plan: Plan, now: datetime) -> bool:
    """Whether the provider's date and its spend limit have both passed."""
    spent = parse_time(plan.created_at) + timedelta(
        hours=plan.limit_cents / max(plan.offer.hourly_cents, 1)
    )
    return now > max(parse_time(plan.deadline), spent) + timedelta(seconds=SLACK_S)


def name_of(entry: Entry) -> str:
    """The instance of a run, its price, and the command that stops it."""
    plan = entry.plan
    return (
        f"instance {entry.instance_id or plan.instance_name} ({dollars(plan.offer.hourly_cents)}/h), which deletes itself at "
        f"{dollars(plan.limit_cents)} or {plan.deadline} at most: just stop {plan.run_id} --now"
    )


def unknown_text(entry: Entry) -> str:
    """Of a run whose create is unclear."""
    return f"UNKNOWN whether it has a machine ({NOT_SHOWN}). It may bill: {name_of(entry)}"


def billing_error(problem: NanolanError, entries: Iterable[Entry]) -> NanolanError:
    """The error of a failed read. While a run may have an instance, it names it, its price and the command."""
    if isinstance(problem, MayBeBilling):
        return problem
    left = "; ".join(name_of(e) for e in entries if not e.gone)
    return (
        MayBeBilling(f"{problem}. It may still bill: {left}; or by hand: {DASHBOARD}")
        if left
        else problem
    )
