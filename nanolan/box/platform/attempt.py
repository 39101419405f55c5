"""Which attempt of a job this machine is, and its plan: decided from the run folder, claimed there before anything else.

The first plan comes with the job and is checked by its hash. The plan of a later attempt is made from it and from what is
proven on the Hub, with the rest of the money; the Hub's own copy of the plan is not read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import structs

from nanolan.cost.spending import paid_cents
from nanolan.errors import BadAnswer, Conflict, NanolanError
from nanolan.hub.client import Hub
from nanolan.money import cost_cents, dollars
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.find import earlier_attempts
from nanolan.run.jobs import CLAIM_FILE, NAMES, Claim, read_claim
from nanolan.run.ledger import Attempt
from nanolan.run.record import (
    AFTER_REPORT_S,
    SILENT_S,
    SUCCEEDED,
    Progress,
    Receipt,
    error_of,
    read_progress,
    read_receipt,
    to_json,
)
from nanolan.run.remaining import Remaining, pinned_inputs, remaining_of
from nanolan.run.requests import (
    LAUNCH_FILE,
    LIMIT_FILE,
    STOP_FILE,
    LaunchClaim,
    LimitRequest,
    StopRequest,
)
from nanolan.times import iso, parse_time

TRIES = 10
LEFTOVERS = ("receipt.json", "progress.json", "postmortem.json", STOP_FILE, LIMIT_FILE)
T = TypeVar("T")


class NotNeeded(NanolanError):
    """This machine has nothing to do, and must write nothing: the run is over, or another machine works on it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Seen:
    """The run folder, as far as it concerns the next attempt; records of the newest attempt only."""

    claim: Claim | None = None
    progress: Progress | None = None
    receipt: Receipt | None = None
    earlier: tuple[Attempt, ...] = ()
    stop: StopRequest | None = None
    limit: LimitRequest | None = None
    launched: LaunchClaim | None = None  # a laptop continued the run by itself
    revision: str | None = None

    @property
    def newest(self) -> int:
        return self.claim.attempt if self.claim else 0

    @property
    def last_sign(self) -> str:
        """When the newest machine was last heard of."""
        signs = [
            self.claim.at if self.claim else "",
            self.progress.updated if self.progress else "",
        ]
        return max(signs)


def look(hub: Hub, plan: Plan) -> Seen:
    """Read the run folder at one revision. A failed read raises: it is no empty folder."""
    tree = hub.tree(plan.runs_repo)

    def read(name: str, parse: Callable[[bytes], T]) -> T | None:
        path = f"{plan.folder}/{name}"
        if path not in tree.files:
            return None
        return parse(hub.read(plan.runs_repo, path, revision=tree.revision))

    claim = read(CLAIM_FILE, read_claim)
    newest = claim.attempt if claim else 0
    receipt, progress = read("receipt.json", read_receipt), read("progress.json", read_progress)
    stop, limit = read(STOP_FILE, _decoder(StopRequest)), read(LIMIT_FILE, _decoder(LimitRequest))
    return Seen(
        claim,
        progress if progress and progress.attempt == newest else None,
        receipt if receipt and receipt.attempt >= newest else None,
        earlier_attempts(hub, plan),
        stop if stop and stop.attempt == newest else None,
        limit if limit and limit.attempt == newest else None,
        read(LAUNCH_FILE, _decoder(LaunchClaim)),
        tree.revision,
    )


def _decoder(kind: type[T]) -> Callable[[bytes], T]:
    def decode(data: bytes) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except UNREADABLE as e:
            raise BadAnswer(f"{kind.__name__} cannot be read: {str(e)[:200]}") from None

    return decode


