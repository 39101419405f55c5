"""Going on with a run on another machine: the same run id, the next attempt, from what is proven on the Hub.

What the run was launched with stays: its settings, its pinned inputs and data sets, its code. New are the machine, the dates, and
what is left of the phases and of the money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from nanolan.checklist import Check
from nanolan.cost.budget import limit_for, soft_limit_cents
from nanolan.cost.forecast import Forecast
from nanolan.errors import MayBeBilling, PreflightFailed
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared
from nanolan.manage.pinned import check_pins, check_usable, pinned_inputs
from nanolan.money import cost_cents, dollars
from nanolan.phases import PHASES, SEQUENCES
from nanolan.plan import Code, Pinned, Plan
from nanolan.run.ledger import REFUSED, Attempt
from nanolan.run.presence import billing_error, unknown_text
from nanolan.run.record import UNKNOWN
from nanolan.run.remaining import Remaining
from nanolan.settings.settings import Settings
from nanolan.status.view import Overview, RunView
from nanolan.times import parse_time

AFTER_REPORT_S = 600  # two heartbeats: how long a machine that vanished is taken to have lived after its last one
# A setting that may be typed anew -> the plan's field
ANEW = {
    "run_name": "run_name",
    "output_tag": "output_tag",
    "batch": "batch",
    "eval": "evaluate",
    "gate": "gate",
    "save_minutes": "save_minutes",
    "upload_minutes": "upload_minutes",
    "wandb_project": "wandb_project",
    "probation_usd": "probation_cents",
}
FRESH = (
    "owner",
    "hf_repo",
    "runs_repo",
    "created_at",
    "deadline",
    "limit_cents",
    "offer",
    "processes",
    "predicted",
    "self_delete",
    "public",
    "wandb_base_url",
)  # of the new machine
REPLACED = (
    "input checkpoint",
    "tokenizer",
    "identity data",
    "data set",
    "spend limit",
    "code",
)  # checks that are made here


@dataclass(frozen=True)
class RunBudget:
    """The limit of the whole run, and what its attempts have cost so far."""

    whole_cents: int
    spent_cents: int

    @property
    def left_cents(self) -> int:
        return self.whole_cents - self.spent_cents

    def check(self, hourly_cents: int, expected: Forecast | None) -> Check:
        """What is left, less what saving takes, must be above what the rest should cost."""
        text = (
            f"{dollars(self.left_cents)} left of {dollars(self.whole_cents)} for the whole run "
            f"({dollars(self.spent_cents)} spent)"
        )
        likely, soft = (
            expected.likely_cents if expected else 0,
            soft_limit_cents(self.left_cents, hourly_cents),
        )
        rest = f"the rest: {expected.text()}" if expected else "no time is known for this GPU"
        if soft > likely:
            return Check("spend limit", True if expected else None, f"{text}; {rest}")
        least = limit_for(self.spent_cents + likely, hourly_cents)
        hint = "another offer" if least is None else f"spend-limit={least}"
        return Check("spend limit", False, f"{text}; {rest}; it would be cut off. Try: {hint}")


def attempts(view: RunView, now: datetime) -> tuple[Attempt, ...]:
    """Every attempt of the run so far, the one that ended last with what it has cost."""
    e = view.entry
    note = f"{view.state}: {view.reason}".rstrip(": ")[:200]
    return (*e.earlier, Attempt(e.plan.attempt, e.instance_id, cost_of(view, now), note))


def cost_of(view: RunView, now: datetime) -> int:
    """What the newest attempt has cost; without a receipt, what it can have cost by all that is known."""
    e, plan = view.entry, view.entry.plan
    if view.receipt and view.receipt.spent_cents is not None:
        return max(0, view.receipt.spent_cents)
    if e.spent_cents is not None or e.note.startswith(REFUSED):
        return e.spent_cents or 0
    until, told = now, 0
    if view.progress:
        until, told = parse_time(view.progress.updated), view.progress.spent_cents or 0
    lived_s = (
        min(until + timedelta(seconds=AFTER_REPORT_S), now) - parse_time(plan.created_at)
    ).total_seconds()
    return min(plan.limit_cents, max(told, cost_cents(plan.offer.hourly_cents, max(0.0, lived_s))))


def money_of(plan: Plan, past: tuple[Attempt, ...], whole_cents: int | None) -> RunBudget:
    """The money of the whole run; PreflightFailed when nothing is left. A cost that is unknown counts as a whole limit."""
    costs = [plan.limit_cents if a.spent_cents is None else a.spent_cents for a in past]
    money = RunBudget(
        plan.limit_cents + sum(costs[:-1]) if whole_cents is None else whole_cents, sum(costs)
    )
    if money.left_cents <= 0:
        each = ", ".join(f"attempt {a.number}: {dollars(a.spent_cents)}" for a in past)
        raise PreflightFailed(
            f"run {plan.run_id} has spent {dollars(money.spent_cents)} ({each}), its limit is "
            f"{dollars(money.whole_cents)}: nothing is left, nothing was rented. Raise the whole run's: "
            f"just resume {plan.run_id} spend-limit={money.spent_cents // 100 + plan.limit_cents // 100 + 1}"
        )
    return money


def settings_of(
    s: Settings, typed: Mapping[str, Any], plan: Plan, rest: Remaining, money: RunBudget
) -> Settings:
    """The settings that the run was launched with, for what is left of it, but for those that were typed anew."""
    old = {name: getattr(plan, field) for name, field in ANEW.items()} | {
        "gpu": plan.offer.gpu,
        "num_gpus": plan.offer.num_gpus,
    }
    if typed.get("instance_type"):  # it says which GPUs, and how many
        del old["gpu"], old["num_gpus"]
    elif ":" in (typed.get("gpu") or ""):  # H100:4
        del old["num_gpus"]
    kept = {name: value for name, value in old.items() if not typed.get(name)}
    phase = next(name for name, phases in SEQUENCES.items() if phases == rest.phases)
    kept["self_delete"] = s.self_delete and (
        bool(typed.get("self_delete")) or plan.self_delete
    )  # no key if either says so
    return replace(
        s,
        **kept,
        phase=phase,
        model_tag=_model_tag(plan, rest),
        no_identity=plan.identity is False,
        hf_repo=plan.hf_repo,
        runs_repo=plan.runs_repo,
        spend_limit=money.left_cents,
        sources=s.sources | dict.fromkeys(kept, "the run's plan"),
    )


def check_over(seen: Overview) -> None:
    """PreflightFailed unless the run is seen to be over, and no machine of it is left."""
    view, run_id = seen.runs[0], seen.runs[0].entry.plan.run_id
    if problems := (*seen.problems, *view.problems):
        failed = PreflightFailed(
            f"where run {run_id} stands could not be seen ({problems[0]}); nothing was rented. Try again"
        )
        raise billing_error(failed, [view.entry] if view.unknown else [])
    if view.state == UNKNOWN:
        raise MayBeBilling(
            f"run {run_id}: {unknown_text(view.entry)}; nothing was rented. Look again: just status {run_id}"
        )
    if (i := view.instance) and i.billing:
        raise PreflightFailed(
            f"run {run_id} still has instance {i.id} ({dollars(i.hourly_cents)}/h, {view.state}); nothing was "
            f"rented. Watch it: just watch {run_id}; stop it: just stop {run_id}"
        )
    if (
        i or not view.ended
    ):  # an answer that is lost is looked for in the listing: what is there must be the new machine
        why = "its machine is being deleted" if i else view.reason
        raise PreflightFailed(
            f"run {run_id} is not quite over ({why}); nothing was rented. Try again in two minutes"
        )


def check_addresses(s: Settings, plan: Plan) -> None:
    """PreflightFailed when the run is on another Hub or account's address than the settings name."""
    for name, mine, its in (
        ("HF_ENDPOINT", s.hf_endpoint, plan.hf_endpoint),
        ("SHADEFORM_API", s.shadeform_api, plan.shadeform_api),
    ):
        if mine != its:
            raise PreflightFailed(
                f"run {plan.run_id} is at {its}, {name} is {mine}; nothing was rented"
            )


