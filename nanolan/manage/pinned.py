"""Checks before the next attempt of what the run has on the Hub: the files pinned at the launch (inputs, data sets, saved state,
code, a foreign trainer), and what the last proven phase has measured, for the gate."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from nanolan.checklist import Check
from nanolan.checkpoint.manifest import hash_bytes
from nanolan.errors import BadAnswer, NanolanError, NotFound
from nanolan.hub.client import Hub
from nanolan.hub.input_check import inspect_datasets, inspect_inputs, inspect_state
from nanolan.hub.pins import READ_IDENTITY, what_is_lost
from nanolan.phases import GATE, gate_problem, gate_that_opens, never_measured
from nanolan.plan import Code, Fork, Pinned, Plan
from nanolan.run.record import PhaseReport
from nanolan.run.remaining import Remaining, SavedWork, measured_of
from nanolan.trainers.fork_job import FORK_BUNDLE


def check_pins(hub: Hub, pins: tuple[Pinned, ...]) -> tuple[Check, ...]:
    """A failed check for every pin with missing files, or one passed check."""
    with ThreadPoolExecutor(8) as pool:
        problems = [p for p in pool.map(lambda pin: _missing(hub, pin), pins) if p]
    what = ", ".join(dict.fromkeys(p.repo for p in pins))
    return tuple(Check("pinned files", False, p) for p in problems) or (
        Check("pinned files", True, f"as at the launch: {what}"),
    )


def check_usable(
    hub: Hub,
    inputs: tuple[Pinned, ...],
    datasets: tuple[Pinned, ...],
    remaining: Remaining,
    fork: Fork | None = None,
) -> Check:
    """Whether a trainer can start from the pinned files and the saved state."""
    try:
        reads = bool(READ_IDENTITY & set(remaining.phases))
        facts = inspect_inputs(hub, inputs, fork, identity=reads)
        inspect_datasets(hub, datasets)
        if remaining.saved:
            inspect_state(hub, remaining.saved.files, own=fork is None)
    except NanolanError as e:
        return Check("inputs", False, f"{e}. The run cannot continue; fix it, then launch again")
    return Check("inputs", True, facts)


def _missing(hub: Hub, pin: Pinned) -> str:
    try:
        lost = what_is_lost(hub, pin)
    except NanolanError as e:
        return str(e)
    return lost and f"{lost}, which the run started from; launch a new run"


def run_code(hub: Hub, plan: Plan, rebuilt: bool) -> tuple[Code, bytes, Check]:
    """The code of the launch, checked against the plan; `rebuilt`: the plan itself comes from the Hub."""
    other = "use this checkout's: --code here"
    try:
        data = hub.read(plan.runs_repo, f"{plan.folder}/code.bundle")
    except (NotFound, BadAnswer) as e:
        return plan.code, b"", Check("code", False, f"{e}; {other}")
    if hash_bytes("code.bundle", data).sha256 != plan.code.sha256:
        return (
            plan.code,
            b"",
            Check(
                "code",
                False,
                f"code.bundle in {plan.runs_repo}/{plan.folder} is not the run's; {other}",
            ),
        )
    whose = (
        f", as the Hub has it: anyone who may write {plan.runs_repo} can change it; or {other}"
        if rebuilt
        else ""
    )
    return (
        plan.code,
        data,
        Check(
            "code",
            None if rebuilt else True,
            f"the run's own, of commit {plan.code.commit[:8]}{whose}",
        ),
    )


def bundle_checks(hub: Hub, plan: Plan) -> tuple[Check, ...]:
    """Whether the run folder still has the bundle of the run's trainer; nothing for nanolan's own."""
    code = plan.fork.code if plan.fork else None
    if code is None:
        return ()
    try:
        data = hub.read(plan.runs_repo, f"{plan.folder}/{FORK_BUNDLE}")
    except NanolanError as e:
        return (Check("trainer", False, f"{e}; launch again"),)
    if hash_bytes(FORK_BUNDLE, data).sha256 != code.sha256:
        where = f"{plan.runs_repo}/{plan.folder}"
        return (
            Check("trainer", False, f"{FORK_BUNDLE} in {where} is not the run's; launch again"),
        )
    return (Check("trainer", True, f"the run's own, of commit {code.commit[:8]}"),)


def gpu_checks(old: Plan, new: Plan) -> tuple[Check, ...]:
    """A foreign trainer's batch was checked for the number of GPUs of its launch, which its options do not show any more."""
    if old.fork is None or old.processes == new.processes:
        return ()
    text = f"its batch was checked for {old.processes} GPUs, this offer has {new.processes}: num-gpus={old.processes}"
    return (Check("trainer, batch", False, f"{text}, or launch again"),)


def gate_checks(
    hub: Hub, plan: Plan, remaining: Remaining, reports: Mapping[str, PhaseReport]
) -> tuple[Check, ...]:
    """Whether the run's gate opens for the last proven phase, and can open for those that remain. Scores that are in no meta on
    the Hub are in the `reports` of the run's records."""
    gate, phases = plan.gate, remaining.phases
    if gate is None:
        return ()
    if remaining.before is None and len(phases) < 2:
        text = (
            f"{gate} has no effect: it is tested between two phases, and only {phases[0]} remains"
        )
        return (Check(GATE, None, text),)
    if remaining.before and (shut := _shut(hub, plan, remaining.before, reports)):
        return (Check(GATE, False, f"{phases[0]} does not start: {shut}"),)
    if plan.fork is None and len(phases) > 1:
        never = never_measured(gate, phases[:-1], plan.evaluate, plan.humaneval)
        if never:
            return (Check(GATE, False, f"{never}. Type another: gate=..., or gate=none"),)
    if remaining.before is None:
        return ()
    return (Check(GATE, True, f"{remaining.before.phase} has passed {gate}"),)


def _shut(hub: Hub, plan: Plan, before: SavedWork, reports: Mapping[str, PhaseReport]) -> str:
    """Why the gate does not open for the last proven phase, and what to type; "" if it opens."""
    gate = plan.gate or ""
    try:
        told = reports[before.phase].measured if before.phase in reports else {}
        measured = told | measured_of(hub, before)
    except NanolanError as e:
        return (
            f"what {before.phase} has measured is unavailable ({e}). Try again, or type gate=none"
        )
    why = gate_problem(gate, measured)
    again = f"just resume {plan.run_id} {gate_that_opens(gate, measured)}"
    return why and f"after {before.phase}, {why}. To go on all the same: {again}"
