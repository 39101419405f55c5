"""Compares billing machines of the account with the ledger. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nanolan.cost.overdue import over_limit
from nanolan.money import dollars, usd
from nanolan.run.ledger import Entry
from nanolan.run.presence import of_run
from nanolan.shadeform.models import Instance

HEAD = ("MACHINE", "STATUS", "$/H", "SPENT")
RIGHT = (2, 3)


@dataclass(frozen=True)
class Orphan:
    """A billing machine that may be unattended."""

    instance: Instance
    what: str
    command: str
    ours: bool  # others' are shown, never changed


def compare(
    entries: Sequence[Entry], instances: Sequence[Instance], owner: str, now: datetime
) -> list[Orphan]:
    """Every billing machine that is not simply the machine of a run in the ledger; ours first."""
    billing = [i for i in instances if i.billing]
    found = [o for i in billing if (o := _look(i, entries, billing, owner, now))]
    return sorted(found, key=lambda o: (not o.ours, o.instance.name))


def _look(
    i: Instance, entries: Sequence[Entry], billing: Sequence[Instance], owner: str, now: datetime
) -> Orphan | None:
    entry = next((e for e in entries if of_run(e, i)), None)
    if entry is None:
        return _unknown(i, owner)
    this, run = f"just stop {i.id} --now", f"just stop {entry.plan.run_id} --now"
    if i.id != (kept := _kept(entry, billing)).id:
        return Orphan(
            i, f"a second machine of run {entry.plan.run_id} (the other is {kept.id})", this, True
        )
    if entry.gone:
        return Orphan(i, f"run {entry.plan.run_id} was believed gone", run, True)
    over = over_limit(entry.plan, i, now)
    return Orphan(i, f"run {entry.plan.run_id}: {over}", run, True) if over else None


def _kept(entry: Entry, billing: Sequence[Instance]) -> Instance:
    """The machine of a run that counts: the ledger's, else the oldest, which has got furthest."""
    mine = [i for i in billing if of_run(entry, i)]
    return min(
        mine,
        key=lambda i: (i.id != entry.instance_id, i.created_at is None, str(i.created_at), i.id),
    )


def _unknown(i: Instance, owner: str) -> Orphan:
    if i.owner == owner:
        return Orphan(
            i, "made by this laptop, but not in the ledger", f"just stop {i.id} --now", True
        )
    if i.run_id:
        adopt = f"just orphans --owner {i.owner}" if i.owner else ""
        return Orphan(
            i,
            f"a run of owner {i.owner or '?'}",
            f"if that is you: {adopt}" if adopt else "",
            False,
        )
    return Orphan(i, "another tool's or person's", "", False)


def table(orphans: Sequence[Orphan]) -> list[str]:
    """A row per machine, followed by the reason and the command."""
    rows = [
        HEAD,
        *(
            (
                o.instance.name,
                o.instance.status,
                dollars(o.instance.hourly_cents),
                dollars(o.instance.cost_now_cents()),
            )
            for o in orphans
        ),
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(HEAD))]
    lines = []
    for row, o in zip(rows, (None, *orphans), strict=True):
        lines.append(
            "  ".join(
                row[c].rjust(widths[c]) if c in RIGHT else row[c].ljust(widths[c])
                for c in range(len(HEAD))
            )
        )
        lines += [f"    {text}" for text in (o.what, o.command) if text] if o else []
    return [line.rstrip() for line in lines]


def to_dict(orphans: Sequence[Orphan]) -> dict[str, Any]:
    """For --json; money in dollars as text, unknown is null."""
    return {
        "schema_version": 1,
        "orphans": [
            {
                "instance_id": o.instance.id,
                "name": o.instance.name,
                "status": o.instance.status,
                "run_id": o.instance.run_id,
                "owner": o.instance.owner,
                "ours": o.ours,
                "what": o.what,
                "command": o.command or None,
                "usd_per_hour": usd(o.instance.hourly_cents),
                "spent_usd": usd(o.instance.cost_now_cents()),
            }
            for o in orphans
        ],
    }