@dataclass(frozen=True)
class NextAttempt:
    """The next attempt of a run: what it takes over from the one before. `apply` makes a prepared launch into it."""

    plan: Plan  # of the attempt before
    rest: Remaining
    money: RunBudget
    inputs: tuple[Pinned, ...]
    code: tuple[Code, bytes, Check]  # the run's own, or this checkout's
    anew: Mapping[str, Any]  # fields of the plan that were typed anew
    checks: tuple[Check, ...] = ()  # of what stays pinned

    def apply(self, p: Prepared) -> Prepared:
        """`p`, prepared with `settings_of` this run, as its next attempt. Pure."""
        old, new, saved, (code, bundle, code_check) = self.plan, p.plan, self.rest.saved, self.code
        known = {d.repo for d in old.datasets}
        data = (
            *old.datasets,
            *(d for d in new.datasets if d.repo not in known),
        )  # say, for an evaluation that is new
        plan = structs.replace(
            old,
            **{f: getattr(new, f) for f in FRESH},
            **self.anew,
            attempt=old.attempt + 1,
            phases=self.rest.phases,
            model_tag=_model_tag(old, self.rest),
            inputs=self.inputs,
            datasets=data,
            code=code,
            resume=saved.files if saved else None,
            model_only=saved is not None and saved.processes != new.processes,
        )
        mine = [
            self.money.check(p.offer.hourly_cents, p.expected),
            *self.checks,
            code_check,
            *_told(self.rest, plan),
        ]
        return replace(
            p,
            plan=plan,
            bundle=bundle,
            checks=[*(c for c in p.checks if not c.name.startswith(REPLACED)), *mine],
        )


