"""Where every run is: ledger, account and run folder put together, one round trip deep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from msgspec import structs

from nanolan.checkpoint.manifest import MANIFEST, Manifest, parse_manifest
from nanolan.errors import MayBeBilling, NanolanError, NotFound, RunFailed
from nanolan.hub.client import Hub, Tree
from nanolan.hub.proof import prove
from nanolan.money import dollars
from nanolan.phases import PHASES
from nanolan.plan import Plan
from nanolan.redact import hide
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.presence import NOT_ASKED, Presence, of_attempt, presence, unknown_words
from nanolan.run.record import (
    ENDED,
    FAILED,
    LOST,
    PENDING,
    STOPPED,
    UNKNOWN,
    PhaseReport,
    Progress,
    Receipt,
    error_of,
    phase_report,
    read_progress,
    read_receipt,
)
from nanolan.run.remaining import SavedWork, saved_state
from nanolan.run.state import decide_state
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import gap_of
from nanolan.shadeform.terms import as_now, changed
from nanolan.status.orphans import compare
from nanolan.times import now_utc, parse_time

LOG_LINES = 5
SHORT = (FAILED, STOPPED, LOST)

T = TypeVar("T")
Told = TypeVar("Told", Progress, Receipt)


@dataclass(frozen=True)
class RunView:
    """One run as it stands now."""

    entry: Entry
    state: str
    reason: str = ""
    instance: Instance | None = None
    progress: Progress | None = None
    receipt: Receipt | None = None
    phases: dict[str, PhaseReport] = field(default_factory=dict)
    spent_cents: int | None = None
    log_tail: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # look-ups that failed: what is shown may be old or missing
    saved: SavedWork | None = None  # of a run that ended short: the state that it can go on from
    unknown: str = ""  # why it may have a machine though `instance` is None
    terms_seen: bool = False  # the provider's price and limits are in `instance`, as they are now

    def changed(self) -> str:
        """What the provider changed since it was agreed to, or ""."""
        return (
            changed(self.instance, self.entry.plan, now_utc())
            if self.instance and self.terms_seen
            else ""
        )

    def terms(self) -> Plan:
        """The plan with the price and the limits that hold now."""
        return as_now(self.entry.plan, self.instance)

    @property
    def ended(self) -> bool:
        """The run has its verdict (with an instance in error it may still bill: `verdict` says so)."""
        return self.state in ENDED and not self.problems

    @property
    def resumable(self) -> bool:
        """It ended short, and something is proven that a new machine can go on from."""
        done = [r.state for r in self.phases.values()].count("proven")
        over = self.ended and self.state in SHORT and not (self.instance and self.instance.billing)
        return over and (self.saved is not None or 0 < done < len(self.phases))

    def verdict(self) -> NanolanError | None:
        """The error whose exit code a watch ends with; None for a success."""
        if self.instance and self.instance.billing:
            return MayBeBilling(
                f"instance {self.instance.id} ({dollars(self.instance.hourly_cents)}/h) still bills; "
                f"stop it: just stop {self.entry.plan.run_id} --now"
            )
        if self.receipt:
            return error_of(self.receipt)
        return RunFailed(f"run {self.entry.plan.run_id} {self.state}: {self.reason}")


@dataclass(frozen=True)
class Overview:
    """All runs of this laptop, and what else bills on the account."""

    runs: tuple[RunView, ...]
    strays: tuple[Instance, ...]  # ours, but no run's own machine
    others: tuple[Instance, ...]  # not ours: shown, never touched
    problems: tuple[str, ...]
    unasked: tuple[Instance, ...] = ()  # of runs in the ledger that were not asked for
    why: Mapping[str, str] = field(default_factory=dict)  # id of a stray -> what it is
    gaps: tuple[
        str, ...
    ] = ()  # records that could not be read: they keep nothing else from being seen

    def unresolved(self) -> MayBeBilling | None:
        """What bills, or may, without being looked after, with its price and what stops it."""
        strays = [
            f"instance {i.id} ({dollars(i.hourly_cents)}/h) bills ({self.why.get(i.id, 'not in the ledger')}): "
            f"just stop {i.id} --now"
            for i in self.strays
        ]
        unknown = [
            f"run {v.entry.plan.run_id}: {unknown_words(v.entry)}"
            for v in self.runs
            if v.state == UNKNOWN
        ]
        return MayBeBilling("; ".join([*strays, *unknown])) if strays or unknown else None


def look(
    ledger: Ledger, entries: list[Entry], api: Shadeform, hub: Callable[[Entry], Hub]
) -> Overview:
    """Look at the account and every run folder, all at once; a failed look is a named problem, never "none"."""
    with ThreadPoolExecutor(16) as pool:
        listing = pool.submit(api.instances)
        infos = {
            e.instance_id: pool.submit(api.info, e.instance_id)
            for e in entries
            if e.instance_id and not e.gone
        }
        hubs = {e.plan.run_id: hub(e) for e in entries}
        trees: dict[tuple[str, str], Future[Any]] = {}  # many runs, one repo
        looks = {e.plan.run_id: _hub_looks(pool, hubs[e.plan.run_id], e, trees) for e in entries}
        problems: list[str] = []
        instances = _result(listing, problems)

        def info(instance_id: str) -> Instance:
            return infos[instance_id].result()

        runs = []
        for e in entries:
            view = _view(e, instances, info, looks[e.plan.run_id], hubs[e.plan.run_id])
            runs.append(_in_hand(view) if ledger.is_launching(e.plan.run_id) else view)
    for v in runs:
        _note(ledger, v, problems.append)
    known = {v.instance.id for v in runs if v.instance}
    left = [i for i in instances or () if i.id not in known and i.billing]
    seen = _sorted(tuple(runs), left, ledger, instances or (), problems)
    return replace(seen, gaps=tuple(filter(None, (gap_of(instances), ledger.gap()))))


def _sorted(
    runs: tuple[RunView, ...],
    left: list[Instance],
    ledger: Ledger,
    instances: Iterable[Instance],
    problems: list[str],
) -> Overview:
    """Every machine that bills has its place: of a run shown, ours and not looked after, of a run not asked for, or of others."""
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
    """Keep in the ledger what was seen of a run: its machine's id, its end, its receipt."""
    gone = v.entry.gone or v.ended and v.instance is None and not v.unknown
    receipt = (
        v.receipt if v.receipt and v.receipt.attempt == v.entry.plan.attempt else v.entry.receipt
    )
    instance_id = v.entry.instance_id or (v.instance.id if v.instance else None)
    seen = structs.replace(v.entry, gone=gone, receipt=receipt, instance_id=instance_id)
    if (
        seen != v.entry and v.entry in ledger.readable()[0]
    ):  # a launch may have gone on with the run meanwhile
        ledger.note(seen, say)


