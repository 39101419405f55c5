"""Claims the next attempt of a run in its folder on the Hub: of two commands that continue a run only one rents.

The commit of the attempt's plan names the revision that was read, and the Hub refuses it if that is not the newest one. Then the
folder is read again: the attempt may have been claimed, or a stop asked for, in between. On one laptop the ledger and its
locks decide, so a claim of the same ledger is no obstacle: its command has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from nanolan.errors import Conflict, PreflightFailed, RunFailed
from nanolan.hub.client import Hub, Tree
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.run.record import to_json
from nanolan.run.requests import LAUNCH_FILE, STOP_FILE, LaunchClaim

TRIES = 10  # other boxes commit to the same repo


class LaunchedElsewhere(PreflightFailed):
    """Another laptop, or a guard, has launched this attempt: nothing was rented here."""


def stop_mark(tree: Tree, plan: Plan) -> str:
    """Tells one request to stop in the run folder from another; "" without one."""
    found = tree.files.get(f"{plan.folder}/{STOP_FILE}")
    return found.git_sha1 if found else ""


def stopped_error(plan: Plan) -> RunFailed:
    """The error of a launch that was stopped from another process."""
    return RunFailed(
        f"run {plan.run_id} was {STOPPED_BY_USER}; none of its instances bills, and no other one was rented"
    )


def commit_claimed(
    hub: Hub,
    plan: Plan,
    by: str,
    files: Mapping[str, bytes | Path],
    delete: Iterable[str],
    stops_seen: str | None = None,
) -> str:
    """Commit the files of an attempt together with its claim; returns the revision. LaunchedElsewhere if it is claimed already.

    RunFailed for a request to stop that came after the one marked `stops_seen` (None: nobody looked)."""
    path = f"{plan.folder}/{LAUNCH_FILE}"
    claimed = {**files, path: to_json(LaunchClaim(plan.attempt, by))}
    stale = tuple(delete)
    for _ in range(TRIES):
        tree = hub.tree(plan.runs_repo)
        refuse_claimed(read_claim(hub, tree, plan), plan, by)
        if stops_seen is not None and stop_mark(tree, plan) not in ("", stops_seen):
            raise stopped_error(plan)
        try:
            return hub.commit(
                plan.runs_repo,
                claimed,
                f"run {plan.run_id}: plan and code of attempt {plan.attempt}",
                delete=stale,
                parent=tree.revision,
            )
        except Conflict:
            continue
    raise PreflightFailed(
        f"{plan.runs_repo} changed {TRIES} times while attempt {plan.attempt} was written; nothing was rented. Try again"
    )


def read_claim(hub: Hub, tree: Tree, plan: Plan) -> LaunchClaim | None:
    """The claim of the newest attempt at this revision, or None. PreflightFailed for one that cannot be read: it is not none."""
    path = f"{plan.folder}/{LAUNCH_FILE}"
    if path not in tree.files:
        return None
    try:
        return msgspec.json.decode(
            hub.read(tree.repo, path, revision=tree.revision), type=LaunchClaim
        )
    except UNREADABLE as e:
        raise PreflightFailed(
            f"{tree.repo}/{path} cannot be read ({str(e)[:100]}), so it is unknown whether the run was launched elsewhere; "
            "nothing was rented. If you are sure that it was not, delete that file"
        ) from None


def refuse_claimed(claim: LaunchClaim | None, plan: Plan, by: str) -> None:
    """LaunchedElsewhere if another ledger has claimed this attempt or a later one. Pure."""
    if claim and claim.attempt >= plan.attempt and claim.by != by:
        raise LaunchedElsewhere(
            f"attempt {claim.attempt} of run {plan.run_id} was launched elsewhere (ledger {claim.by[:8]}); nothing was "
            f"rented. Look: just status {plan.run_id}"
        )
