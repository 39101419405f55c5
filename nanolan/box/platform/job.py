"""A machine that is a job of SkyPilot or Hugging Face: it claims its attempt first; at the end this program ends, and they take the
machine down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from nanolan.box.context import BoxDeps, BoxRun, note, say
from nanolan.box.platform.attempt import begin
from nanolan.box.self_delete import accepted
from nanolan.errors import BadAnswer
from nanolan.hub.proof import Warrant
from nanolan.plan import UNREADABLE, Plan, read_plan
from nanolan.redact import Secret
from nanolan.run.jobs import CLAIM_FILE, JOB_IDS, NAMES, Claim
from nanolan.run.record import Receipt, error_of, to_json
from nanolan.run.requests import LIMIT_FILE, LimitRequest
from nanolan.times import parse_time

PLAN_FILE = "attempt.json"  # in the state folder: the plan of this attempt
CLAIM_S = 600.0  # patience with the Hub before the claim
# what the bill counts before boot.sh at most: the platform starts the machine and sets it up; and in all before the claim
BEFORE_BOOT_S, BEFORE_CLAIM_S = 30 * 60, 90 * 60


def begin_job(first: Plan, token: Secret, state: Path, deps: BoxDeps) -> Plan:
    """The plan of this attempt: the one that an earlier start of this program claimed, or the next."""
    if plan := kept_plan(state):
        return plan
    hub = deps.hub(first.hf_endpoint, token, patience_s=CLAIM_S)
    job = os.environ.get(JOB_IDS[first.platform], "")
    begun = begin(hub, first, job, age_s(state), deps.now)
    plan = begun.plan
    limit = LimitRequest(
        plan.attempt,
        plan.limit_cents,
        plan.deadline,
        int(parse_time(plan.deadline).timestamp()),
        begun.claim.at,
    )
    note(state / LIMIT_FILE, to_json(limit))  # the dead man's timer reads it
    note(state / CLAIM_FILE, to_json(begun.claim))
    note(state / PLAN_FILE, plan.to_json())
    say(begun.note)
    return plan


def kept_plan(state: Path) -> Plan | None:
    """The plan that an earlier start of this program claimed on this machine."""
    try:
        return read_plan((state / PLAN_FILE).read_bytes())
    except (OSError, BadAnswer):
        return None


def kept_claim(state: Path) -> Claim | None:
    """This machine's claim."""
    try:
        return msgspec.json.decode((state / CLAIM_FILE).read_bytes(), type=Claim)
    except (OSError, *UNREADABLE):
        return None


def first_process_started() -> float:
    """When this machine, or the container on it, was started."""
    return psutil.Process(1).create_time()


def age_s(
    state: Path,
    started: Callable[[], float] = first_process_started,
    wall: Callable[[], float] = time.time,
) -> float:
    """For how long this machine has been billed, as far as it can know: since its first process, but of a machine that was up for
    long only a while before boot.sh; in a rehearsal since boot.sh. By one clock, which may be wrong, and bounded: it may jump."""
    now = wall()
    try:
        booted = float((state / "booted").read_text())
    except (OSError, ValueError):
        booted = now
    since = booted
    if not os.environ.get("BOX_ROOT"):
        since = min(booted, max(started(), booted - BEFORE_BOOT_S))
    return min(max(0.0, now - since), BEFORE_CLAIM_S)


def end_job(box: BoxRun, warrant: Warrant) -> None:
    """Save what has no proof yet; the end of this program ends the job."""
    say(
        f"the job ends: {accepted(box, warrant)}. {NAMES[box.plan.platform]} takes this machine down"
    )


def exit_code(receipt: Receipt) -> int:
    """0 for a run that succeeded or that its user stopped; else the verdict's, for which nobody starts the job again."""
    error = None if receipt.reason == "user" else error_of(receipt)
    return error.exit_code if error else 0
