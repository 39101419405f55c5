"""Decides the state of a run from the instance and its records. Pure."""

from __future__ import annotations

from datetime import timedelta

from nanolan.money import cost_cents
from nanolan.plan import HF_JOB, Plan
from nanolan.run.jobs import machines_of
from nanolan.run.ledger import PREEMPTED, STOPPED_BY_USER, Entry, Waiting, was_preempted
from nanolan.run.presence import NOT_ASKED, unknown_text
from nanolan.run.record import (
    AFTER_REPORT_S,
    BOOTING,
    FAILED,
    LOST,
    PENDING,
    SILENT_S,
    STOPPED,
    STOPPING,
    UNKNOWN,
    Progress,
    Receipt,
)
from nanolan.shadeform.models import Instance
from nanolan.times import local_text, parse_time

SETTLE_S = 120  # a new instance may be missing from a listing for this long
LEAVING = {
    True: "deleting the instance",
    False: "done; the instance waits to be deleted: just guard, or just stop",
}


def decide_state(
    entry: Entry,
    instance: Instance | None,
    unknown: str,
    progress: Progress | None,
    receipt: Receipt | None,
    age_s: float,
) -> tuple[str, str]:
    """(state, reason) of a run; `unknown` says why it may have an instance that is not listed, or is ""."""
    if entry.plan.is_job:
        return _of_job(entry, progress, receipt, age_s)
    blind = unknown.startswith(NOT_ASKED)
    if receipt:
        return _leaving(entry, instance, "" if blind else unknown) or (
            receipt.verdict,
            receipt.reason,
        )
    if instance and instance.billing:
        return _running(entry, instance, progress)
    if blind:
        return (progress.state if progress else PENDING), NOT_ASKED
    if entry.gone and entry.note:
        return state_of_note(entry.note), entry.note
    # a run with progress had an instance
    if instance is None and age_s < SETTLE_S and not entry.gone and progress is None:
        return PENDING, "not listed yet"
    if unknown:
        return UNKNOWN, unknown_text(entry, unknown)
    if taken := _taken_away(entry, instance, progress, age_s):
        return LOST, taken
    if entry.instance_id is None:
        return LOST, "no instance was ever seen"
    return (
        LOST,
        "the instance is gone and left no receipt: a limit of the provider, or it was deleted by hand",
    )


def _of_job(
    entry: Entry, progress: Progress | None, receipt: Receipt | None, age_s: float
) -> tuple[str, str]:
    """The state of a run whose machines somebody else rents: only its records tell it."""
    plan = entry.plan
    if receipt:
        return receipt.verdict, receipt.reason
    if entry.gone:
        return state_of_note(entry.note), entry.note
    if progress is None:
        return PENDING, f"no machine of attempt {plan.attempt} has reported; {machines_of(plan)}"
    born = parse_time(plan.created_at)
    silent_s = age_s - (parse_time(progress.updated) - born).total_seconds()
    if silent_s <= SILENT_S:
        return progress.state, progress.message
    life_s = (parse_time(plan.deadline) - born).total_seconds()
    if plan.platform == HF_JOB and age_s > life_s + SILENT_S:
        return LOST, "Hugging Face has ended it by its timeout, and it left no receipt"
    return UNKNOWN, unknown_text(entry)


def waiting_text(w: Waiting) -> str:
    """What a launch waits for, as of its newest look."""
    return f"waiting for an offer until {local_text(w.until)}, last look {local_text(w.looked)}: {w.seen}"


def state_of_note(note: str) -> str:
    """The state of a run without a receipt whose instance is confirmed deleted, by its note in the ledger."""
    if note == STOPPED_BY_USER:
        return STOPPED
    return LOST if was_preempted(note) else FAILED


def _taken_away(
    entry: Entry, instance: Instance | None, progress: Progress | None, age_s: float
) -> str:
    """That the provider took this spot instance away, or "". One that is gone without a receipt counts as taken away unless a
    limit may have ended it."""
    plan = entry.plan
    if was_preempted(entry.note):
        return entry.note
    if not plan.offer.spot or not (instance or entry.instance_id):
        return ""
    if instance and PREEMPTED in instance.details.lower():
        return f"{PREEMPTED}: the provider took the spot instance away"
    if _may_have_reached_a_limit(plan, progress, age_s):
        return ""
    return f"{PREEMPTED}: the spot instance is gone and left no receipt (deleted by hand, it looks the same)"


def _may_have_reached_a_limit(plan: Plan, progress: Progress | None, age_s: float) -> bool:
    """Whether an instance that is gone can have lived until its date or limit; its last report bounds its life."""
    born = parse_time(plan.created_at)
    lived_s, told = age_s, 0
    if progress:
        last = parse_time(progress.updated) + timedelta(seconds=AFTER_REPORT_S)
        lived_s, told = min(age_s, (last - born).total_seconds()), progress.spent_cents or 0
    cents = max(told, cost_cents(plan.offer.hourly_cents, max(0.0, lived_s)))
    return (
        cents >= plan.limit_cents or lived_s >= (parse_time(plan.deadline) - born).total_seconds()
    )


def _leaving(entry: Entry, instance: Instance | None, unknown: str) -> tuple[str, str] | None:
    """The state of a run with a receipt, until its instance is confirmed deleted."""
    if instance and instance.billing:
        return STOPPING, LEAVING[entry.plan.self_delete]
    if not unknown:
        return None
    return UNKNOWN, f"it left its receipt; {unknown_text(entry, unknown)}"


def _running(entry: Entry, instance: Instance, progress: Progress | None) -> tuple[str, str]:
    """The state of a run whose instance bills."""
    if instance.status == "error":
        return (
            FAILED,
            f"the provider says: {instance.details or 'error'}; stop it: just stop {entry.plan.run_id} --now",
        )
    if instance.status != "active":
        return PENDING, instance.details or instance.status
    return (progress.state, progress.message) if progress else (BOOTING, "")
