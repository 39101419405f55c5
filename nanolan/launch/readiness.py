"""Waits until a rented instance trains (its probation), and deletes one that does not come up.

The laptop polls the instance and the heartbeat in the run folder. A deletion is confirmed before another offer is tried.
Money does not depend on this wait: a box that fails its own probation deletes itself, and the provider's limit holds while
the laptop is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    NotFound,
    RunFailed,
)
from nanolan.hub.client import Hub
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.presence import quiet_s
from nanolan.run.record import (
    ENDED,
    FAILED,
    STOPPING,
    SUCCEEDED,
    TRAINING,
    UPLOADING,
    Progress,
    Receipt,
    error_of,
    read_progress,
    read_receipt,
)
from nanolan.settings.settings import is_loopback
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_and_confirm, still_runs
from nanolan.shadeform.models import GONE, Instance
from nanolan.shadeform.offers import Offer
from nanolan.times import steady

POLL_S = 10.0
POLL_LOOPBACK_S = 0.5
REPORT_S = 5 * 60.0  # longest time between two lines of progress
MIN_PATIENCE_S = 15 * 60.0  # without a heartbeat, before an instance is deleted
MIN_PATIENCE_8_GPUS_S = 30 * 60.0
REFUSED_S = 3 * 60.0  # of refusals, which a service may answer for a moment, too
BLIND_S = 30 * 60.0  # of failing requests, before the launch gives up
PROBATION_REASONS = {"boot_failed", "probation_failed"}  # reasons of a receipt
DISAPPEARED = "it disappeared before training"  # in the message of MachineFailed
WAITING, READY, FAILING = "waiting", "proved", "failing"

T = TypeVar("T", Progress, Receipt)


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one poll; `instance` is None when Shadeform no longer knows or lists it."""

    instance: Instance | None
    progress: Progress | None
    receipt: Receipt | None

    @property
    def status(self) -> str:
        return (
            " ".join(filter(None, (self.instance.status, self.instance.details)))
            if self.instance
            else "gone"
        )

    @property
    def line(self) -> str:
        heartbeat = (
            f"{self.progress.state} {self.progress.stage} {self.progress.message}"
            if self.progress
            else "no heartbeat yet"
        )
        return f"{self.status}: {' '.join(heartbeat.split())}"


def patience_s(offer: Offer) -> float:
    """Seconds without a heartbeat that a new instance gets: twice the longest boot of its type, at least 15 or 30 minutes."""
    return max(
        MIN_PATIENCE_8_GPUS_S if offer.num_gpus >= 8 else MIN_PATIENCE_S,
        2.0 * (offer.boot_max_s or 0),
    )


def assess(
    snapshot: Snapshot, silent_s: float, patience_s: float, quiet: float = 0.0
) -> tuple[str, str]:
    """(WAITING, READY or FAILING, and why). `silent_s`: seconds since the last heartbeat; `quiet`: so many of an instance that is
    listed nowhere show that it is gone."""
    receipt, state = snapshot.receipt, snapshot.progress.state if snapshot.progress else ""
    if receipt:
        failed = receipt.verdict == FAILED and receipt.reason in PROBATION_REASONS
        return (
            (FAILING, f"{receipt.reason.replace('_', ' ')}: {receipt.message}")
            if failed
            else (READY, f"the run has already ended: {receipt.verdict} {receipt.reason}".rstrip())
        )
    if state in ENDED:
        return READY, f"the run has already ended: {state}"
    if state in {TRAINING, UPLOADING}:
        return READY, f"it is ready: {state}"
    if snapshot.instance is None and snapshot.progress and silent_s < quiet:
        return WAITING, ""  # its box reports: an outage, not its end
    if snapshot.instance is None or snapshot.instance.status in GONE:
        return FAILING, f"{DISAPPEARED} ({snapshot.status})"
    if snapshot.instance.status == "error":
        return FAILING, f"the provider says: {snapshot.status}"
    if silent_s < patience_s:
        return WAITING, ""
    if state == STOPPING:
        return READY, "it is ending the run and saving its work"
    return (
        FAILING,
        f"{'no further' if snapshot.progress else 'no'} heartbeat for {silent_s / 60:.0f} minutes ({snapshot.status})",
    )


def error_if_ended(snapshot: Snapshot, plan: Plan) -> NanolanError | None:
    """The error, with the exit code of `just wait`, of a run that has already ended without success; else None."""
    error = error_of(snapshot.receipt) if snapshot.receipt else None
    progress = snapshot.progress
    if snapshot.receipt is None and progress and progress.state in ENDED - {SUCCEEDED}:
        error = RunFailed(f"run {plan.run_id} {progress.state}: {progress.message}")
    if error is None:
        return None
    money = (
        "it deletes itself"
        if plan.self_delete
        else f"ITS INSTANCE BILLS until it is deleted: just stop {plan.run_id}"
    )
    return type(error)(f"{error}; {money}. Why: just why {plan.run_id}")


def take_snapshot(api: Shadeform, hub: Hub, plan: Plan, instance_id: str) -> Snapshot:
    """Read the instance first, then its files: a box writes its last file before it deletes itself."""
    try:
        instance: Instance | None = api.info(instance_id)
    except NotFound:
        instance = next((i for i in api.instances() if i.id == instance_id), None)
    return Snapshot(
        instance,
        _read_own(hub, plan, "progress.json", read_progress),
        _read_own(hub, plan, "receipt.json", read_receipt),
    )


