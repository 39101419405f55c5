"""Decides the state of a run from the instance and its records. Pure."""

from __future__ import annotations

from nanolan.run.ledger import STOPPED_BY_USER, Entry
from nanolan.run.presence import NOT_ASKED, unknown_text
from nanolan.run.record import (
    BOOTING,
    FAILED,
    LOST,
    PENDING,
    STOPPED,
    STOPPING,
    UNKNOWN,
    Progress,
    Receipt,
)
from nanolan.shadeform.models import Instance

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
        return (STOPPED if entry.note == STOPPED_BY_USER else FAILED), entry.note
    # a run with progress had an instance
    if instance is None and age_s < SETTLE_S and not entry.gone and progress is None:
        return PENDING, "not listed yet"
    if unknown:
        return UNKNOWN, unknown_text(entry)
    if entry.instance_id is None:
        return LOST, "no instance was ever seen"
    return (
        LOST,
        "the instance is gone and left no receipt: a limit of the provider, or it was deleted by hand",
    )


def _leaving(entry: Entry, instance: Instance | None, unknown: str) -> tuple[str, str] | None:
    """The state of a run with a receipt, until its instance is confirmed deleted."""
    if instance and instance.billing:
        return STOPPING, LEAVING[entry.plan.self_delete]
    return (UNKNOWN, f"it left its receipt; {unknown_text(entry)}") if unknown else None


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
