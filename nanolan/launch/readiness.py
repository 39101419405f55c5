"""Probation: from the read-back until the machine has proved itself, which is training.

The launcher looks at the machine and at what its box program tells in the run folder. A machine that does not come up is
deleted, seen to be gone, and another offer may be tried. Nothing depends on this: a box that fails its own probation deletes
itself, and the provider's limit holds whatever becomes of the laptop.
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
from nanolan.shadeform.lifecycle import delete_and_confirm, goes_on
from nanolan.shadeform.models import GONE, Instance
from nanolan.shadeform.offers import Offer
from nanolan.times import steady

POLL_S, POLL_HERE_S = 10.0, 0.5  # the second one on loopback
SAY_S = 5 * 60.0  # a line at least that often
LEAST_S, LEAST_OF_8_S = 15 * 60.0, 30 * 60.0  # of silence, before a machine is given up
BLIND_S = 30 * 60.0  # of looks that fail, before the launcher is
OF_PROBATION = {"boot_failed", "probation_failed"}  # reasons of a receipt
WAITING, PROVED, FAILING = "waiting", "proved", "failing"

T = TypeVar("T", Progress, Receipt)


@dataclass(frozen=True)
class Sighting:
    """What one look showed; `instance` None: Shadeform neither knows nor lists it any more."""

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
        told = (
            f"{self.progress.state} {self.progress.stage} {self.progress.message}"
            if self.progress
            else "no word from it yet"
        )
        return f"{self.status}: {' '.join(told.split())}"


def patience_s(offer: Offer) -> float:
    """How long a new machine may be silent: twice the time that its type needs to boot at most, and never little."""
    return max(LEAST_OF_8_S if offer.num_gpus >= 8 else LEAST_S, 2.0 * (offer.boot_max_s or 0))


def judge(seen: Sighting, silent_s: float, patience_s: float) -> tuple[str, str]:
    """(WAITING, PROVED or FAILING, and why). `silent_s`: since the last word from the box."""
    receipt, state = seen.receipt, seen.progress.state if seen.progress else ""
    if receipt:
        failed = receipt.verdict == FAILED and receipt.reason in OF_PROBATION
        return (
            (FAILING, f"{receipt.reason.replace('_', ' ')}: {receipt.message}")
            if failed
            else (PROVED, f"its run is over already: {receipt.verdict} {receipt.reason}".rstrip())
        )
    if state in ENDED:
        return PROVED, f"its run is over already: {state}"
    if state in {TRAINING, UPLOADING}:
        return PROVED, f"it has proved itself: {state}"
    if seen.instance is None or seen.instance.status in GONE:
        return FAILING, f"it went away before it trained ({seen.status})"
    if seen.instance.status == "error":
        return FAILING, f"the provider says: {seen.status}"
    if silent_s < patience_s:
        return WAITING, ""
    if state == STOPPING:
        return PROVED, "it is ending its run by itself, and saves what there is"
    return (
        FAILING,
        f"{'no further' if seen.progress else 'no'} word from it for {silent_s / 60:.0f} minutes ({seen.status})",
    )


def is_over(seen: Sighting, plan: Plan) -> NanolanError | None:
    """The error of a run that has ended already without a success, in the exit code that `just wait` would give."""
    error = error_of(seen.receipt) if seen.receipt else None
    told = seen.progress
    if seen.receipt is None and told and told.state in ENDED - {SUCCEEDED}:
        error = RunFailed(f"run {plan.run_id} {told.state}: {told.message}")
    if error is None:
        return None
    money = (
        "it deletes itself"
        if plan.self_delete
        else f"ITS MACHINE BILLS until it is deleted: just stop {plan.run_id}"
    )
    return type(error)(f"{error}; {money}. Why: just why {plan.run_id}")


def look(api: Shadeform, hub: Hub, plan: Plan, instance_id: str) -> Sighting:
    """The machine first, then what it told: whatever it leaves behind is there before it goes."""
    try:
        instance: Instance | None = api.info(instance_id)
    except NotFound:
        instance = next((i for i in api.instances() if i.id == instance_id), None)
    return Sighting(
        instance,
        _told(hub, plan, "progress.json", read_progress),
        _told(hub, plan, "receipt.json", read_receipt),
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
) -> None:
    """Until the machine has proved itself. MachineFailed: it did not, and is seen to be deleted.

    The clock goes on while a laptop sleeps, and nobody sets it; nothing is decided but on what was just seen.
    """
    say(f"waiting until it has proved itself; it may be silent for {patience_s / 60:.0f} minutes")
    try:
        verdict, why, seen = _watch(api, hub, plan, instance, patience_s, say, clock)
    except KeyboardInterrupt:
        say(
            f"Ctrl-C or SIGTERM: no longer waiting, no other offer will be tried. {goes_on(instance.id, plan)}"
        )
        raise
    except (ApiProblem, AuthProblem) as e:
        raise MayBeBilling(
            f"the machine cannot be followed ({e}); {goes_on(instance.id, plan)}"
        ) from None
    if verdict == PROVED:
        return say(why)
    say(f"instance {instance.id} failed: {why}; deleting it")
    try:
        gone = delete_and_confirm(api, seen, clock=clock)
    except KeyboardInterrupt:
        raise MayBeBilling(
            f"Ctrl-C while instance {seen.id} ({dollars(seen.hourly_cents)}/h) was being deleted; it may still "
            f"bill. Stop it: just stop {plan.run_id}"
        ) from None
    raise MachineFailed(
        f"instance {seen.id} did not come up: {why}. It is deleted ({gone.seen})",
        seen.id,
        seen.cost_now_cents(),
    )


def _watch(
    api: Shadeform,
    hub: Hub,
    plan: Plan,
    instance: Instance,
    patience_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> tuple[str, str, Instance]:
    """(PROVED or FAILING, why, the machine as last seen); the error of a look when none has worked for BLIND_S."""
    heard, said, blind_since = clock(), 0.0, None
    word = line = ""
    while True:
        try:
            seen, now = look(api, hub, plan, instance.id), clock()
            instance = seen.instance or instance
            if seen.progress and seen.progress.updated != word:
                word, heard = seen.progress.updated, now
            verdict, why = judge(seen, now - heard, patience_s)
            if (
                verdict == FAILING and not seen.receipt
            ):  # no word and no sight of the folder are two things
                hub.read(plan.runs_repo, f"{plan.folder}/plan.json")
            if verdict == PROVED and (error := is_over(seen, plan)):
                raise error
            if verdict != WAITING:
                return verdict, why, instance
            blind_since = None
            if seen.line != line or now - said >= SAY_S:
                line, said = seen.line, now
                say(f"  {line}, {dollars(instance.cost_now_cents())} so far")
        except ApiProblem as e:  # a look that failed is not an answer
            blind_since = clock() if blind_since is None else blind_since
            if clock() - blind_since >= BLIND_S:
                raise
            if line != str(e):
                line = str(e)
                say(f"  cannot be seen now: {line}")
        api.sleep(POLL_HERE_S if is_loopback(api.base) else POLL_S)


def _told(hub: Hub, plan: Plan, name: str, read: Callable[[bytes], T]) -> T | None:
    """What this attempt left in that file; an earlier attempt's says nothing about this one."""
    try:
        told = read(hub.read(plan.runs_repo, f"{plan.folder}/{name}"))
    except NotFound:
        return None
    return told if told.attempt == plan.attempt else None
