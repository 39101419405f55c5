"""Rebuilds runs that are missing in this laptop's ledger from the account's tags and plan.json in the run folder.

Anyone with write access can change that file, so it is untrusted: it is checked like any other input, the token goes only to the
Hub it came from, and a run enters the ledger (which allows commands to change it) only if its owner is this laptop or --owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from nanolan.errors import BadAnswer, NotFound, UsageProblem, quoted
from nanolan.hub.client import Hub
from nanolan.money import MOST_DOLLARS
from nanolan.phases import SEQUENCES
from nanolan.plan import UNREADABLE, Plan, read_plan
from nanolan.run.ledger import Attempt, Entry, Ledger, matching
from nanolan.settings.settings import TABLE, Settings, is_loopback
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import Listing
from nanolan.times import parse_time

MOST_BYTES = 1 << 20  # of a plan.json; typical: a few kB
NAMES = ("run_name", "model_tag", "output_tag", "hf_repo", "runs_repo", "wandb_project")
ID = r"[0-9a-f]{8}"


@dataclass(frozen=True)
class RunSearch:
    """Sources of runs that are not in the ledger; `hub` is None without a token."""

    s: Settings
    hub: Hub | None
    instances: Callable[[], list[Instance]]

    @property
    def repos(self) -> list[str]:
        return [r for r in dict.fromkeys((self.s.runs_repo, self.s.hf_repo)) if r]


def run_search(s: Settings, api: Shadeform) -> RunSearch:
    """The account and the Hub that the settings name; without a Shadeform key the Hub alone, which has the runs of jobs."""
    instances = api.instances if api.has_key else lambda: Listing([])
    return RunSearch(s, Hub(s.hf_endpoint, s.hf_token) if s.hf_token else None, instances)


def find(ledger: Ledger, which: str | None, there: RunSearch, owner: str | None = None) -> Entry:
    """The run meant by `which`: from the ledger, else rebuilt (and recorded, if this laptop or `owner` owns it)."""
    if not which or matching(ledger.entries(), which):
        return ledger.find(which)
    if there.hub is None or not there.repos:
        raise UsageProblem(
            f"no run called {quoted(which, 60)} in the ledger (to find runs of another laptop, set HF_TOKEN and "
            "HF_REPO). See: just status"
        )
    instances = there.instances()
    found = candidates(which, instances, _run_folders(there.hub, there.repos)) or _named(
        which, there, instances
    )
    if len(found) != 1:
        raise UsageProblem(
            f"{quoted(which, 60)} fits several runs: {', '.join(sorted(found))}; give the id"
            if found
            else f"no run called {quoted(which, 60)} in the ledger, on the account or in {' and '.join(there.repos)}. "
            "See: just status, just orphans"
        )
    return add_to_ledger(ledger, rebuild(there, found.pop(), instances), instances, owner)


def candidates(which: str, instances: list[Instance], folders: set[str]) -> set[str]:
    """The run ids that match an instance id, a run id or a prefix of one."""
    known = {i.run_id for i in instances if i.run_id} | folders
    exact = {i.run_id for i in instances if i.run_id and i.id == which} | ({which} & known)
    return exact or {run_id for run_id in known if run_id.startswith(which)}


def add_to_ledger(
    ledger: Ledger, entry: Entry, instances: list[Instance], owner: str | None
) -> Entry:
    """Record a rebuilt entry in the ledger if plan and tags agree that this laptop, or `owner`, owns the run."""
    owners = {entry.plan.owner} | {
        i.owner for i in instances if i.run_id == entry.plan.run_id and i.owner
    }
    if owners <= {ledger.owner, owner}:
        ledger.put(entry)
    return entry


def check_owner(ledger: Ledger, entry: Entry) -> None:
    """UsageProblem unless the run is in the ledger: runs of other owners are shown, never changed."""
    plan = entry.plan
    if not ledger.has(plan.run_id):
        raise UsageProblem(
            f"run {plan.run_id} belongs to owner {plan.owner}, not to this laptop: nothing was changed. If that is you: "
            f"--owner {plan.owner}"
        )


def rebuild(there: RunSearch, run_id: str, instances: list[Instance]) -> Entry:
    """Rebuild the entry of a run from its folder and the account; NotFound or BadAnswer says why it failed."""
    if there.hub is None:
        raise UsageProblem(
            "the plan of a run is read from the Hub: set HF_TOKEN and HF_REPO (or RUNS_REPO)"
        )
    for repo in there.repos:
        try:
            plan = checked_plan(
                there.hub.read(repo, f"runs/{run_id}/plan.json"), run_id, repo, there.s
            )
        except NotFound:
            continue
        mine = sorted((i for i in instances if i.run_id == run_id), key=lambda i: not i.billing)
        return Entry(
            plan,
            mine[0].id if mine else None,
            earlier=earlier_attempts(there.hub, plan),
            rebuilt=True,
        )
    raise NotFound(
        f"run {run_id} has no plan.json in {' or '.join(there.repos)}: it cannot be rebuilt"
    )


def later_attempt(hub: Hub, entry: Entry, instances: Iterable[Instance]) -> Entry:
    """The entry of the run's newest attempt, if an instance of a later attempt bills: another laptop, or a guard, has launched it.

    Raises if the plan of that attempt cannot be read."""
    old = entry.plan
    later = [i for i in instances if i.billing and i.is_run(old.run_id) and i.attempt > old.attempt]
    if not later:
        return entry
    data = hub.read(old.runs_repo, f"{old.folder}/plan.json")
    plan = checked_plan(data, old.run_id, old.runs_repo, old)
    if plan.attempt <= old.attempt or plan.owner != old.owner:
        return entry
    mine = next((i.id for i in later if i.attempt == plan.attempt), None)
    return Entry(plan, mine, earlier=earlier_attempts(hub, plan), rebuilt=True)


def checked_plan(data: bytes, run_id: str, repo: str, s: Settings | Plan) -> Plan:
    """The Plan in `data`, read from runs/<run_id>/ of `repo`; BadAnswer unless a launch could have written it. `s` has the
    addresses that it must have."""
    where = f"{repo}/runs/{run_id}/plan.json"
    if len(data) > MOST_BYTES:
        raise BadAnswer(f"{where} has {len(data)} bytes: it is not a plan")
    try:
        plan = read_plan(data)
        for name in NAMES:
            TABLE[name]["parse"](getattr(plan, name))
        parse_time(plan.created_at).astimezone(), parse_time(plan.deadline).astimezone()  # noqa: B018  # a year 9999 overflows
    except (UsageProblem, RecursionError, OverflowError) as e:
        raise BadAnswer(f"{where}: {e or type(e).__name__}") from None
    for what, good in (
        ("run id", plan.run_id == run_id),
        ("owner", re.fullmatch(ID, plan.owner)),
        ("runs_repo", plan.runs_repo == repo),
        ("Hub", plan.hf_endpoint == s.hf_endpoint),
        ("Shadeform address", plan.shadeform_api == s.shadeform_api),
        ("phases", plan.phases in _runs_of_phases(plan)),
        ("attempt", plan.attempt >= 1),
        ("limit", 0 < plan.limit_cents <= 100 * MOST_DOLLARS),
        ("price", plan.offer.hourly_cents > 0),
        ("number of processes", plan.processes > 0),
        ("device", plan.device == "cuda" or is_loopback(s.shadeform_api)),
    ):
        if not good:
            raise BadAnswer(f"{where} has an unexpected {what}; it is ignored")
    return plan


def _runs_of_phases(plan: Plan) -> set[tuple[str, ...]]:
    """The phase sequences of a launch, and those that a resume can train."""
    if plan.fork:
        return (
            {plan.phases} if plan.phases and set(plan.phases) <= plan.fork.phases.keys() else set()
        )
    return {phases[i:] for phases in SEQUENCES.values() for i in range(len(phases))}


def _run_folders(hub: Hub, repos: list[str]) -> set[str]:
    found = (
        re.fullmatch(rf"runs/({ID})/plan\.json", p) for repo in repos for p in hub.tree(repo).files
    )
    return {m[1] for m in found if m}


def _named(which: str, there: RunSearch, instances: list[Instance]) -> set[str]:
    """The runs with that name that have an instance; unreadable plans are skipped."""
    found = set()
    for run_id in {i.run_id for i in instances if i.run_id}:
        try:
            if rebuild(there, run_id, instances).plan.run_name == which:
                found.add(run_id)
        except (NotFound, BadAnswer):
            continue
    return found


def earlier_attempts(hub: Hub, plan: Plan) -> tuple[Attempt, ...]:
    """The earlier attempts and their costs, as the resuming laptop recorded them."""
    try:
        earlier = msgspec.json.decode(
            hub.read(plan.runs_repo, f"{plan.folder}/earlier.json"), type=tuple[Attempt, ...]
        )
    except NotFound:
        return ()
    except UNREADABLE as e:
        raise BadAnswer(f"{plan.folder}/earlier.json cannot be read: {str(e)[:200]}") from None
    if any((a.spent_cents or 0) < 0 for a in earlier):  # a negative cost would raise the limit
        raise BadAnswer(f"{plan.folder}/earlier.json holds a negative cost")
    return earlier