def next_number(plan: Plan, seen: Seen, job: str, now: datetime) -> int:
    """The number of this attempt; NotNeeded if there is to be none. Pure."""
    if seen.launched and seen.launched.attempt > seen.newest:
        raise NotNeeded(
            f"run {plan.run_id} was continued by just resume, as attempt {seen.launched.attempt}; this job is not needed",
            5,
        )
    same = seen.claim is not None and bool(job) and job == seen.claim.job
    receipt = seen.receipt
    if receipt and (receipt.verdict == SUCCEEDED or same):
        error = error_of(receipt)
        outcome = f"{receipt.verdict} {receipt.reason}".rstrip()
        raise NotNeeded(
            f"run {plan.run_id} is over ({outcome}); nothing to do", error.exit_code if error else 0
        )
    if seen.claim and not same and not receipt:
        silent_s = (now - parse_time(seen.last_sign)).total_seconds()
        if silent_s < SILENT_S:
            raise NotNeeded(
                f"run {plan.run_id} is being trained by another machine of {NAMES[plan.platform]}, heard of "
                f"{max(0, silent_s) / 60:.0f} minutes ago; this one ends. If that one is gone: start this again after "
                f"{SILENT_S // 60} minutes",
                5,
            )
    return seen.newest + 1


def cost_of_newest(plan: Plan, seen: Seen, now: datetime) -> int:
    """What the newest machine so far has cost: its receipt's figure, or an upper estimate for one that vanished. Pure."""
    if seen.claim is None:
        return 0
    if seen.receipt and (paid := paid_cents(seen.receipt)) is not None:
        return paid
    told = (seen.progress.spent_cents or 0) if seen.progress else 0
    until = min(parse_time(seen.last_sign) + timedelta(seconds=AFTER_REPORT_S), now)
    lived_s = max(0.0, (until - parse_time(seen.claim.born)).total_seconds())
    return max(told, cost_cents(plan.offer.hourly_cents, lived_s))


def past_attempts(plan: Plan, seen: Seen, now: datetime) -> tuple[Attempt, ...]:
    """Every attempt before this one, with its cost. Pure."""
    if seen.claim is None:
        return ()
    note = (
        f"{seen.receipt.verdict} {seen.receipt.reason}".rstrip()
        if seen.receipt
        else f"its machine vanished, last heard of at {seen.last_sign}"
    )
    cents = cost_of_newest(plan, seen, now)
    before = tuple(a for a in seen.earlier if a.number < seen.newest)
    return (*before, Attempt(seen.newest, seen.claim.job or None, cents, note))


def whole_run(plan: Plan, seen: Seen) -> tuple[int, int]:
    """(cents, machine seconds) that the whole run may take; `just limit` may have changed them. Pure."""
    life_s = int((parse_time(plan.deadline) - parse_time(plan.created_at)).total_seconds())
    if seen.claim is None:
        return plan.limit_cents, life_s
    if seen.limit is None:
        return seen.claim.whole_cents, seen.claim.whole_s
    before = sum(a.spent_cents or 0 for a in seen.earlier if a.number < seen.newest)
    lived = (parse_time(seen.limit.deadline) - parse_time(seen.claim.born)).total_seconds()
    return before + seen.limit.limit_cents, _seconds(plan, before) + max(0, int(lived))


def _seconds(plan: Plan, cents: int) -> int:
    """How long a machine of this plan lives for so many cents."""
    return cents * 3600 // max(plan.offer.hourly_cents, 1)


def plan_of_attempt(
    first: Plan, claim: Claim, past: tuple[Attempt, ...], remaining: Remaining | None
) -> Plan:
    """The plan of this attempt: what remains of the work, the money and the time. `remaining` None: it is the first. Pure."""
    spent = sum(a.spent_cents or 0 for a in past)
    left_cents = max(1, claim.whole_cents - spent)
    left_s = max(0, min(claim.whole_s - _seconds(first, spent), _seconds(first, left_cents)))
    plan = structs.replace(
        first,
        attempt=claim.attempt,
        created_at=claim.born,
        deadline=iso(parse_time(claim.born) + timedelta(seconds=left_s)),
        limit_cents=left_cents,
    )
    if remaining is None:
        return plan
    before, saved = remaining.before, remaining.saved
    return structs.replace(
        plan,
        phases=remaining.phases,
        model_tag=before.folder.rsplit("/", 1)[1] if before else first.model_tag,
        init=None if before else first.init,
        inputs=pinned_inputs(first, remaining),
        resume=saved.files if saved else None,
        model_only=saved is not None and first.fork is None and saved.processes != first.processes,
    )


