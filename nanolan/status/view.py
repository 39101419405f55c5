"""What is known of a run and of the account: the result of a look at ledger, account and Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nanolan.errors import MayBeBilling, NanolanError, RunFailed
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.ledger import PREEMPTED, Entry, was_preempted
from nanolan.run.presence import unknown_text
from nanolan.run.record import (
    ENDED,
    FAILED,
    LOST,
    STOPPED,
    UNKNOWN,
    PhaseReport,
    Progress,
    Receipt,
    error_of,
)
from nanolan.run.remaining import SavedWork
from nanolan.shadeform.models import Instance
from nanolan.shadeform.terms import changed_terms, with_current_terms
from nanolan.times import now_utc

SHORT = (FAILED, STOPPED, LOST)  # ended before all phases were proven


@dataclass(frozen=True)
class RunView:
    """The current state of one run."""

    entry: Entry
    state: str
    reason: str = ""
    instance: Instance | None = None
    progress: Progress | None = None
    receipt: Receipt | None = None
    phases: dict[str, PhaseReport] = field(default_factory=dict)
    spent_cents: int | None = None
    log_tail: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # look-ups that failed: values shown may be old or missing
    saved: SavedWork | None = None  # of a run that ended short: the state to resume from
    unknown: str = ""  # why it may have a machine though `instance` is None
    terms_seen: bool = False  # `instance` has the provider's current price and limits

    def changed(self) -> str:
        """What the provider changed since it was agreed to, or ""."""
        return (
            changed_terms(self.instance, self.entry.plan, now_utc())
            if self.instance and self.terms_seen
            else ""
        )

    def terms(self) -> Plan:
        """The plan with the price and the limits that hold now."""
        return with_current_terms(self.entry.plan, self.instance)

    @property
    def ended(self) -> bool:
        """The run has a verdict. An instance in error may still bill: see `verdict`."""
        return self.state in ENDED and not self.problems

    @property
    def preempted(self) -> bool:
        """Its spot instance was taken away before every phase was proven."""
        if self.receipt:
            return self.receipt.reason == PREEMPTED
        return self.state == LOST and was_preempted(self.reason)

    @property
    def resumable(self) -> bool:
        """It ended short, and a proven state exists from which a new machine can continue."""
        done = [r.state for r in self.phases.values()].count("proven")
        over = self.ended and self.state in SHORT and not (self.instance and self.instance.billing)
        return over and (self.saved is not None or 0 < done < len(self.phases))

    def verdict(self) -> NanolanError | None:
        """The error whose exit code a watch ends with; None for a success."""
        if self.instance and self.instance.billing:
            return MayBeBilling(
                f"instance {self.instance.id} ({dollars(self.instance.hourly_cents)}/h) still bills; "
                f"stop it: just stop {self.entry.plan.run_id} --now"
            )
        if self.receipt:
            return error_of(self.receipt)
        return RunFailed(f"run {self.entry.plan.run_id} {self.state}: {self.reason}")


@dataclass(frozen=True)
class Overview:
    """All runs of this laptop, and what else bills on the account."""

    runs: tuple[RunView, ...]
    strays: tuple[Instance, ...]  # made by this laptop, but not the current machine of a run
    others: tuple[Instance, ...]  # of other owners: shown, never changed
    problems: tuple[str, ...]
    unasked: tuple[Instance, ...] = ()  # of runs in the ledger that were not requested
    why: Mapping[str, str] = field(default_factory=dict)  # id of a stray -> description
    gaps: tuple[str, ...] = ()  # records that could not be read; all others are shown

    def unresolved(self) -> MayBeBilling | None:
        """Unattended machines that bill or may bill, each with its price and the command that stops it."""
        strays = [
            f"instance {i.id} ({dollars(i.hourly_cents)}/h) bills ({self.why.get(i.id, 'not in the ledger')}): "
            f"just stop {i.id} --now"
            for i in self.strays
        ]
        unknown = [
            f"run {v.entry.plan.run_id}: {unknown_text(v.entry, v.unknown)}"
            for v in self.runs
            if v.state == UNKNOWN
        ]
        return MayBeBilling("; ".join([*strays, *unknown])) if strays or unknown else None
