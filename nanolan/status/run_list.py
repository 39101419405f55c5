"""`just runs`: the ledger's runs as a table. Pure."""

from __future__ import annotations

from typing import Any

from nanolan.cost.spending import run_cost
from nanolan.run.ledger import REFUSED, Entry
from nanolan.run.record import LOST
from nanolan.run.state import state_of_note
from nanolan.times import parse_time

NO_VERDICT = "open"  # no end was seen yet
NOT_RENTED = "not rented"


def verdict_of(e: Entry) -> str:
    """How the run ended, as far as the ledger knows."""
    if e.receipt and e.receipt.attempt == e.plan.attempt:
        return e.receipt.verdict
    if not e.gone:
        return NO_VERDICT
    if e.note.startswith(REFUSED):
        return NOT_RENTED
    return state_of_note(e.note) if e.note else LOST


def render(entries: list[Entry]) -> list[str]:
    """The table in lines of at most 80 columns, newest first; times in this laptop's zone, which the head names."""
    if not entries:
        return ["No run yet. Start one: just launch phase=sft   (or, for nothing: just rehearse)"]
    zone = parse_time(entries[0].plan.created_at).astimezone().tzname() or "local"
    head = f"launched ({zone[:5]})"
    lines = [f"{'run':<9} {head:<16} {'name':<17} {'phases':<11} {'verdict':<10} {'cost':>11}"]
    for e in entries:
        p = e.plan
        when = f"{parse_time(p.created_at).astimezone():%Y-%m-%d %H:%M}"
        lines.append(
            f"{p.run_id:<9} {when:<16} {p.run_name[:17]:<17} {'+'.join(p.phases)[:11]:<11} "
            f"{verdict_of(e):<10} {run_cost(e).text():>11}"
        )
    opened = [e.plan.run_id for e in entries if verdict_of(e) == NO_VERDICT]
    return (
        [*lines, f"open: no end was seen yet; look: just status {opened[0]}"] if opened else lines
    )


def to_dict(entries: list[Entry]) -> dict[str, Any]:
    """For --json: money in dollars as text, unknown is null."""
    return {
        "schema_version": 1,
        "runs": [
            {
                "run_id": e.plan.run_id,
                "run_name": e.plan.run_name,
                "launched": e.plan.created_at,
                "phases": list(e.plan.phases),
                "verdict": None if (verdict := verdict_of(e)) == NO_VERDICT else verdict,
                "reason": e.receipt.reason or None if e.receipt else None,
                **run_cost(e).to_dict(),
            }
            for e in entries
        ],
    }
