"""The cost of runs: a receipt's bill by stage and its waste, and the ledger's sums by run, month and phase. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nanolan.money import cost_cents, dollars, usd
from nanolan.plan import Rented
from nanolan.run.ledger import REFUSED, Entry, Seen
from nanolan.run.record import AFTER_REPORT_S, Progress, Receipt
from nanolan.shadeform.models import Instance
from nanolan.times import iso, parse_time

SEEN_EVERY_S = 60.0  # between two records of what the provider shows
REST = "the rest"  # boot, set-up, waits, uploads, and earlier attempts


@dataclass(frozen=True)
class Total:
    """The sum of the known bills in cents, and the numbers of known and unknown bills."""

    cents: int = 0
    known: int = 0
    unknown: int = 0

    def __add__(self, cents: int | None) -> Total:
        if cents is None:
            return Total(self.cents, self.known, self.unknown + 1)
        return Total(self.cents + cents, self.known + 1, self.unknown)

    def text(self) -> str:
        """ "$12.30"; "$12.30 + ?" if some bills are unknown, "?" if all are."""
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
    """The bill: the largest of the provider's, the metered and the spent figure; None if all are unknown."""
    reported = (receipt.provider_cents, receipt.metered_cents, receipt.spent_cents)
    return max((c for c in reported if c is not None and c >= 0), default=None)


def seen_at(
    entry: Entry, instance: Instance | None, cents: int | None, now: datetime
) -> Seen | None:
    """The newest sight of an attempt's instance: what it costs by the provider, or `cents` if that is more. The older one if it is
    fresh, or the instance does not bill. If it vanishes, its box may not have reported what it has cost."""
    old = entry.seen
    if instance is None or not instance.billing:
        return old
    if old and (now - parse_time(old.at)).total_seconds() < SEEN_EVERY_S:
        return old
    price = instance.hourly_cents or entry.plan.offer.hourly_cents
    return Seen(max(cents or 0, instance.cost_now_cents() or 0), price, iso(now))


def seen_cents(entry: Entry, now: datetime) -> int:
    """The bill by the last sight of the instance: until now, at most two heartbeats after it. 0 without one."""
    seen = entry.seen
    if seen is None:
        return 0
    since_s = max(0.0, (now - parse_time(seen.at)).total_seconds())
    return seen.cents + cost_cents(seen.hourly_cents, min(since_s, AFTER_REPORT_S + SEEN_EVERY_S))


def newest_cents(
    entry: Entry,
    receipt: Receipt | None = None,
    progress: Progress | None = None,
    instance: Instance | None = None,
) -> int | None:
    """What the newest attempt has cost: the largest figure of the ledger, the records and the provider; None if none is known.

    A deleted instance has no age any more: of it only the provider's own figure counts.
    """
    figures = [entry.spent_cents, progress.spent_cents if progress else None]
    figures += [paid_cents(r) for r in (receipt, entry.receipt) if r]
    if instance:
        figures.append(instance.cost_now_cents() if instance.billing else instance.cost_cents)
    return max((c for c in figures if c is not None and c >= 0), default=None)


def split(receipt: Receipt, hourly_cents: int) -> dict[str, int]:
    """Cents by stage, in the order of the run; without stages that took no time."""
    return {stage: cost_cents(hourly_cents, s) for stage, s in receipt.stages.items() if s > 0}


def waste(receipt: Receipt) -> float | None:
    """The share of the time that neither trained nor evaluated a proven phase; None if the stages do not add up."""
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


def attempts(entry: Entry) -> list[int | None]:
    """The bill of each instance of the run; a refused launch had none, and one that waits has none yet."""
    earlier = [a.spent_cents for a in entry.earlier]
    none = entry.receipt is None and entry.instance_id is None and entry.gone
    if none and (entry.waiting or entry.note.startswith(REFUSED)):
        return earlier
    return [*earlier, newest_cents(entry)]


def run_cost(entry: Entry) -> Total:
    """The total over all its instances."""
    return sum_of(attempts(entry))


def sum_of(bills: Iterable[int | None]) -> Total:
    total = Total()
    for cents in bills:
        total += cents
    return total


def by_phase(entry: Entry) -> dict[str, int | None]:
    """The cost of each phase's training and evaluation, and the rest of the bill; None where unknown."""
    bills = attempts(entry)
    if not bills:
        return {}
    known: Mapping[str, int] = entry.receipt.phase_cents if entry.receipt else {}
    phases = {
        p: c if (c := known.get(p)) is not None and c >= 0 else None for p in entry.plan.phases
    }
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
        lines.append(
            f"{e.plan.run_id:<9} {e.plan.created_at[:10]:<10} {'+'.join(e.plan.phases):<12} "
            f"{_machine_text(e.plan.offer):<20} {len(attempts(e)):>5} {run_cost(e).text():>19}"
        )
    lines += ["", f"{'month':<60} {'cost':>19}"]
    lines += [f"{month:<60} {_all(runs).text():>19}" for month, runs in by_month(entries).items()]
    lines += ["", f"{'phase (training and evaluation)':<60} {'cost':>19}"]
    lines += [f"{phase:<60} {cost.text():>19}" for phase, cost in phase_sums(entries).items()]
    everything = _all(entries)
    lines += ["", f"{'all':<60} {everything.text():>19}"]
    return (
        [*lines, "? is a bill that is not known yet; check: just status RUN"]
        if everything.unknown
        else lines
    )


def _machine_text(offer: Rented) -> str:
    """GPUs and provider in 20 characters; spot is never cut off."""
    end = " spot" if offer.spot else ""
    return f"{offer.num_gpus}x {offer.gpu} {offer.cloud}"[: 20 - len(end)] + end


def to_dict(entries: list[Entry]) -> dict[str, Any]:
    """For --json: money in dollars as text, null if unknown; `unknown` counts the missing bills."""
    return {
        "schema_version": 1,
        "all": _all(entries).to_dict(),
        "runs": [_run_dict(e) for e in entries],
        "months": {month: _all(runs).to_dict() for month, runs in by_month(entries).items()},
        "phases": {phase: cost.to_dict() for phase, cost in phase_sums(entries).items()},
    }


def _run_dict(entry: Entry) -> dict[str, Any]:
    return {
        "run_id": entry.plan.run_id,
        "launched": entry.plan.created_at,
        "phases": list(entry.plan.phases),
        "tries": len(attempts(entry)),
        "spot": entry.plan.offer.spot,
        "predicted_usd": usd(entry.plan.predicted.likely_cents if entry.plan.predicted else None),
        "by_phase_usd": {p: usd(c) for p, c in by_phase(entry).items()},
        **run_cost(entry).to_dict(),
    }


def _all(entries: Iterable[Entry]) -> Total:
    return sum_of(bill for e in entries for bill in attempts(e))
