"""The state of every run: ledger, account and run folders, read in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from msgspec import structs

from nanolan.cost.spending import newest_cents, seen_at
from nanolan.errors import NanolanError, NotFound
from nanolan.hub.client import Hub
from nanolan.plan import read_plan
from nanolan.run.find import earlier_attempts, later_attempt
from nanolan.run.jobs import CLAIM_FILE, newest_plan, read_claim
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PENDING
from nanolan.run.state import waiting_text
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import Listing, gap_of
from nanolan.status.one_run import hub_looks, result, view_of
from nanolan.status.orphans import compare
from nanolan.status.view import SHORT, Overview, RunView
from nanolan.times import now_utc


def look(
    ledger: Ledger, entries: list[Entry], api: Shadeform, hub: Callable[[Entry], Hub]
) -> Overview:
    """Read the account and every run folder concurrently. A failed read is a problem, never "none". Without a Shadeform key only
    runs that have no machine there can be looked at."""
    with ThreadPoolExecutor(16) as pool:
        only_jobs = bool(entries) and all(e.plan.is_job for e in entries)
        unasked = only_jobs and not api.has_key
        listing = pool.submit((lambda: Listing[Instance]([])) if unasked else api.instances)
        entries = list(pool.map(lambda e: newest_attempt(ledger, e, hub(e)), entries))
        infos = {
            e.instance_id: pool.submit(api.info, e.instance_id)
            for e in entries
            if e.instance_id and not e.gone and not e.plan.is_job
        }
        hubs = {e.plan.run_id: hub(e) for e in entries}
        trees: dict[tuple[str, str], Future[Any]] = {}  # many runs, one repo
        looks = {e.plan.run_id: hub_looks(pool, hubs[e.plan.run_id], e, trees) for e in entries}
        problems: list[str] = []
        instances = result(listing, problems)

        def info(instance_id: str) -> Instance:
            read = infos.get(instance_id)
            return read.result() if read else api.info(instance_id)

        runs = []
        for e in entries:
            run_id, hub_of_run = e.plan.run_id, hubs[e.plan.run_id]
            if (newest := _later(ledger, hub_of_run, e, instances or (), problems)) is not e:
                looks[run_id] = hub_looks(pool, hub_of_run, newest, trees)
            view = view_of(newest, instances, info, looks[run_id], hub_of_run)
            runs.append(_in_hand(view) if ledger.is_launching(e.plan.run_id) else view)
    for v in runs:
        _note(ledger, v, problems.append)
    known = {v.instance.id for v in runs if v.instance}
    left = [i for i in instances or () if i.id not in known and i.billing]
    seen = _sorted(tuple(runs), left, ledger, instances or (), problems)
    return replace(seen, gaps=tuple(filter(None, (gap_of(instances), ledger.gap()))))


def newest_attempt(ledger: Ledger, entry: Entry, hub: Hub) -> Entry:
    """The entry of a job with the plan of its newest machine, which only the run folder has; as it is if that cannot be read, of
    which the other reads of the folder tell."""
    if not entry.plan.is_job:
        return entry
    try:
        read = read_plan(hub.read(entry.plan.runs_repo, f"{entry.plan.folder}/plan.json"))
        earlier = earlier_attempts(hub, entry.plan)
        job = _job_id(hub, entry)
    except NanolanError:
        return entry
    newest = structs.replace(
        entry, plan=newest_plan(entry.plan, read), earlier=earlier, instance_id=job
    )
    if newest != entry and ledger.has(entry.plan.run_id):
        ledger.note(newest, lambda text: None)
    return newest


def _job_id(hub: Hub, entry: Entry) -> str | None:
    """The platform's id of the job on whose machine the run is, or was; None before a machine has claimed it."""
    try:
        claim = hub.read(entry.plan.runs_repo, f"{entry.plan.folder}/{CLAIM_FILE}")
    except NotFound:
        return None
    return read_claim(claim).job or None


def _later(
    ledger: Ledger,
    hub: Hub,
    entry: Entry,
    instances: Iterable[Instance],
    problems: list[str],
) -> Entry:
    """The entry, or that of a later attempt that another laptop has launched, which is then in this ledger, too."""
    try:
        newest = later_attempt(hub, entry, instances)
    except NanolanError as e:
        problems.append(f"a later attempt of run {entry.plan.run_id} bills, its plan: {e}")
        return entry
    if newest is not entry and entry in ledger.readable()[0]:
        ledger.note(newest, problems.append)
    return newest


def _sorted(
    runs: tuple[RunView, ...],
    left: list[Instance],
    ledger: Ledger,
    instances: Iterable[Instance],
    problems: list[str],
) -> Overview:
    """Sort every billing machine: of a run shown, unattended, of a run not requested, or of other owners."""
    asked = [v.entry for v in runs]
    entries = [
        *asked,
        *(e for e in ledger.readable()[0] if e.plan.run_id not in {a.plan.run_id for a in asked}),
    ]
    orphans = {
        o.instance.id: o for o in compare(entries, tuple(instances), ledger.owner, now_utc())
    }
    before = {a.instance_id for e in asked for a in e.earlier}
    strays = [i for i in left if i.id in before or i.id in orphans and orphans[i.id].ours]
    astray = {i.id for i in strays}
    others = [i for i in left if i.id in orphans and i.id not in astray]
    unasked = [i for i in left if i.id not in orphans and i.id not in astray]
    why = {
        i.id: orphans[i.id].what
        if i.id in orphans and orphans[i.id].ours
        else "of an earlier attempt"
        for i in strays
    }
    return Overview(runs, tuple(strays), tuple(others), tuple(problems), tuple(unasked), why)


def _note(ledger: Ledger, v: RunView, say: Callable[[str], None]) -> None:
    """Record in the ledger what was found: instance id, end, receipt."""
    gone = v.entry.gone or v.ended and v.instance is None and not v.unknown
    receipt = (
        v.receipt if v.receipt and v.receipt.attempt == v.entry.plan.attempt else v.entry.receipt
    )
    instance_id = v.entry.instance_id or (v.instance.id if v.instance else None)
    # the provider shows why only while it deletes the instance
    note = v.entry.note or (v.reason if v.preempted and not v.receipt and not v.problems else "")
    seen = structs.replace(v.entry, gone=gone, note=note, receipt=receipt, instance_id=instance_id)
    if not receipt:  # else that tells the bill
        seen = structs.replace(seen, seen=seen_at(v.entry, v.instance, v.spent_cents, now_utc()))
    billed = newest_cents(seen)  # None: neither a receipt nor a deletion by this laptop
    if gone and billed is not None and billed != v.spent_cents:
        seen = structs.replace(seen, spent_cents=v.spent_cents)
    if (
        seen != v.entry and v.entry in ledger.readable()[0]
    ):  # unless a launch has changed the entry meanwhile
        ledger.note(seen, say)


def _in_hand(v: RunView) -> RunView:
    """A run that a launch still works on: a failed attempt does not end it, nor does a wait for an offer."""
    if v.state not in SHORT:
        return v
    if v.entry.waiting:
        return replace(v, state=PENDING, reason=waiting_text(v.entry.waiting))
    return replace(
        v,
        state=PENDING,
        reason=f"attempt {v.entry.plan.attempt} {v.state}: {v.reason}; its launch may rent the next "
        "offer",
    )
