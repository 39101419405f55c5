"""The data of a report on one run, and its texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from nanolan.checkpoint.evaluation import PhaseSamples
from nanolan.cost.spending import Total, paid_cents, sum_of
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.report.curves import Metrics
from nanolan.run.environment import Environment
from nanolan.run.ledger import Attempt
from nanolan.run.record import ENDED, SUCCEEDED, PhaseReport, Receipt

GO_ON = "Go on: "  # in a receipt's message
UNSAVED = re.compile(r"NOT saved: (.*?)(?:\. Go on|$)")


@dataclass(frozen=True)
class ReportData:
    """One run. What is not known is None or empty, and left out of the report or named in it as missing."""

    plan: Plan
    state: str
    reason: str  # in words
    made: str  # time of the report, ISO-8601 UTC
    phases: Mapping[str, PhaseReport] = field(default_factory=dict)
    receipt: Receipt | None = None
    spent_cents: int | None = None  # by the ledger, the provider and the heartbeat
    metrics: Metrics = Metrics()
    samples: tuple[PhaseSamples, ...] = ()
    environment: Environment | None = None
    earlier: tuple[Attempt, ...] = ()  # machines that the run had before this one
    saved: str = ""  # what a new machine could go on from
    go_on: str = ""  # the command that does
    lost: str = ""  # what was trained and is not saved
    problems: tuple[str, ...] = ()  # what could not be looked up

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def cents(self) -> int | None:
        """The bill of this machine, so far or in all."""
        known = (self.spent_cents, paid_cents(self.receipt) if self.receipt else None)
        return max((c for c in known if c is not None), default=None)

    @property
    def headline(self) -> str:
        """The verdict with its money: "Succeeded: $24.10 in 0:43:10", "Stopped (spend limit): ..."."""
        reason = (
            f" ({self.receipt.reason.replace('_', ' ')})"
            if self.receipt and self.receipt.reason
            else ""
        )
        seconds = self.receipt.seconds if self.receipt else None
        took = f" in {timedelta(seconds=max(0, seconds))}" if seconds is not None else ""
        bill = "cost not known" if self.cents is None else dollars(self.cents)
        if self.earlier:
            bill = (
                f"{self.whole.text()} with {len(self.earlier) + 1} instances, the last one {bill}"
            )
        return f"{self.state.capitalize()}{reason}: {bill}{took}{'' if self.ended else ' so far'}{self._before}"

    @property
    def whole(self) -> Total:
        """The bill of every instance of the run."""
        return sum_of([*(a.spent_cents for a in self.earlier), self.cents])

    @property
    def _before(self) -> str:
        """A note that this machine's bill is not the bill of the whole run."""
        return ", this machine alone" if self.plan.attempt > 1 and not self.earlier else ""

    @property
    def why(self) -> str:
        """The reason without what has a place of its own: the command, and what was lost."""
        text = self.reason.partition(GO_ON)[0].strip() if self.go_on else self.reason
        text = text.replace(f"NOT saved: {self.lost}", "").strip() if self.lost else text
        return "" if self.state == SUCCEEDED and not text else text

    @property
    def title(self) -> str:
        return f"{self.plan.run_name} {'+'.join(self.plan.phases)}: {self.state}"


def report_data_of(
    plan: Plan,
    receipt: Receipt,
    made: str,
    metrics: Metrics,
    samples: tuple[PhaseSamples, ...],
    environment: Environment | None,
) -> ReportData:
    """The report data that the box has at its end."""
    return ReportData(
        plan,
        receipt.verdict,
        receipt.message or receipt.reason,
        made,
        receipt.phases,
        receipt,
        metrics=metrics,
        samples=samples,
        environment=environment,
        go_on=receipt.message.partition(GO_ON)[2].strip(),
        lost=m[1] if (m := UNSAVED.search(receipt.message)) else "",
    )
