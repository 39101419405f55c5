"""Runs whose machines somebody else rents: SkyPilot and Hugging Face Jobs.

Such a job may be started again on another machine, after a preemption or by its user. So each machine claims the run first: its
claim in the run folder says which attempt it is, and what the whole run may cost.
"""

from __future__ import annotations

import msgspec

from nanolan.plan import HF_JOB, SKYPILOT, Plan

CLAIM_FILE = "machine.json"  # in the run folder, and in the state folder of the machine
SUPERSEDED = (
    "superseded"  # the reason of a machine that ends because another one has claimed the run
)
NAMES = {SKYPILOT: "SkyPilot", HF_JOB: "Hugging Face Jobs"}
# the environment variable in which the platform tells the id of a job: the same on all of its machines
JOB_IDS = {SKYPILOT: "SKYPILOT_TASK_ID", HF_JOB: "JOB_ID"}


class Claim(msgspec.Struct, frozen=True):
    """machine.json: the newest machine of the run."""

    attempt: int
    token: str  # random, of this machine
    job: str  # the platform's id of the job; "" if it told none
    born: str  # ISO-8601 UTC: when its machine's bill began, as far as the machine knows
    at: str  # ISO-8601 UTC: of the claim
    whole_cents: int  # what the whole run may cost
    whole_s: int  # how long all its machines together may live


def job_name(plan: Plan) -> str:
    """The name of the run's job at its platform."""
    return f"lanbot-{plan.run_id}"


def cancel_command(plan: Plan, job: str = "") -> str:
    """What ends a run's machines at once, without saving."""
    if plan.platform == SKYPILOT:
        return f"sky jobs cancel -n {job_name(plan)}"
    return (
        f"hf jobs cancel {job}"
        if job
        else f"hf jobs cancel ID (of {job_name(plan)} in: hf jobs ps)"
    )


def queue_command(plan: Plan) -> str:
    """What shows whether a run's job is running, or waits for a machine."""
    return "sky jobs queue" if plan.platform == SKYPILOT else "hf jobs ps"
