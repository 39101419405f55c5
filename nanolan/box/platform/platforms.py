"""`Platform`: what the box program must know of whoever rented its machine. A row for each, chosen by the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nanolan.box.context import BoxDeps, BoxRun
from nanolan.box.platform.job import begin_job, end_job, exit_code
from nanolan.box.self_delete import delete, wait_to_be_deleted
from nanolan.hub.proof import Warrant
from nanolan.plan import HF_JOB, SHADEFORM, SKYPILOT, Plan
from nanolan.redact import Secret
from nanolan.run.record import Receipt
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.keyless import KeylessClient

KEYLESS = "keyless"  # Shadeform, without a key on the machine


def _with_key(plan: Plan, secrets: Mapping[str, Secret], deps: BoxDeps) -> Shadeform:
    return deps.api(secrets["SHADEFORM_API_KEY"], plan.shadeform_api)


def _from_the_plan(plan: Plan, secrets: Mapping[str, Secret], deps: BoxDeps) -> Shadeform:
    return KeylessClient(plan)


def _as_launched(plan: Plan, token: Secret, state: Path, deps: BoxDeps) -> Plan:
    return plan


@dataclass(frozen=True)
class Platform:
    """One way to end a machine, and what is known of the machine there."""

    # (plan, secrets, deps) -> what answers about this machine and its bill
    client: Callable[[Plan, Mapping[str, Secret], BoxDeps], Shadeform]
    # returns when the machine ends as soon as this program has ended; one that deletes itself takes this program with it
    leave: Callable[[BoxRun, Warrant], None]
    parting: str  # what the log says of this machine at its end
    # of the box program, when it has left
    exit_code: Callable[[Receipt], int] = lambda receipt: 0
    # (the plan that came with this machine, token, state folder, deps) -> the plan of this attempt
    begin: Callable[[Plan, Secret, Path, BoxDeps], Plan] = _as_launched


JOB = Platform(_from_the_plan, end_job, "done with", exit_code, begin_job)
PLATFORMS: dict[str, Platform] = {
    SHADEFORM: Platform(_with_key, delete, "deleting"),
    KEYLESS: Platform(_from_the_plan, wait_to_be_deleted, "done with"),
    SKYPILOT: JOB,
    HF_JOB: JOB,
}


def platform_of(plan: Plan) -> Platform:
    """The row of a plan."""
    keyless = not plan.is_job and not plan.self_delete
    return PLATFORMS[KEYLESS if keyless else plan.platform]
