"""Continues a run on another instance: the same run id, the next attempt, from what is proven on the Hub.

Settings, pinned inputs and data sets, and code stay as launched. The instance and the dates are new; phases and money are
what remains of the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from nanolan.checklist import Check
from nanolan.code.check import code_in_one_line
from nanolan.cost.forecast import Forecast
from nanolan.errors import MayBeBilling, PreflightFailed
from nanolan.hub.client import Hub
from nanolan.launch.prepare import OfferEstimate, Prepared
from nanolan.manage.pinned import (
    bundle_checks,
    check_pins,
    check_usable,
    gate_checks,
    gpu_checks,
    run_code,
)
from nanolan.manage.run_budget import (
    MONEY,
    RunBudget,
    budget_of,
    kept_limits,
    limit_checks,
    saved_share,
)
from nanolan.money import dollars
from nanolan.phases import GATE, SEQUENCES
from nanolan.plan import Code, Pinned, Plan
from nanolan.run.ledger import Attempt
from nanolan.run.presence import billing_error, unknown_text
from nanolan.run.record import UNKNOWN, PhaseReport
from nanolan.run.remaining import Remaining, holds_model, pinned_inputs, remaining_of
from nanolan.settings.settings import OF_THE_RUN, OWN_TRAINER, Settings
from nanolan.shadeform.offers import Offer
from nanolan.status.view import Overview, RunView

# A setting that may be typed again -> the plan's field
OVERRIDABLE = {
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
FROM_THE_NEW_PLAN = (
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
    "platform",
    "public",
    "wandb_base_url",
    "setup",  # wandb's key may be there now
)  # fields taken from the new plan
REPLACED_CHECKS = (
    "input checkpoint",
    "tokenizer",
    "identity data",
    "data set",
    MONEY,
    "code",
    GATE,
)  # checks of a launch that this module replaces


def settings_of(
    settings: Settings,
    typed: Mapping[str, Any],
    plan: Plan,
    remaining: Remaining,
    budget: RunBudget,
) -> Settings:
    """The settings of the launch, for the remaining phases and money; settings typed again override them."""
    old = {name: getattr(plan, field) for name, field in OVERRIDABLE.items()} | {
        "gpu": plan.offer.gpu,
        "num_gpus": plan.offer.num_gpus,
    }
    if typed.get("instance_type"):  # implies the GPUs and their number
        del old["gpu"], old["num_gpus"]
    elif ":" in (typed.get("gpu") or ""):  # H100:4
        del old["num_gpus"]
    kept = {name: value for name, value in old.items() if not typed.get(name)}
    kept |= kept_limits(typed, plan)
    phase = next(
        (name for name, phases in SEQUENCES.items() if phases == remaining.phases),
        "+".join(remaining.phases),
    )
    if plan.offer.spot and settings.spot == "no" and not typed.get("spot"):
        kept["spot"] = "yes"
    kept["self_delete"] = settings.self_delete and (
        bool(typed.get("self_delete")) or plan.self_delete
    )  # no key if the run or the settings exclude it
    return replace(
        settings,
        **kept,
        phase=phase,
        fork=plan.fork,
        trainer=plan.fork.source if plan.fork else OWN_TRAINER,
        train_options=None,
        init=None if remaining.before else _init_of(plan),
        model_tag=_model_tag(plan, remaining),
        no_identity=plan.identity is False,
        hf_repo=plan.hf_repo,
        runs_repo=plan.runs_repo,
        spend_limit=budget.left_cents,
        sources=settings.sources | dict.fromkeys(kept, OF_THE_RUN),
    )


def check_ended(seen: Overview) -> None:
    """PreflightFailed or MayBeBilling unless the run has ended and none of its instances is left."""
    view, run_id = seen.runs[0], seen.runs[0].entry.plan.run_id
    if problems := (*seen.problems, *view.problems):
        failed = PreflightFailed(
            f"the state of run {run_id} is unavailable ({problems[0]}); nothing was rented. Try again"
        )
        raise billing_error(failed, [view.entry] if view.unknown else [])
    if view.entry.waiting and not any(a.instance_id for a in view.entry.earlier):
        raise PreflightFailed(
            f"run {run_id} has no instance ({view.reason}), so there is nothing to continue; nothing was rented. "
            "Launch it again: just launch"
        )
    if view.state == UNKNOWN:
        raise MayBeBilling(
            f"run {run_id}: {unknown_text(view.entry, view.unknown)}; nothing was rented. Look again: just status {run_id}"
        )
    if (i := view.instance) and i.billing:
        raise PreflightFailed(
            f"run {run_id} still has instance {i.id} ({dollars(i.hourly_cents)}/h, {view.state}); nothing was "
            f"rented. Watch it: just watch {run_id}; stop it: just stop {run_id}"
        )
    if (
        i or not view.ended
    ):  # after a lost answer the create is searched in the listing, which must then show only the new instance
        why = "its instance is being deleted" if i else view.reason
        raise PreflightFailed(
            f"run {run_id} has not quite ended ({why}); nothing was rented. Try again in two minutes"
        )


def check_addresses(settings: Settings, plan: Plan) -> None:
    """PreflightFailed if the run uses another HF_ENDPOINT or SHADEFORM_API than the settings."""
    for name, mine, its in (
        ("HF_ENDPOINT", settings.hf_endpoint, plan.hf_endpoint),
        ("SHADEFORM_API", settings.shadeform_api, plan.shadeform_api),
    ):
        if mine != its:
            raise PreflightFailed(
                f"run {plan.run_id} is at {its}, {name} is {mine}; nothing was rented"
            )


@dataclass(frozen=True)
class NextAttempt:
    """What the next attempt takes over from the previous one. `apply` turns a prepared launch into it."""

    plan: Plan  # of the previous attempt
    remaining: Remaining
    budget: RunBudget
    inputs: tuple[Pinned, ...]
    code: tuple[Code, bytes, Check]  # the run's own, or this checkout's
    overrides: Mapping[str, Any]  # fields of the plan from settings that were typed again
    checks: tuple[Check, ...] = ()  # of the pinned files
    saved_share: float = 0.0  # of the first phase's training

    def code_of(self, run_id: str) -> tuple[Code, bytes, tuple[Check, ...]]:
        """The code for `prepare`, which then need not bundle this checkout; `apply` adds its check."""
        return (*self.code[:2], ())

    def apply(self, prepared: Prepared) -> Prepared:
        """`p`, prepared with `settings_of` this run, as its next attempt. Pure."""
        old, new, saved, (code, bundle, code_check) = (
            self.plan,
            prepared.plan,
            self.remaining.saved,
            self.code,
        )
        known = {d.repo for d in old.datasets}
        data = (
            *old.datasets,
            *(d for d in new.datasets if d.repo not in known),
        )  # such as for a new evaluation
        plan = structs.replace(
            old,
            **{f: getattr(new, f) for f in FROM_THE_NEW_PLAN},
            **self.overrides,
            attempt=old.attempt + 1,
            phases=self.remaining.phases,
            model_tag=_model_tag(old, self.remaining),
            init=None if self.remaining.before else old.init,
            inputs=self.inputs,
            datasets=data,
            code=code,
            nanolan=old.nanolan if code == old.code else new.nanolan,
            limits=None if old.limits is None and code == old.code else new.limits,
            resume=saved.files if saved else None,
            model_only=saved is not None and old.fork is None and saved.processes != new.processes,
        )
        mine = [
            self._money(self.budget, prepared.offer, prepared.expected),
            *self.checks,
            code_check,
            *gpu_checks(old, plan),
            *limit_checks(old, new),
            *_continue_checks(self.remaining, plan),
        ]
        return replace(
            prepared,
            plan=plan,
            bundle=bundle,
            checks=[*(c for c in prepared.checks if not c.name.startswith(REPLACED_CHECKS)), *mine],
            estimate_on=self._estimate_on(prepared.estimate_on),
        )

    def _money(self, budget: RunBudget, offer: Offer, expected: Forecast | None) -> Check:
        """The rest of the limit must cover the rest of the run."""
        first = expected.train.get(self.remaining.phases[0]) if expected else None
        return budget.check(
            offer.hourly_cents, expected, self.saved_share * first.likely if first else 0.0
        )

    def _estimate_on(
        self, of_launch: Callable[[Offer, int], OfferEstimate]
    ) -> Callable[[Offer, int], OfferEstimate]:
        """The estimate on another offer, with that check in place of a launch's own."""

        def estimate(offer: Offer, left_cents: int) -> OfferEstimate:
            found = of_launch(offer, left_cents)
            budget = RunBudget(self.budget.whole_cents, self.budget.whole_cents - left_cents)
            others = (c for c in found.checks if c.name != MONEY)
            return replace(found, checks=(self._money(budget, offer, found.expected), *others))

        return estimate


