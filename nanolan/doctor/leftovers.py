"""What earlier runs left behind: instances, keys, runs, ledger files, rehearsals. Nothing is removed here."""

from __future__ import annotations

import time
from pathlib import Path

from nanolan.checklist import Check
from nanolan.doctor.context import DoctorContext
from nanolan.errors import NanolanError
from nanolan.files import entries_of
from nanolan.money import dollars
from nanolan.shadeform.records import gap_of
from nanolan.status.orphans import compare

NO_KEYS = [Check("SSH keys", True, "none yet: just status fetches a machine's")]
REHEARSAL_S = 3600  # a younger folder may be in use


def look_at_instances(p: DoctorContext) -> list[Check]:
    """Unattended instances that bill."""
    owner = p.ledger.home / "owner"
    mine = owner.read_text().strip() if owner.is_file() else ""
    found = compare(p.ledger.readable()[0], p.instances(), mine, p.now())
    return [
        Check(
            "instances",
            None,
            f"{o.instance.name}, {dollars(o.instance.hourly_cents)}/h: {o.what}",
            o.command,
        )
        for o in found
    ] or [_none_bills(gap_of(p.instances()))]


def _none_bills(gap: str) -> Check:
    return Check(
        "instances",
        None if gap else True,
        f"no unattended instance bills{f'; but {gap}' if gap else ''}",
        "just status --json; or Shadeform's dashboard" if gap else "",
    )


def look_at_ledger(p: DoctorContext) -> list[Check]:
    """Unreadable files (their runs are not shown), and runs that are not known to be over."""
    entries, broken = p.ledger.readable()
    found = [
        Check("ledger", None, f"{path} cannot be read", f"git pull; or mv {path} {path}.broken")
        for path in broken
    ]
    found += [
        Check(
            "runs",
            None,
            f"{e.plan.run_id} ({e.plan.run_name}, {'+'.join(e.plan.phases)}) is not known to be over",
            f"just status {e.plan.run_id}",
        )
        for e in entries
        if not e.gone
    ]
    return found or [
        Check(
            "runs", True, f"{len(entries)} in {p.ledger.runs}, all over" if entries else "none yet"
        )
    ]


def look_at_keys(p: DoctorContext) -> list[Check]:
    """.ssh_keys/: private, and without the keys of machines that are gone."""
    keys = entries_of(p.keys, "*.pem")
    found = [
        Check("SSH keys", None, f"others on this machine can read {path}", f"chmod {mode} {path}")
        for path, mode in ((p.keys, "700"), *((k, "600") for k in keys))
        if path.exists() and path.stat().st_mode & 0o077
    ]
    try:
        live = {i.name for i in p.instances() if i.billing}
    except NanolanError as e:
        unknown = Check(
            "SSH keys",
            None,
            f"{len(keys)} in {p.keys}; whether their machines are gone is unknown: {e}",
        )
        return [*found, unknown] if keys else NO_KEYS
    if old := [k for k in keys if k.stem not in live]:
        found.append(
            Check(
                "SSH keys",
                None,
                f"{len(old)} of machines that are gone",
                f"rm {p.keys}/{old[0].name}"
                + (f" (and {len(old) - 1} more)" if len(old) > 1 else ""),
            )
        )
    return found or (
        [Check("SSH keys", True, f"{len(keys)} in {p.keys}, private")] if keys else NO_KEYS
    )


def look_at_rehearsals(p: DoctorContext) -> list[Check]:
    """Folders of earlier rehearsals, with their sizes."""
    home = p.root / ".rehearsal"
    old = [f for f in entries_of(home, "run-*") if f.stat().st_mtime < time.time() - REHEARSAL_S]
    return [
        Check("rehearsals", None, f"{f.name}, {_size(f) / 1e6:,.0f} MB", f"rm -r {home}/{f.name}")
        for f in old
    ] or [Check("rehearsals", True, "no old ones")]


def _size(folder: Path) -> int:
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