@dataclass(frozen=True)
class Begun:
    """A claimed attempt."""

    plan: Plan
    claim: Claim
    note: str  # for the log


def begin(hub: Hub, first: Plan, job: str, age_s: float, now: Callable[[], datetime]) -> Begun:
    """Claim the next attempt of the run in its folder; NotNeeded if this machine has nothing to do. `age_s`: how long it has been
    billed; `now` is asked after the Hub, whose answers set the clock."""
    for _ in range(TRIES):
        try:
            return _begin(hub, first, job, age_s, now)
        except Conflict:  # other machines commit to the same repo
            continue
    raise NanolanError(
        f"{first.runs_repo} changed {TRIES} times while this machine claimed the run"
    )


def _begin(hub: Hub, first: Plan, job: str, age_s: float, clock: Callable[[], datetime]) -> Begun:
    seen, now = look(hub, first), clock()
    born = now - timedelta(seconds=age_s)
    number = next_number(first, seen, job, now)
    past, (cents, seconds) = past_attempts(first, seen, now), whole_run(first, seen)
    claim = Claim(number, secrets.token_hex(8), job, iso(born), iso(now), cents, seconds)
    remaining = None
    if number > 1:
        remaining = remaining_of(hub, first, seen.progress.phases if seen.progress else {})
        if not remaining.phases:
            _finish(hub, first, seen, past, now)
    plan = plan_of_attempt(first, claim, past, remaining)
    _write(hub, plan, claim, past, seen)
    return Begun(plan, claim, _told(plan, claim, past, remaining))


def _write(hub: Hub, plan: Plan, claim: Claim, past: tuple[Attempt, ...], seen: Seen) -> None:
    """Put claim, plan and earlier attempts into the run folder; Conflict if that has changed since it was seen. A request to stop
    that no machine has answered is for this attempt, too."""
    files: dict[str, bytes] = {CLAIM_FILE: to_json(claim), "plan.json": plan.to_json()}
    if past:
        files["earlier.json"] = msgspec.json.encode(past)
    if past and seen.stop and not seen.receipt:
        files[STOP_FILE] = to_json(structs.replace(seen.stop, attempt=plan.attempt))
    stale = [n for n in LEFTOVERS if past and n not in files]
    hub.commit(
        plan.runs_repo,
        {f"{plan.folder}/{name}": content for name, content in files.items()},
        f"run {plan.run_id}: attempt {plan.attempt}",
        delete=[f"{plan.folder}/{name}" for name in stale],
        parent=seen.revision,
    )


def _finish(hub: Hub, plan: Plan, seen: Seen, past: tuple[Attempt, ...], now: datetime) -> None:
    """The last machine vanished after its last proof: write the receipt that it owed. Raises NotNeeded."""
    receipt = Receipt(
        plan.run_id,
        SUCCEEDED,
        message="every phase is proven; the machine vanished before its receipt, so the bill is an upper estimate",
        phases=seen.progress.phases if seen.progress else {},
        spent_cents=past[-1].spent_cents,
        ended=iso(now),
        attempt=seen.newest,
    )
    hub.commit(
        plan.runs_repo,
        {f"{plan.folder}/receipt.json": to_json(receipt)},
        f"run {plan.run_id}: {SUCCEEDED}",
    )
    raise NotNeeded(f"run {plan.run_id} is over: every phase is proven; nothing to do", 0)


def _told(plan: Plan, claim: Claim, past: tuple[Attempt, ...], remaining: Remaining | None) -> str:
    """What this attempt is, for the log."""
    if remaining is None:
        return f"attempt 1: {dollars(plan.limit_cents)} until {plan.deadline}"
    spent = sum(a.spent_cents or 0 for a in past)
    saved = remaining.saved
    where = (
        f"from step {saved.step}" if saved else "from its beginning: no state of it was uploaded"
    )
    return (
        f"attempt {plan.attempt}: {past[-1].note}; {dollars(spent)} of {dollars(claim.whole_cents)} are spent, "
        f"{dollars(plan.limit_cents)} until {plan.deadline} remain; {plan.phases[0]} goes on {where}"
    )