def _in_hand(v: RunView) -> RunView:
    """A run that a launch has still in hand: an attempt that failed is not its end."""
    if v.state not in SHORT:
        return v
    return replace(
        v,
        state=PENDING,
        reason=f"attempt {v.entry.plan.attempt} {v.state}: {v.reason}; its launch may rent the next "
        "offer",
    )


# ------------------------------------------------------------------ one run
def _hub_looks(
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
        looks[p] = pool.submit(
            hub.read, plan.hf_repo, f"{PHASES[p].output_dir}/{plan.output_tag}/{MANIFEST}"
        )
    return looks


def _machine(
    e: Entry, listed: list[Instance] | None, info: Callable[[str], Instance], told: bool
) -> tuple[Instance | None, bool, Presence]:
    """(the machine of a run's newest attempt, whether its limits could be seen, what is known beside it)."""
    there = presence(info, e, listed, now_utc(), told=told)
    mine = next((i for i in there.machines if of_attempt(e, i)), None)
    if mine is None or not mine.billing or mine.id != e.instance_id or e.gone:
        return mine, False, there
    try:
        return info(mine.id), True, there
    except NanolanError:
        return mine, False, there


def _view(
    e: Entry,
    instances: list[Instance] | None,
    info: Callable[[str], Instance],
    looks: dict[str, Future[Any]],
    hub: Hub,
) -> RunView:
    problems: list[str] = []
    tree, raw_progress, raw_receipt, tail = (
        _result(looks[k], problems) for k in ("tree", "progress", "receipt", "log")
    )
    receipt = of_this_attempt(e, _parsed(raw_receipt, read_receipt, problems))
    progress = of_this_attempt(e, _parsed(raw_progress, read_progress, problems))
    age_s = (now_utc() - parse_time(e.plan.created_at)).total_seconds()
    mine, terms_seen, there = _machine(e, instances, info, bool(progress or receipt))
    if instances is not None and there.unknown.startswith(NOT_ASKED):
        problems.append(there.unknown)
    state, reason = decide_state(e, mine, there.unknown, progress, receipt, age_s)
    if (
        state == LOST
    ):  # it may have left between the look at its receipt and that at the account: look once more
        raw_receipt = _call(
            lambda: hub.read(e.plan.runs_repo, f"{e.plan.folder}/receipt.json"), problems
        )
        receipt = of_this_attempt(e, _parsed(raw_receipt, read_receipt, problems))
        state, reason = decide_state(e, mine, there.unknown, progress, receipt, age_s)
    told = (receipt or progress).phases if receipt or progress else {}  # type: ignore[union-attr]
    phases = {
        p: phase_state(
            e, p, tree, _parsed(_result(looks[p], problems), parse_manifest, problems), told.get(p)
        )
        for p in e.plan.phases
    }
    if (
        state == LOST
        and not problems
        and phases
        and all(r.state == "proven" for r in phases.values())
    ):
        reason = "every phase is proven on the Hub, but the machine left no receipt"
    spent = (
        receipt.spent_cents
        if receipt
        else mine.cost_now_cents()
        if mine
        else progress.spent_cents
        if progress
        else None
    )
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


def of_this_attempt(e: Entry, told: Told | None) -> Told | None:
    """What a machine told, unless it is of another attempt: an earlier receipt says nothing about this one."""
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
    """proven only when the Hub holds, now, every file of a manifest of this very run; else what the box told."""
    folder = f"{PHASES[phase].output_dir}/{e.plan.output_tag}"
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
    if told.state == "proven" and seen:  # it was; another run has written the folder since
        return structs.replace(told, state="replaced")
    return told


def _tail(hub: Hub, repo: str, path: str) -> tuple[str, ...]:
    return tuple(
        hide(hub.read(repo, path).decode(errors="replace")).splitlines()[-LOG_LINES:]
    )  # before it is cut to the screen


def _result(answer: Future[T], problems: list[str]) -> T | None:
    return _call(answer.result, problems)


def _call(look: Callable[[], T], problems: list[str]) -> T | None:
    """What `look` sees; None when there is no such thing; None and a problem when it could not be seen."""
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
