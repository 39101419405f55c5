"""What being taken away costs a spot run in expectation: how often it happens, and what is then done again. Pure.

Nobody publishes how often a provider takes spot instances back. One preemption in `PREEMPTED_EVERY_H` hours is assumed, and
weighs as much as one that was seen: the hours and preemptions of the ledger's own spot instances are added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nanolan.cost.ranges import Range
from nanolan.run.ledger import Attempt, Entry, was_preempted

PREEMPTED_EVERY_H = 6.0  # assumed
MOST_REPEATED = 0.9  # of the time; above that a run hardly ends
NOTE = (
    f"spot: Run includes what is repeated after preemptions, assumed once in {PREEMPTED_EVERY_H:g} h until your own "
    "spot runs say otherwise"
)


@dataclass(frozen=True)
class Preemptions:
    """How often spot instances are taken away."""

    every_h: float = PREEMPTED_EVERY_H
    seen_h: float = 0.0  # hours of our own spot instances

    @property
    def text(self) -> str:
        source = "with your own runs" if self.seen_h else "assumed"
        return f"spot, a preemption every {self.every_h:.1f} h {source}"


def preemptions(entries: Iterable[Entry]) -> Preemptions:
    """The rate by the ledger, with the assumption as one more preemption."""
    times = [t for entry in entries for t in _spot_times(entry)]
    seen_h = sum(hours for hours, _ in times)
    taken = sum(preempted for _, preempted in times)
    return Preemptions((PREEMPTED_EVERY_H + seen_h) / (1 + taken), seen_h)


def _spot_times(entry: Entry) -> Iterator[tuple[float, bool]]:
    """(hours, whether it was taken away) of each spot instance of a run whose cost is known."""
    newest = Attempt(0, None, entry.spent_cents, entry.note, spot_cents(entry))
    if entry.receipt and entry.receipt.spent_cents is not None:
        cents, reason = entry.receipt.spent_cents, entry.receipt.reason
        newest = Attempt(0, None, cents, reason, spot_cents(entry))
    for a in (*entry.earlier, newest):
        if a.spot_cents > 0 and a.spent_cents:
            yield a.spent_cents / a.spot_cents, was_preempted(a.note)


def spot_cents(entry: Entry) -> int:
    """The price per hour of the newest attempt's spot instance; 0 on demand."""
    offer = entry.plan.offer
    return offer.hourly_cents if offer.spot else 0


def repeated_s(run_s: Range, again_s: Range, every_h: float) -> Range:
    """Seconds that preemptions add to a run of `run_s`; each costs `again_s`.

    Low: it is never taken away. Likely: as often as usual, also while it repeats. High: twice as often, and once more."""
    every_s = 3600 * every_h
    share = min(MOST_REPEATED, again_s.likely / every_s)
    likely = run_s.likely * share / (1 - share)
    high = (2 * run_s.high / every_s + 1) * again_s.high
    return Range(0.0, likely, max(likely, high))
