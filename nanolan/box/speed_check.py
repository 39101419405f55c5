"""Compares the first training steps and the download speed with what earlier runs measured on the same GPU model.

With fewer than three earlier runs, or once the probation's money is spent, a slow machine only gets a warning.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nanolan.files import last_lines
from nanolan.plan import UNREADABLE, Plan

STEPS = 5  # measured; the first one, which compiles, does not count
SLOW = {
    "tok/s": 0.5,
    "bytes/s of the Hub": 0.2,
}  # of the usual figure; a network varies more than a GPU
MOST_BYTES = 4 << 20  # of metrics.jsonl: the rows of a phase's beginning
RUNS = 3  # with so many earlier runs, a slow machine is replaced


def first_pace(metrics: Path, phase: str) -> float | None:
    """Median tokens a second of the first steps of a phase; None until they are done."""
    found = list(_speeds(metrics, phase))
    return statistics.median(found[1:STEPS]) if len(found) >= STEPS else None


def _speeds(metrics: Path, phase: str) -> Iterator[float]:
    try:
        lines = last_lines(metrics, MOST_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = msgspec.json.decode(line, type=dict)
        except UNREADABLE:
            continue  # half written
        if row.get("phase") == phase and isinstance(row.get("tok_per_s"), (int, float)):
            yield float(row["tok_per_s"])


def slow_reason(plan: Plan, what: str, unit: str, now: float) -> str:
    """What is wrong with a speed, or ""; `what` is a phase, or "download"."""
    usual = plan.usual.get(what)
    if not usual or now >= SLOW[unit] * usual:
        return ""
    return f"the machine is slow: {now:,.0f} {unit} in {what}, earlier runs on {plan.offer.gpu} had {usual:,.0f}"


def should_replace(plan: Plan, spent_cents: int) -> bool:
    """Whether a slow machine is replaced: enough earlier runs are known, and its probation is not over."""
    return plan.usual_runs >= RUNS and spent_cents <= plan.probation_cents
