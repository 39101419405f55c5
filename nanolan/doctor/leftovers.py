"""Checks of what earlier runs left behind: instances, keys, runs, ledger files, rehearsals. Removes nothing."""

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

NO_KEYS = [Check("SSH keys", True, "none yet; just status fetches an instance's key")]
REHEARSAL_S = 3600  # a younger folder may be in use


def check_instances(context: DoctorContext) -> list[Check]:
    """Unattended instances that are billing."""
    owner = context.ledger.home / "owner"
    own_tag = owner.read_text().strip() if owner.is_file() else ""
    found = compare(context.ledger.readable()[0], context.instances(), own_tag, context.now())
    return [
        Check(
            "instances",
            None,
            f"{orphan.instance.name}, {dollars(orphan.instance.hourly_cents)}/h: {orphan.what}",
            orphan.command,
        )
        for orphan in found
    ] or [_none_unattended(gap_of(context.instances()))]


def _none_unattended(gap: str) -> Check:
    return Check(
        "instances",
        None if gap else True,
        f"no unattended instance is billing{f'; but {gap}' if gap else ''}",
        "just status --json, or Shadeform's dashboard" if gap else "",
    )


def check_ledger(context: DoctorContext) -> list[Check]:
    """Unreadable files (their runs are not shown), and runs whose instance is not confirmed deleted."""
    context.ledger.check_writable()
    entries, broken = context.ledger.readable()
    found = [
        Check(
            "ledger",
            None,
            f"{path} cannot be read",
            f"git pull, for a newer nanolan; or set it aside: mv {path} {path}.broken",
        )
        for path in broken
    ]
    found += [
        Check(
            "runs",
            None,
            f"{e.plan.run_id} ({e.plan.run_name}, {'+'.join(e.plan.phases)}) is not known to have ended",
            f"just status {e.plan.run_id}",
        )
        for e in entries
        if not e.gone
    ]
    return found or [
        Check(
            "runs",
            True,
            f"{len(entries)} in {context.ledger.runs}, all ended" if entries else "none yet",
        )
    ]


def check_ssh_keys(context: DoctorContext) -> list[Check]:
    """.ssh_keys/: private, and without the keys of deleted instances."""
    keys = entries_of(context.keys, "*.pem")
    found = [
        Check("SSH keys", None, f"others on this machine can read {path}", f"chmod {mode} {path}")
        for path, mode in ((context.keys, "700"), *((k, "600") for k in keys))
        if path.exists() and path.stat().st_mode & 0o077
    ]
    try:
        live = {i.name for i in context.instances() if i.billing}
    except NanolanError as e:
        unknown = Check(
            "SSH keys",
            None,
            f"{len(keys)} in {context.keys}; could not check whether their instances still exist: {e}",
        )
        return [*found, unknown] if keys else NO_KEYS
    if old := [k for k in keys if k.stem not in live]:
        found.append(
            Check(
                "SSH keys",
                None,
                f"{len(old)} of deleted instances",
                f"rm {context.keys}/{old[0].name}"
                + (f" (and {len(old) - 1} more)" if len(old) > 1 else ""),
            )
        )
    return found or (
        [Check("SSH keys", True, f"{len(keys)} in {context.keys}, private")] if keys else NO_KEYS
    )


def check_rehearsals(context: DoctorContext) -> list[Check]:
    """Folders of earlier rehearsals, with their sizes."""
    home = context.root / ".rehearsal"
    old = [f for f in entries_of(home, "run-*") if f.stat().st_mtime < time.time() - REHEARSAL_S]
    return [
        Check("rehearsals", None, f"{f.name}, {_size(f) / 1e6:,.0f} MB", f"rm -r {home}/{f.name}")
        for f in old
    ] or [Check("rehearsals", True, "no old folders")]


def _size(folder: Path) -> int:
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
