"""What runs cost: one receipt's bill by stage and its waste, and the ledger's sums by run, month and phase. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nanolan.money import cost_cents, dollars, usd
from nanolan.run.ledger import REFUSED, Entry
from nanolan.run.record import Receipt

REST = "the rest"  # boot, set-up, waits, uploads, and earlier machines


@dataclass(frozen=True)
class Total:
    """Cents that are known, and whether some of the bills are not."""

    cents: int = 0
    known: int = 0
    unknown: int = 0

    def __add__(self, cents: int | None) -> Total:
        if cents is None:
            return Total(self.cents, self.known, self.unknown + 1)
        return Total(self.cents + cents, self.known + 1, self.unknown)

    def text(self) -> str:
        """ "$12.30", "$12.30 + ?" when that is not all of it, "?" when nothing is known."""
        if self.unknown:
            return f"{dollars(self.cents)} + ?" if self.known else "?"
        return dollars(self.cents)

    def to_dict(self) -> dict[str, Any]:
        return {
            "usd": f"{self.cents / 100:.2f}" if self.known or not self.unknown else None,
            "unknown": self.unknown,
        }


# ------------------------------------------------------------------ one run
def paid_cents(receipt: Receipt) -> int | None:
    """The bill: the largest of what was metered, told by the provider and spent; None when nothing of it is known."""
    told = (receipt.provider_cents, receipt.metered_cents, receipt.spent_cents)
    return max((c for c in told if c is not None and c >= 0), default=None)


def split(receipt: Receipt, hourly_cents: int) -> dict[str, int]:
    """Cents by stage, in the order of the run; stages that took no time are left out."""
    return {stage: cost_cents(hourly_cents, s) for stage, s in receipt.stages.items() if s > 0}


def waste(receipt: Receipt) -> float | None:
    """The share of the time that neither trained nor evaluated a phase that was proven; None when the stages do not tell."""
    seconds = (
        sum(s for s in receipt.stages.values() if s > 0)
        if receipt.seconds is None
        else receipt.seconds
    )
    used = sum(
        max(0, receipt.stages.get(f"{p}.{part}", 0))
        for p, r in receipt.phases.items()
        if r.state == "proven"
        for part in ("train", "evaluate")
    )
    return 1 - used / seconds if receipt.stages and 0 < seconds >= used else None


def attempts(e: Entry) -> list[int | None]:
    """The bill of each machine that the run had; a launch that was refused had none."""
    earlier = [a.spent_cents for a in e.earlier]
    if e.receipt is None and e.instance_id is None and e.gone and e.note.startswith(REFUSED):
        return earlier
    return [*earlier, paid_cents(e.receipt) if e.receipt else e.spent_cents]


def run_cost(e: Entry) -> Total:
    """All its machines together."""
    return sum_of(attempts(e))


def sum_of(bills: Iterable[int | None]) -> Total:
    total = Total()
    for cents in bills:
        total += cents
    return total


def by_phase(e: Entry) -> dict[str, int | None]:
    """What each phase's training and evaluation cost, and the rest of the bill; None where that is not known."""
    bills = attempts(e)
    if not bills:
        return {}
    told: Mapping[str, int] = e.receipt.phase_cents if e.receipt else {}
    phases = {p: c if (c := told.get(p)) is not None and c >= 0 else None for p in e.plan.phases}
    rest = sum(b or 0 for b in bills) - sum(c or 0 for c in phases.values())
    return {**phases, REST: rest if None not in (*bills, *phases.values()) and rest >= 0 else None}


# ------------------------------------------------------------------ the ledger
def by_month(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Runs by the month (UTC) in which they were launched, newest first."""
    months: defaultdict[str, list[Entry]] = defaultdict(list)
    for e in entries:
        months[e.plan.created_at[:7]].append(e)
    return dict(sorted(months.items(), reverse=True))


def phase_sums(entries: Iterable[Entry]) -> dict[str, Total]:
    sums: defaultdict[str, Total] = defaultdict(Total)
    for e in entries:
        for phase, cents in by_phase(e).items():
            sums[phase] += cents
    rest = sums.pop(REST, None)
    return {**sums, **({REST: rest} if rest else {})}


def render(entries: list[Entry]) -> list[str]:
    """The sums as text lines of at most 80 columns."""
    if not entries:
        return ["No run yet. Start one: just launch phase=sft   (or, for nothing: just rehearse)"]
    lines = [
        f"{'run':<9} {'launched':<10} {'phases':<12} {'machine':<20} {'tries':>5} {'cost':>19}"
    ]
    for e in entries:
        o = e.plan.offer
        lines.append(
            f"{e.plan.run_id:<9} {e.plan.created_at[:10]:<10} {'+'.join(e.plan.phases):<12} "
            f"{f'{o.num_gpus}x {o.gpu} {o.cloud}'[:20]:<20} {len(attempts(e)):>5} {run_cost(e).text():>19}"
        )
    lines += ["", f"{'month':<60} {'cost':>19}"]
    lines += [f"{month:<60} {_all(runs).text():>19}" for month, runs in by_month(entries).items()]
    lines += ["", f"{'phase (training and evaluation)':<60} {'cost':>19}"]
    lines += [f"{phase:<60} {cost.text():>19}" for phase, cost in phase_sums(entries).items()]
    everything = _all(entries)
    lines += ["", f"{'all':<60} {everything.text():>19}"]
    return (
        [*lines, "? is a bill that nobody has seen yet; look: just status RUN"]
        if everything.unknown
        else lines
    )


def to_dict(entries: list[Entry]) -> dict[str, Any]:
    """For --json: money in dollars as text, what is not known at all is null, `unknown` counts the bills that are missing."""
    return {
        "schema_version": 1,
        "all": _all(entries).to_dict(),
        "runs": [_run_dict(e) for e in entries],
        "months": {month: _all(runs).to_dict() for month, runs in by_month(entries).items()},
        "phases": {phase: cost.to_dict() for phase, cost in phase_sums(entries).items()},
    }


def _run_dict(e: Entry) -> dict[str, Any]:
    return {
        "run_id": e.plan.run_id,
        "launched": e.plan.created_at,
        "phases": list(e.plan.phases),
        "tries": len(attempts(e)),
        "predicted_usd": usd(e.plan.predicted.likely_cents if e.plan.predicted else None),
        "by_phase_usd": {p: usd(c) for p, c in by_phase(e).items()},
        **run_cost(e).to_dict(),
    }


def _all(entries: Iterable[Entry]) -> Total:
    return sum_of(bill for e in entries for bill in attempts(e))