def next_attempt(
    hub: Hub,
    plan: Plan,
    rest: Remaining,
    money: RunBudget,
    s: Settings,
    typed: Mapping[str, Any],
    code: tuple[Code, bytes, Check],
) -> NextAttempt:
    """The next attempt, after a look whether the Hub still holds what the run pinned."""
    inputs = pinned_inputs(plan, rest)
    anew = {field: getattr(s, name) for name, field in ANEW.items() if typed.get(name)}
    checks = check_pins(hub, (*inputs, *plan.datasets))
    if all(c.ok for c in checks):
        checks = (*checks, check_usable(hub, inputs, plan.datasets, rest))
    return NextAttempt(plan, rest, money, inputs, code, anew, checks)


def _told(rest: Remaining, plan: Plan) -> list[Check]:
    """Where the run goes on, and what that costs it."""
    first = rest.phases[0]
    if rest.saved is None:
        origin = (
            rest.before.folder if rest.before else f"{PHASES[first].input_dir}/{plan.model_tag}"
        )
        return [
            Check("goes on", None, f"{first} begins anew from {origin}: no state of it is saved")
        ]
    saved = rest.saved
    lines = [
        Check(
            "goes on",
            True,
            f"{first} from step {saved.step} ({saved.folder}, {saved.files.size / 1e6:,.1f} MB)",
        )
    ]
    if plan.model_only:
        lines.append(
            Check(
                "OPTIMIZER",
                None,
                f"saved by {saved.processes} processes, there will be {plan.processes}: weights and "
                "position are kept, THE OPTIMIZER STARTS FRESH. The same number of GPUs keeps it",
            )
        )
    return lines


def _model_tag(plan: Plan, rest: Remaining) -> str:
    """The folder name of the first phase's input: the run's own output once a phase is done."""
    return rest.before.folder.rsplit("/", 1)[1] if rest.before else plan.model_tag
