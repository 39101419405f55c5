"""Which instances of the account belong to a run, and whether it is certain that none of them bills.

A listing may lag behind a create by minutes. So "none" is certain only if the provider gave an id and no longer knows it, if the
instance had found itself in a listing before, or if its date and limit have passed. Otherwise it is unknown; also while
a box without a receipt still reports to the Hub: the key may be of another account, or an outage may answer with empty lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nanolan.errors import ApiProblem, AuthProblem, MayBeBilling, NanolanError, NotFound
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.jobs import NAMES, cancel_command, job_name, machines_of, queue_command
from nanolan.run.ledger import Entry
from nanolan.run.record import AFTER_REPORT_S, SILENT_S
from nanolan.settings.values import is_loopback
from nanolan.shadeform.client import DASHBOARD
from nanolan.shadeform.models import Instance, attempt_tag, owner_tag, run_tag
from nanolan.times import parse_time

SLACK_S = 60.0  # time that the provider may take to delete after a date or limit
NOT_ASKED = "Shadeform could not be asked"
REPORTS = "its box reported to the Hub"
NOT_THIS_ACCOUNT = "but Shadeform does not show its instance: SHADEFORM_API_KEY is of another account, or it ended just now"
QUIET_S = AFTER_REPORT_S  # without a report, before an unlisted instance counts as gone
QUIET_LOCAL_S = 20.0  # on loopback
NOT_SHOWN = "its create was not answered, and no listing has shown it yet"


@dataclass(frozen=True)
class Presence:
    """The instances of a run on the account."""

    machines: tuple[Instance, ...] = ()  # of all its attempts; billing ones first
    unknown: str = ""  # why there may be another one that is not listed, or ""

    @property
    def billing(self) -> tuple[Instance, ...]:
        return tuple(i for i in self.machines if i.billing)

    @property
    def gone(self) -> bool:
        """It is confirmed that no instance of the run bills."""
        return not self.unknown and not self.billing


def of_run(entry: Entry, instance: Instance) -> bool:
    """Whether the instance belongs to any attempt of this run."""
    return instance.is_run(entry.plan.run_id) or _has_its_id(entry, instance)


def _has_its_id(entry: Entry, instance: Instance) -> bool:
    """Whether it has the id of the run's instance, and neither tags nor name say that it is another run's: an id may be reused."""
    return instance.id == entry.instance_id and instance.run_id in (None, entry.plan.run_id)


def of_attempt(entry: Entry, instance: Instance) -> bool:
    """Whether the instance belongs to the run's newest attempt."""
    same_attempt = instance.attempt == entry.plan.attempt
    return _has_its_id(entry, instance) or instance.is_run(entry.plan.run_id) and same_attempt


def with_tags(instance: Instance, entries: Iterable[Entry]) -> Instance:
    """The instance with the tags of the run whose ledger entry has its id, if the provider lost its tags and its name."""
    plan = next((e.plan for e in entries if e.instance_id == instance.id), None)
    if instance.run_id or plan is None:
        return instance
    tags = run_tag(plan.run_id), attempt_tag(plan.attempt), owner_tag(plan.owner)
    return replace(instance, tags=(*instance.tags, *tags))


def presence(
    info: Callable[[str], Instance],
    entry: Entry,
    listed: Sequence[Instance] | None,
    now: datetime,
    *,
    reported: bool = False,
    last_report: datetime | None = None,
) -> Presence:
    """The instances of a run. `listed` None: the listing could not be read. `info` asks the account for an instance id that is not
    listed. `reported`: the newest attempt's box has written to the run folder; `last_report`: when, unless it left a receipt."""
    if entry.plan.is_job:
        return Presence((), "" if entry.gone else machines_of(entry.plan))
    mine = tuple(
        sorted(
            (i for i in listed or () if of_run(entry, i)),
            key=lambda i: (not i.billing, i.id != entry.instance_id),
        )
    )
    if any(of_attempt(entry, i) for i in mine):
        return Presence(mine)
    try:
        known = (info(entry.instance_id),) if entry.instance_id and not entry.gone else ()
        by_id = tuple(i for i in known if of_run(entry, i))
    except NotFound:
        by_id = ()
    except (ApiProblem, AuthProblem) as e:
        return Presence(mine, f"{NOT_ASKED}: {e}")
    if by_id:
        return Presence((*by_id, *mine))
    return Presence(mine, why_unknown(entry, listed is not None, reported, now, last_report))


def why_unknown(
    entry: Entry, listed: bool, reported: bool, now: datetime, last_report: datetime | None = None
) -> str:
    """Why a run without a listed instance may still have one, or "". Pure."""
    plan = entry.plan
    if not listed:
        return NOT_ASKED
    if last_report and not entry.gone and (reports := still_reports(plan, last_report, now)):
        return reports
    found_itself = reported and plan.holds_key  # in a listing, which it reads with its key
    return (
        "" if entry.gone or entry.instance_id or found_itself or is_past(plan, now) else NOT_SHOWN
    )


def quiet_s(plan: Plan) -> float:
    """Seconds without a report after which an instance that is listed nowhere is gone."""
    return QUIET_LOCAL_S if is_loopback(plan.hf_endpoint) else QUIET_S


def still_reports(plan: Plan, last_report: datetime, now: datetime) -> str:
    """That the box of an unlisted instance reported within two heartbeats, or "". A time ahead of ours tells nothing."""
    silent_s = (now - last_report).total_seconds()
    if not -SLACK_S <= silent_s < quiet_s(plan):
        return ""
    return f"{REPORTS} {max(0.0, silent_s):.0f} s ago, {NOT_THIS_ACCOUNT}"


def unresolved(entries: Iterable[Entry], listed: Sequence[Instance], now: datetime) -> list[Entry]:
    """Runs whose create got no clear answer and that are not in the listing: they may have an instance. Pure."""
    return [
        e
        for e in entries
        if not e.plan.is_job
        and why_unknown(e, True, e.receipt is not None, now)
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
    if plan.is_job:
        job = f"job {job_name(plan)} of {NAMES[plan.platform]}"
        end = cancel_command(plan, entry.instance_id)
        return f"{job} ({dollars(plan.offer.hourly_cents)}/h): {end}"
    return (
        f"instance {entry.instance_id or plan.instance_name} ({dollars(plan.offer.hourly_cents)}/h), which deletes itself at "
        f"{dollars(plan.limit_cents)} or {plan.deadline} at most: just stop {plan.run_id} --now"
    )


def unknown_text(entry: Entry, why: str = "") -> str:
    """The message about a run that may have an instance which is not listed, or whose job was not heard of for long."""
    if entry.plan.is_job:
        return (
            f"NOT HEARD OF for more than {SILENT_S // 60} minutes: its machine may be lost and another one wanted, or it hangs "
            f"({queue_command(entry.plan)}). It may bill: {name_of(entry)}; then: just stop {entry.plan.run_id} --cancelled"
        )
    return f"UNKNOWN whether it has an instance ({why or NOT_SHOWN}). It may bill: {name_of(entry)}"


def billing_error(problem: NanolanError, entries: Iterable[Entry]) -> NanolanError:
    """The error to raise after a failed read: if a run may have an instance, it names it, its price and the command."""
    if isinstance(problem, MayBeBilling):
        return problem
    left = "; ".join(name_of(e) for e in entries if not e.gone)
    return (
        MayBeBilling(f"{problem}. It may still bill: {left}; or by hand: {DASHBOARD}")
        if left
        else problem
    )
