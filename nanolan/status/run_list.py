"""`just runs`: the ledger's runs as a table. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Collection
from typing import Any

from nanolan.cost.spending import run_cost
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, Entry, Waiting
from nanolan.run.record import LOST
from nanolan.run.state import state_of_note, waiting_text
from nanolan.times import parse_time

NO_VERDICT = "open"  # no end was seen yet
WAITING = "waiting"  # for an offer
NOT_RENTED = "not rented"


def verdict_of(e: Entry, launching: Collection[str] = ()) -> str:
    """How the run ended, as far as the ledger knows; `launching` are the runs whose launch still works on them."""
    if e.waiting and e.plan.run_id in launching:
        return WAITING
    if e.receipt and e.receipt.attempt == e.plan.attempt:
        return e.receipt.verdict
    if not e.gone:
        return NO_VERDICT
    if e.note.startswith(REFUSED) or e.waiting and e.note != STOPPED_BY_USER:
        return NOT_RENTED
    return state_of_note(e.note) if e.note else LOST


def render(entries: list[Entry], launching: Collection[str] = ()) -> list[str]:
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
            f"{verdict_of(e, launching):<10} {run_cost(e).text():>11}"
        )
        if e.waiting and p.run_id in launching:
            lines += textwrap.wrap(
                waiting_text(e.waiting), 80, initial_indent=" " * 10, subsequent_indent=" " * 10
            )
    opened = [e.plan.run_id for e in entries if verdict_of(e) == NO_VERDICT]
    return (
        [*lines, f"open: no end was seen yet; look: just status {opened[0]}"] if opened else lines
    )


def waiting_dict(w: Waiting) -> dict[str, str]:
    """A wait for --json."""
    return {"until": w.until, "looked": w.looked, "seen": w.seen}


def to_dict(entries: list[Entry], launching: Collection[str] = ()) -> dict[str, Any]:
    """For --json: money in dollars as text, unknown is null."""
    return {
        "schema_version": 1,
        "runs": [
            {
                "run_id": e.plan.run_id,
                "run_name": e.plan.run_name,
                "launched": e.plan.created_at,
                "phases": list(e.plan.phases),
                "verdict": None if (v := verdict_of(e, launching)) in (NO_VERDICT, WAITING) else v,
                "waiting": waiting_dict(e.waiting) if v == WAITING and e.waiting else None,
                "reason": e.receipt.reason or None if e.receipt else None,
                **run_cost(e).to_dict(),
            }
            for e in entries
        ],
    }
