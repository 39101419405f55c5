"""Runs whose machines somebody else rents: SkyPilot and Hugging Face Jobs. Names, commands and the claim of a machine; pure.

Such a job may be started again on another machine, after a preemption or by its user. So each machine claims the run first: its
claim in the run folder says which attempt it is, and what the whole run may cost.
"""

from __future__ import annotations

import msgspec
from msgspec import structs

from nanolan.errors import BadAnswer
from nanolan.plan import HF_JOB, SKYPILOT, UNREADABLE, Plan, check_numbers
from nanolan.times import parse_time

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


def read_claim(data: bytes) -> Claim:
    """A Claim from JSON; BadAnswer if it holds what no machine writes."""
    try:
        claim = check_numbers(msgspec.json.decode(data, type=Claim), CLAIM_FILE)
    except UNREADABLE as e:
        raise BadAnswer(f"{CLAIM_FILE} cannot be read: {str(e)[:200]}") from None
    parse_time(claim.born), parse_time(claim.at)  # noqa: B018  # BadAnswer for what is no time
    if claim.attempt < 1 or claim.whole_cents < 1 or claim.whole_s < 0:
        raise BadAnswer(f"{CLAIM_FILE} has an attempt or a limit that no machine writes")
    return claim


# fields of the plan that a machine may change when it claims an attempt, and `just limit`
PER_ATTEMPT = (
    "attempt",
    "created_at",
    "deadline",
    "limit_cents",
    "phases",
    "model_tag",
    "init",
    "inputs",
    "resume",
    "model_only",
)


def job_name(plan: Plan) -> str:
    """The name of the run's job at its platform."""
    return f"lanbot-{plan.run_id}"


def cancel_command(plan: Plan, job: str | None = None) -> str:
    """What ends a run's machines at once, without saving."""
    if plan.platform == SKYPILOT:
        return f"sky jobs cancel -n {job_name(plan)}"
    return (
        f"hf jobs cancel {job}"
        if job
        else f"hf jobs cancel ID (of {job_name(plan)} in: hf jobs ps)"
    )


def machines_of(plan: Plan) -> str:
    """Who knows the machines of a run, and what shows them."""
    return f"{NAMES[plan.platform]} rents its machines: {queue_command(plan)}"


def newest_plan(known: Plan, read: Plan) -> Plan:
    """The known plan as the newest machine has changed it; of what was read from the Hub only these fields count. Unchanged unless
    it is a later state of the same run."""
    same = (read.run_id, read.owner, read.platform) == (known.run_id, known.owner, known.platform)
    if not same or read.attempt < known.attempt or not set(read.phases) <= set(known.phases):
        return known
    return structs.replace(known, **{name: getattr(read, name) for name in PER_ATTEMPT})


def queue_command(plan: Plan) -> str:
    """What shows whether a run's job is running, or waits for a machine."""
    return "sky jobs queue" if plan.platform == SKYPILOT else "hf jobs ps"