def upcoming(
    hub: Hub,
    view: RunView,
    past: tuple[Attempt, ...],
    whole_cents: int | None,
    settings: Settings,
    typed: Mapping[str, Any],
    code: str = "run",
) -> NextAttempt | None:
    """What the next attempt of a run that has ended takes over; None when every phase is proven.

    `whole_cents` is the limit of the whole run, None that of its plan; `code` is `run` for the run's own, or `here`."""
    plan = view.entry.plan
    remaining = remaining_of(hub, plan, view.phases)
    if not remaining.phases:
        return None
    budget = budget_of(plan, past, whole_cents)
    source = (
        code_in_one_line(plan.run_id) if code == "here" else run_code(hub, plan, view.entry.rebuilt)
    )
    new = next_attempt(hub, plan, remaining, budget, settings, typed, source, view.phases)
    return replace(new, saved_share=saved_share(view.progress, remaining, plan))


def next_attempt(
    hub: Hub,
    plan: Plan,
    remaining: Remaining,
    budget: RunBudget,
    settings: Settings,
    typed: Mapping[str, Any],
    code: tuple[Code, bytes, Check],
    reports: Mapping[str, PhaseReport] | None = None,
) -> NextAttempt:
    """The next attempt, after checking that the Hub still has the run's pinned files."""
    inputs = pinned_inputs(plan, remaining)
    overrides = {
        field: getattr(settings, name) for name, field in OVERRIDABLE.items() if typed.get(name)
    }
    checks = (*check_pins(hub, (*inputs, *plan.datasets)), *bundle_checks(hub, plan))
    if all(c.ok for c in checks):
        checks = (
            *checks,
            check_usable(hub, inputs, plan.datasets, remaining, plan.fork),
        )
    gated = structs.replace(plan, **overrides)
    checks = (*checks, *gate_checks(hub, gated, remaining, reports or {}))
    return NextAttempt(plan, remaining, budget, inputs, code, overrides, checks)


