"""The state of one run: its instance, and its files on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import structs

from nanolan.checkpoint.manifest import MANIFEST, Manifest, parse_manifest
from nanolan.cost.spending import newest_cents
from nanolan.errors import NanolanError, NotFound
from nanolan.hub.client import Hub, Tree
from nanolan.hub.proof import prove
from nanolan.redact import hide
from nanolan.run.ledger import Entry
from nanolan.run.presence import NOT_ASKED, Presence, of_attempt, presence
from nanolan.run.record import (
    LOST,
    PhaseReport,
    Progress,
    Receipt,
    phase_report,
    read_progress,
    read_receipt,
)
from nanolan.run.remaining import SavedWork, saved_state
from nanolan.run.state import decide_state
from nanolan.shadeform.models import Instance
from nanolan.status.view import SHORT, RunView
from nanolan.times import now_utc, parse_time

LOG_LINES = 5

T = TypeVar("T")
Record = TypeVar("Record", Progress, Receipt)


def hub_looks(
    pool: ThreadPoolExecutor, hub: Hub, e: Entry, trees: dict[tuple[str, str], Future[Any]]
) -> dict[str, Future[Any]]:
    plan, where = e.plan, (e.plan.hf_endpoint, e.plan.hf_repo)
    if where not in trees:
        trees[where] = pool.submit(hub.tree, plan.hf_repo)
    looks: dict[str, Future[Any]] = {
        "tree": trees[where],
        "progress": pool.submit(hub.read, plan.runs_repo, f"{plan.folder}/progress.json"),
        "receipt": pool.submit(hub.read, plan.runs_repo, f"{plan.folder}/receipt.json"),
        "log": pool.submit(_tail, hub, plan.runs_repo, f"logs/error-{plan.instance_name}.log"),
    }
    for p in plan.phases:
        looks[p] = pool.submit(hub.read, plan.hf_repo, f"{plan.result_folder(p)}/{MANIFEST}")
    return looks


def _machine(
    e: Entry,
    listed: list[Instance] | None,
    info: Callable[[str], Instance],
    progress: Progress | None,
    receipt: Receipt | None,
) -> tuple[Instance | None, bool, Presence]:
    """(instance of the newest attempt, whether its limits were read, what else is known)."""
    last = None if receipt or not progress else parse_time(progress.updated)
    told = bool(progress or receipt)
    there = presence(info, e, listed, now_utc(), reported=told, last_report=last)
    mine = next((i for i in there.machines if of_attempt(e, i)), None)
    if mine is None or not mine.billing or mine.id != e.instance_id or e.gone:
        return mine, False, there
    try:
        return info(mine.id), True, there
    except NanolanError:
        return mine, False, there


def view_of(
    e: Entry,
    instances: list[Instance] | None,
    info: Callable[[str], Instance],
    looks: dict[str, Future[Any]],
    hub: Hub,
) -> RunView:
    problems: list[str] = []
    tree, raw_progress, raw_receipt, tail = (
        result(looks[k], problems) for k in ("tree", "progress", "receipt", "log")
    )
    receipt = of_this_attempt(e, _parsed(raw_receipt, read_receipt, problems))
    progress = of_this_attempt(e, _parsed(raw_progress, read_progress, problems))
    age_s = (now_utc() - parse_time(e.plan.created_at)).total_seconds()
    mine, terms_seen, there = _machine(e, instances, info, progress, receipt)
    if instances is not None and there.unknown.startswith(NOT_ASKED):
        problems.append(there.unknown)
    if e.plan.is_job and receipt:
        there = Presence()
    state, reason = decide_state(e, mine, there.unknown, progress, receipt, age_s)
    if (
        state == LOST
    ):  # it may have ended between the reads of receipt and account: read the receipt again
        raw_receipt = _call(
            lambda: hub.read(e.plan.runs_repo, f"{e.plan.folder}/receipt.json"), problems
        )
        receipt = of_this_attempt(e, _parsed(raw_receipt, read_receipt, problems))
        state, reason = decide_state(e, mine, there.unknown, progress, receipt, age_s)
    phases = _phases(e, receipt or progress, tree, looks, problems)
    if state == LOST and not problems and _all_proven(phases):
        reason = "every phase is proven on the Hub, but the machine left no receipt"
    spent = newest_cents(e, receipt, progress, mine)
    saved = _saved(e, hub, tree, phases, problems) if state in SHORT and tree else None
    return RunView(
        e,
        state,
        reason,
        mine,
        progress,
        receipt,
        phases,
        spent,
        tail or (),
        tuple(dict.fromkeys(problems)),
        saved,
        there.unknown,
        terms_seen,
    )


def _phases(
    e: Entry,
    record: Progress | Receipt | None,
    tree: Tree | None,
    looks: dict[str, Future[Any]],
    problems: list[str],
) -> dict[str, PhaseReport]:
    reported = record.phases if record else {}
    return {
        p: phase_state(
            e,
            p,
            tree,
            _parsed(result(looks[p], problems), parse_manifest, problems),
            reported.get(p),
        )
        for p in e.plan.phases
    }


def _all_proven(phases: dict[str, PhaseReport]) -> bool:
    return bool(phases) and all(r.state == "proven" for r in phases.values())


def of_this_attempt(e: Entry, told: Record | None) -> Record | None:
    """The record if it belongs to this attempt: an earlier receipt does not count."""
    return told if told and (told.run_id, told.attempt) == (e.plan.run_id, e.plan.attempt) else None


def _saved(
    e: Entry, hub: Hub, tree: Tree, phases: dict[str, PhaseReport], problems: list[str]
) -> SavedWork | None:
    """The proven state of the first phase that is not proven."""
    left = [p for p, r in phases.items() if r.state != "proven"]
    runs = (
        tree
        if e.plan.runs_repo == tree.repo
        else _call(lambda: hub.tree(e.plan.runs_repo), problems)
    )
    return (
        _call(lambda: saved_state(hub, runs, e.plan, left[0]), problems) if left and runs else None
    )


def phase_state(
    e: Entry, phase: str, tree: Tree | None, manifest: Manifest | None, told: PhaseReport | None
) -> PhaseReport:
    """ "proven" only if the Hub now holds every file of this run's manifest; else the state that the box reported."""
    folder = e.plan.result_folder(phase)
    told = told or PhaseReport("none")
    if manifest and tree and manifest.run_id == e.plan.run_id and manifest.phase == phase:
        try:
            proof = prove(tree, folder, manifest)
        except NanolanError:
            return PhaseReport("unproven", folder, step=manifest.step)
        report = phase_report("proven", folder, manifest, proof.revision)
        return structs.replace(
            report, measured=report.measured | told.measured
        )  # the evaluation came after the manifest
    seen = tree is not None and (manifest is not None or f"{folder}/{MANIFEST}" not in tree.files)
    if told.state == "proven" and seen:  # another run has written the folder since
        return structs.replace(told, state="replaced")
    return told


def _tail(hub: Hub, repo: str, path: str) -> tuple[str, ...]:
    return tuple(
        hide(hub.read(repo, path).decode(errors="replace")).splitlines()[-LOG_LINES:]
    )  # masked before lines are cut to the screen width


def result(answer: Future[T], problems: list[str]) -> T | None:
    return _call(answer.result, problems)


def _call(look: Callable[[], T], problems: list[str]) -> T | None:
    """The result of `look`; None if it raises NotFound; None and a problem for any other error."""
    try:
        return look()
    except NotFound:
        return None
    except NanolanError as e:
        problems.append(str(e))
        return None


def _parsed(raw: bytes | None, read: Callable[[bytes], T], problems: list[str]) -> T | None:
    try:
        return None if raw is None else read(raw)
    except NanolanError as e:
        problems.append(str(e))
        return None
