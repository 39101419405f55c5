"""When a run will end, what it will have cost by then, and whether its limits allow that. Pure.

Time left = the rest of the current stage + the later stages as predicted in the plan, times this instance's slowdown:

    slowdown = seconds of the trainings so far (the current one to its end, as the trainer estimates) / their predicted seconds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from nanolan.cost.budget import limit_for, soft_limit_cents
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan
from nanolan.run.record import Progress
from nanolan.times import local_text, parse_time

FIRST = ("boot", "setup", "download")  # before the phases; "probation" counts as set-up
EASE = 1.1  # a suggested limit is this many times the forecast


def stages_of(phases: tuple[str, ...]) -> list[str]:
    """Every stage of a run, in order."""
    return [
        *FIRST,
        *(f"{phase}.{part}" for phase in phases for part in ("train", "evaluate")),
        "upload",
    ]


def left_s(
    plan: Plan, spent: Mapping[str, float], stage: str, phase_left_s: float | None
) -> float | None:
    """Seconds until the run ends; None if unknown.

    `spent`: seconds by stage so far (nanolan/box/watch/timeline.py); `stage`: the current one;
    `phase_left_s`: the trainer's own estimate.
    """
    predicted, order = plan.predicted.stage_s if plan.predicted else {}, stages_of(plan.phases)
    now = _position(order, stage)
    if now is None or any(s not in predicted for s in order[now + 1 :]):
        return None
    at_hand = (
        _stage_left_s(order[now], predicted, spent, phase_left_s)
        if stage in (order[now], "probation")
        else 0.0
    )
    if at_hand is None:
        return None
    slowdown = _slowdown(predicted, spent, order[now], phase_left_s)
    return at_hand + sum(predicted[s] * (slowdown if "." in s else 1.0) for s in order[now + 1 :])


def _position(order: list[str], stage: str) -> int | None:
    """The index of a stage of the timeline in the order; None for the stages after the run (save, delete)."""
    known = (
        "setup" if stage == "probation" else stage.replace(".upload", ".evaluate")
    )  # the wait for a phase's upload follows its evaluation
    return order.index(known) if known in order else None


def _stage_left_s(
    stage: str,
    predicted: Mapping[str, float],
    spent: Mapping[str, float],
    phase_left_s: float | None,
) -> float | None:
    if stage.endswith(".train") and phase_left_s is not None:
        return phase_left_s
    return max(0.0, predicted[stage] - spent.get(stage, 0.0)) if stage in predicted else None


def _slowdown(
    predicted: Mapping[str, float],
    spent: Mapping[str, float],
    stage: str,
    phase_left_s: float | None,
) -> float:
    """Measured over predicted training time on this instance; 1 before anything is measured."""
    took = {s: seconds for s, seconds in spent.items() if s.endswith(".train") and s != stage}
    if stage.endswith(".train") and phase_left_s is not None:
        took[stage] = spent.get(stage, 0.0) + phase_left_s
    usual = sum(predicted.get(s, 0.0) for s in took)
    return sum(took.values()) / usual if usual > 0 else 1.0


@dataclass(frozen=True)
class Projection:
    """The expected end and cost of a running run; None where unknown."""

    will_cost_cents: int | None = None
    ends: datetime | None = None
    limit_at: datetime | None = (
        None  # when the bill reaches the limit, or the deadline if that is sooner
    )
    by_date: bool = False  # the deadline comes before the bill reaches the limit
    warning: str = ""  # what happens if the forecast crosses the limit


def project(
    plan: Plan, progress: Progress | None, spent_cents: int | None, hourly_cents: int, now: datetime
) -> Projection:
    """The projection from the last heartbeat and what is spent `now`."""
    if spent_cents is None:
        return Projection()
    until_limit_s = max(0, plan.limit_cents - spent_cents) * 3600 / max(hourly_cents, 1)
    deadline = parse_time(plan.deadline)
    limit_at = min(now + timedelta(seconds=min(until_limit_s, 1e9)), deadline)
    if progress is None or progress.left_s is None:
        return Projection(limit_at=limit_at, by_date=limit_at == deadline)
    ends = max(now, parse_time(progress.updated) + timedelta(seconds=min(progress.left_s, 1e9)))
    will_cost = spent_cents + cost_cents(hourly_cents, (ends - now).total_seconds())
    soft = (
        progress.soft_cents
        if progress.soft_cents is not None
        else soft_limit_cents(plan.limit_cents, hourly_cents)
    )
    warning = _warning(plan, will_cost, soft, hourly_cents, ends >= deadline)
    return Projection(will_cost, ends, limit_at, limit_at == deadline, warning)


def _warning(plan: Plan, will_cost: int, soft: int, hourly_cents: int, late: bool) -> str:
    if will_cost < soft and not late:
        return ""
    enough = limit_for(int(EASE * max(will_cost, plan.limit_cents * late)), hourly_cents)
    raise_it = f"raise it: just limit {plan.run_id} {enough}; or " if enough else ""
    crosses = (
        f"it will cost about {dollars(will_cost)}; at {dollars(max(soft, 0))} of {dollars(plan.limit_cents)} it saves "
        "and stops"
    )
    if late and will_cost < soft:
        crosses = f"it will end after its deadline, {local_text(plan.deadline)}"
    return f"{crosses}. To let it finish, {raise_it}stop it now: just stop {plan.run_id}"