def _continue_checks(remaining: Remaining, plan: Plan) -> list[Check]:
    """Where the run continues, and what is lost by that."""
    first = remaining.phases[0]
    if remaining.saved is None:
        origin = (
            remaining.before.folder
            if remaining.before
            else _init_of(plan) or f"{plan.phase(first).input_dir}/{plan.model_tag}"
        )
        return [
            Check("goes on", None, f"{first} starts again from {origin}: it has no saved state")
        ]
    saved = remaining.saved
    if plan.fork:
        text = f"{first} starts again from the weights kept at step {saved.step}, not at its place ({saved.folder})"
        return [Check("goes on", None, text)]
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
                "optimizer",
                None,
                f"saved by {saved.processes} processes, there will be {plan.processes}: it is dealt anew "
                "to them and kept, as are weights and position",
            )
        )
    return lines


def _init_of(plan: Plan) -> str | None:
    """The setting `init` of a launch, from its plan."""
    repo = next((i.repo for i in plan.inputs if holds_model(i)), plan.hf_repo)
    return None if plan.init is None else f"{repo}:{plan.init}"


def _model_tag(plan: Plan, remaining: Remaining) -> str:
    """The folder name of the first phase's input: the run's own output once a phase is done."""
    return remaining.before.folder.rsplit("/", 1)[1] if remaining.before else plan.model_tag
