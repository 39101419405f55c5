"""The limits of a run over all its attempts: what each has cost, what is left of the money, what the launch allowed an offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from nanolan.checklist import Check
from nanolan.cost.budget import limit_for, soft_limit_cents
from nanolan.cost.forecast import Forecast
from nanolan.cost.spending import newest_cents, seen_cents
from nanolan.cost.spot import spot_cents
from nanolan.errors import PreflightFailed
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan
from nanolan.run.ledger import REFUSED, Attempt, Entry
from nanolan.run.record import AFTER_REPORT_S, Progress
from nanolan.run.remaining import Remaining
from nanolan.status.view import RunView
from nanolan.times import parse_time

MONEY = "spend limit"  # the name of the check


@dataclass(frozen=True)
class Agreed:
    """What was agreed to for all attempts of the run together."""

    hourly_cents: int
    whole_cents: int | None = None  # None: the limit of the run's own plan


@dataclass(frozen=True)
class RunBudget:
    """The limit of the whole run, and the cost of its attempts so far."""

    whole_cents: int
    spent_cents: int

    @property
    def left_cents(self) -> int:
        return self.whole_cents - self.spent_cents

    def check(self, hourly_cents: int, expected: Forecast | None, saved_s: float = 0.0) -> Check:
        """The rest of the limit, less the cost of saving, must be above the likely cost of the remaining phases, of which `saved_s`
        seconds of training are done."""
        text = (
            f"{dollars(self.left_cents)} left of {dollars(self.whole_cents)} for the whole run "
            f"({dollars(self.spent_cents)} spent)"
        )
        done = cost_cents(hourly_cents, saved_s)
        likely = max(0, expected.likely_cents - done) if expected else 0
        soft = soft_limit_cents(self.left_cents, hourly_cents)
        remaining = f"the rest: {expected.text()}" if expected else "no figures for this GPU"
        remaining += f", {dollars(done)} of it is saved" if expected and done else ""
        if soft > likely:
            return Check(MONEY, True if expected else None, f"{text}; {remaining}")
        least = limit_for(self.spent_cents + likely, hourly_cents)
        hint = "another offer" if least is None else f"spend-limit={least}"
        return Check(MONEY, False, f"{text}; {remaining}; it would be cut off. Try: {hint}")


def attempts(view: RunView, now: datetime) -> tuple[Attempt, ...]:
    """Every attempt of the run so far, with the cost of the newest one."""
    entry = view.entry
    note = f"{view.state}: {view.reason}".rstrip(": ")[:200]
    return (
        *entry.earlier,
        Attempt(entry.plan.attempt, entry.instance_id, cost_of(view, now), note, spot_cents(entry)),
    )


def cost_of(view: RunView, now: datetime) -> int:
    """The cost of the newest attempt; without a receipt, an upper estimate."""
    entry, plan = view.entry, view.entry.plan
    if view.receipt and view.receipt.spent_cents is not None:
        return newest_cents(entry, view.receipt) or 0
    nothing_rented = entry.waiting is not None or entry.note.startswith(REFUSED)
    if entry.spent_cents is not None or nothing_rented:
        return entry.spent_cents or 0
    until, told = now, 0
    if view.progress:
        until, told = parse_time(view.progress.updated), view.progress.spent_cents or 0
    lived_s = (
        min(until + timedelta(seconds=AFTER_REPORT_S), now) - parse_time(plan.created_at)
    ).total_seconds()
    lived = cost_cents(plan.offer.hourly_cents, max(0.0, lived_s))
    return min(plan.limit_cents, max(told, lived, seen_cents(entry, now)))


def whole_cents_of(entry: Entry) -> int:
    """The limit of the whole run: of the newest attempt, and what the attempts before it have cost. The cost of each is an upper
    estimate."""
    return entry.plan.limit_cents + sum(a.spent_cents or 0 for a in entry.earlier)


def budget_of(plan: Plan, past: tuple[Attempt, ...], whole_cents: int | None) -> RunBudget:
    """The budget of the whole run; PreflightFailed if nothing is left. An unknown cost counts as the attempt's whole limit."""
    costs = [plan.limit_cents if a.spent_cents is None else a.spent_cents for a in past]
    budget = RunBudget(
        plan.limit_cents + sum(costs[:-1]) if whole_cents is None else whole_cents, sum(costs)
    )
    if budget.left_cents <= 0:
        each = ", ".join(f"attempt {a.number}: {dollars(a.spent_cents)}" for a in past)
        raise PreflightFailed(
            f"run {plan.run_id} has spent {dollars(budget.spent_cents)} ({each}), its limit is "
            f"{dollars(budget.whole_cents)}: nothing is left, nothing was rented. Raise the limit of the whole run: "
            f"just resume {plan.run_id} spend-limit={budget.spent_cents // 100 + plan.limit_cents // 100 + 1}"
        )
    return budget


def with_new_limit(agreed: Agreed, followed: Plan | None, entry: Entry) -> Agreed:
    """What was agreed to, with the limit that `just limit` has set since for the attempt that was followed. Pure."""
    now = entry.plan
    if followed is None or now.attempt != followed.attempt:
        return agreed
    if now.limit_cents == followed.limit_cents:
        return agreed
    return replace(agreed, whole_cents=whole_cents_of(entry))


def saved_share(progress: Progress | None, remaining: Remaining, plan: Plan) -> float:
    """The share of the first phase's steps that are in its saved state; 0 if that is unknown, and of a foreign trainer, which
    does not continue at its place. Pure."""
    saved = remaining.saved
    if not (saved and progress and progress.steps) or plan.fork or progress.phase != saved.phase:
        return 0.0
    return min(max(saved.step / progress.steps, 0.0), 1.0)


# ------------------------------------------------------------------ the other limits of the launch
PLACE = ("cloud", "region")
LIMITS = ("max_price", "max_total", "max_duration", *PLACE)


def kept_limits(typed: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Setting -> value of the limits of the launch that are not typed again. Another place, or an instance type, that is typed
    replaces the whole place. Pure."""
    elsewhere = any(typed.get(name) for name in (*PLACE, "instance_type"))
    kept = {name: getattr(plan.limits, name, None) for name in LIMITS if not typed.get(name)}
    return {
        name: value
        for name, value in kept.items()
        if value is not None and not (name in PLACE and elsewhere)
    }


def limit_checks(old: Plan, new: Plan) -> list[Check]:
    """The limits that hold for the next attempt, and those of the launch that are not known any more. Pure."""
    now = {name: value for name in LIMITS if (value := getattr(new.limits, name, None)) is not None}
    shown = ", ".join(f"{_word(name)}={_shown(name, value)}" for name, value in now.items())
    lines = [Check("limits", True, shown)] if shown else []
    if old.limits is None and (lost := [_word(name) for name in LIMITS if name not in now]):
        text = f"not kept from the launch, by an older nanolan: {', '.join(lost)}; type those that you want"
        lines.append(Check("limits", None, text))
    return lines


def _word(name: str) -> str:
    return name.replace("_", "-")


def _shown(name: str, value: Any) -> str:
    """A limit as it is typed."""
    if name == "max_duration":
        return f"{value // 60}m" if value % 60 == 0 else f"{value}s"
    return f"{value / 100:g}" if isinstance(value, int) else str(value)
