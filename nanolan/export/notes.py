"""What is said after an export: how the job is started, followed and ended, what bounds its bill, and what does not."""

from __future__ import annotations

from collections.abc import Sequence

from nanolan.cost.budget import soft_limit_cents
from nanolan.export.hf_job import timeout_s
from nanolan.launch.prepare import Prepared
from nanolan.money import cost_cents, dollars
from nanolan.plan import SKYPILOT, Plan
from nanolan.run.jobs import cancel_command, queue_command


def notes(prepared: Prepared, start: str, secrets: Sequence[str]) -> list[tuple[str, str]]:
    """(heading, text) of each note."""
    plan = prepared.plan
    needed = " and ".join(secrets)
    return [
        ("Start it", start),
        ("", f"{needed} must be set in that command's environment; the file holds no secret"),
        (
            "Follow it",
            f"just watch 60 {plan.run_id}; just logs {plan.run_id}; {queue_command(plan)}",
        ),
        ("Stop it", f"just stop {plan.run_id} (it saves first); at once: {cancel_command(plan)}"),
        ("Deletes it", _deletes(plan)),
        ("Bounds it", _bounds(prepared)),
        ("NO BOUND", _unbound(plan)),
        ("Untried", "nobody has run this on a real account: look that your first machine is gone"),
    ]


def _deletes(plan: Plan) -> str:
    if plan.platform != SKYPILOT:
        return "Hugging Face, when the job ends or its timeout is over"
    taken = "after a preemption" if plan.offer.spot else "if its machine fails"
    return (
        f"SkyPilot's job controller, when the job ends; {taken} it starts the job on another machine, which goes on from "
        "the last uploaded state. Without a controller: SkyPilot's autodown, after 10 idle minutes"
    )


def _bounds(prepared: Prepared) -> str:
    plan = prepared.plan
    soft = max(0, soft_limit_cents(plan.limit_cents, plan.offer.hourly_cents))
    ours = (
        f"nanolan on the machine. It counts {dollars(plan.offer.hourly_cents)} for each hour of a machine, over all machines "
        f"of the run. At {dollars(soft)} it stops training and saves; at {dollars(plan.limit_cents)}, or after "
        f"{prepared.life_s / 3600:.1f} h of machines, it ends the job"
    )
    if plan.platform == SKYPILOT:
        return ours
    most = cost_cents(plan.offer.hourly_cents, timeout_s(plan))
    return f"{ours}. Hugging Face ends each job after {timeout_s(plan)} s: {dollars(most)} by today's price"


def _unbound(plan: Plan) -> str:
    if plan.platform != SKYPILOT:
        return "each submission of the file is a job with a timeout of its own; only nanolan counts over all of them"
    return (
        f"no cloud enforces a limit. max_hourly_cost ({dollars(plan.offer.hourly_cents)}) is compared with SkyPilot's price list, "
        "which may be out of date. A machine that hangs, or that SkyPilot does not take down, bills until you delete it: "
        "sky status, sky down. Machines that are lost before nanolan starts on them are not counted, nor is the job "
        "controller's own machine"
    )