def wait_until_ready(
    api: Shadeform,
    hub: Hub,
    plan: Plan,
    instance: Instance,
    patience_s: float,
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = steady,
    now: Callable[[str], None] | None = None,
) -> None:
    """Wait until the instance trains. MachineFailed: it did not, and its deletion is confirmed.

    `clock` is monotonic and runs on while the laptop sleeps; every decision rests on a fresh snapshot. `now` replaces the
    lines of progress: it gets the current state every second.
    """
    say(f"waiting until it trains, for up to {patience_s / 60:.0f} minutes without a heartbeat")
    try:
        verdict, why, snapshot = _watch(api, hub, plan, instance, patience_s, say, clock, now)
    except KeyboardInterrupt:
        say(
            f"Ctrl-C or SIGTERM: no longer waiting, no other offer is tried. {still_runs(instance.id, plan)}"
        )
        raise
    except (ApiProblem, AuthProblem) as e:
        raise MayBeBilling(
            f"the instance cannot be monitored ({e}); {still_runs(instance.id, plan)}"
        ) from None
    if verdict == READY:
        return say(why)
    say(f"instance {instance.id} failed: {why}; deleting it")
    try:
        gone = delete_and_confirm(api, snapshot, clock=clock)
    except KeyboardInterrupt:
        raise MayBeBilling(
            f"Ctrl-C while instance {snapshot.id} ({dollars(snapshot.hourly_cents)}/h) was being deleted; it may still "
            f"bill. Stop it: just stop {plan.run_id}"
        ) from None
    raise MachineFailed(
        f"instance {snapshot.id} did not come up: {why}. It is deleted ({gone.seen})",
        snapshot.id,
        snapshot.cost_now_cents(),
    )


def _watch(
    api: Shadeform,
    hub: Hub,
    plan: Plan,
    instance: Instance,
    patience_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float],
    now_line: Callable[[str], None] | None,
) -> tuple[str, str, Instance]:
    """(READY or FAILING, why, the instance as last seen). Raises the last error when every poll failed for BLIND_S."""
    started = last_heard = clock()
    last_said = 0.0
    blind_since = None
    last_update = last_line = ""
    while True:
        try:
            snapshot, now = take_snapshot(api, hub, plan, instance.id), clock()
            instance = snapshot.instance or instance
            if snapshot.progress and snapshot.progress.updated != last_update:
                last_update, last_heard = snapshot.progress.updated, now
            verdict, why = assess(snapshot, now - last_heard, patience_s, quiet_s(plan))
            if (
                verdict == FAILING and not snapshot.receipt
            ):  # raises when the run folder cannot be read: then silence proves nothing
                hub.read(plan.runs_repo, f"{plan.folder}/plan.json")
            if verdict == READY and (error := error_if_ended(snapshot, plan)):
                raise error
            if verdict != WAITING:
                return verdict, why, instance
            blind_since = None
            if now_line:
                last_line = snapshot.line
            elif snapshot.line != last_line or now - last_said >= REPORT_S:
                last_line, last_said = snapshot.line, now
                say(f"  {last_line}, {dollars(instance.cost_now_cents())} so far")
        except (ApiProblem, AuthProblem) as e:  # a failed poll decides nothing
            blind_since = clock() if blind_since is None else blind_since
            if clock() - blind_since >= (REFUSED_S if isinstance(e, AuthProblem) else BLIND_S):
                raise
            if last_line != str(e):
                last_line = str(e)
                say(f"  status unavailable: {last_line}")
        _pause(api, plan, instance, last_line, started, clock, now_line)


def _pause(
    api: Shadeform,
    plan: Plan,
    instance: Instance,
    state: str,
    started: float,
    clock: Callable[[], float],
    now_line: Callable[[str], None] | None,
) -> None:
    """Wait for the next poll; `now_line` gets state, minutes and dollars every second meanwhile."""
    left_s = POLL_LOOPBACK_S if is_loopback(api.base) else POLL_S
    while now_line and left_s > 0:
        age_s = int(clock() - started)
        now_line(
            f"{age_s // 60}:{age_s % 60:02d} {dollars(instance.cost_now_cents())}{usual_text(plan)} | {state}"
        )
        api.sleep(min(left_s, 1.0))
        left_s -= 1.0
    if left_s > 0:
        api.sleep(left_s)


def usual_text(plan: Plan) -> str:
    """How long it usually takes until a run trains, or ""."""
    stages = plan.predicted.stage_s if plan.predicted else {}
    seconds = sum(stages.get(name, 0) for name in ("boot", "setup", "download"))
    return f" (training usually begins after {max(1, round(seconds / 60))} min)" if seconds else ""


def _read_own(hub: Hub, plan: Plan, name: str, read: Callable[[bytes], T]) -> T | None:
    """The file of the run folder as this attempt wrote it; None if it is missing or an earlier attempt's."""
    try:
        value = read(hub.read(plan.runs_repo, f"{plan.folder}/{name}"))
    except NotFound:
        return None
    return value if value.attempt == plan.attempt else None
