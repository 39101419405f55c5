"""Prepares a launch: all checks, the plan, and the bill to agree to. Uploads and rents nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from msgspec import structs

from nanolan.checklist import Check
from nanolan.code.check import code_here
from nanolan.cost.budget import keyless_life_s, life_s, worst_case_cents
from nanolan.cost.forecast import Forecast, forecaster, usual, work_of
from nanolan.errors import AuthProblem, NanolanError, UsageProblem
from nanolan.hub.client import Hub
from nanolan.launch.preflight import (
    Findings,
    check_box_key,
    check_hub,
    check_memory,
    check_money,
    check_outputs,
    check_time,
    wallet_hint,
)
from nanolan.launch.request import output_tags
from nanolan.money import dollars
from nanolan.plan import Code, Plan, Rented, new_run_id
from nanolan.run.ledger import Entry
from nanolan.settings.settings import Settings, is_loopback
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.ssh_key import load_own_key
from nanolan.times import iso, now_utc, parse_time

LOSS_CENTS = 500  # training that may be lost with an instance
# Fields of a plan that depend on its offer and its start: new for each attempt, the rest stays
PER_ATTEMPT = (
    "created_at",
    "deadline",
    "limit_cents",
    "offer",
    "processes",
    "predicted",
    "upload_minutes",
)


@dataclass(frozen=True)
class Rehearsal:
    """What differs in a rehearsal, which is only allowed if both addresses are loopback."""

    recipe: dict[str, int | float | dict[str, int | float]]
    trainer: str = "nanolan.train"
    setup: str = "train"
    processes: int = 2
    min_free_gb: int = 1
    watch_s: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    usual_runs: int = 0
    boot_s: float = 600.0  # allowed seconds without a heartbeat


@dataclass(frozen=True)
class OfferEstimate:
    """The forecast and the checks of a run on one offer."""

    expected: Forecast | None = None  # None: no figures for this GPU
    usual: dict[str, Any] = field(
        default_factory=dict
    )  # fields of the plan: what earlier runs measured on such an offer
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A plan and its checks, ready for the user's consent."""

    plan: Plan
    offer: Offer
    checks: list[Check]
    bundle: bytes  # empty: already in the run folder
    public: bool
    estimate: OfferEstimate = OfferEstimate()
    estimate_on: Callable[[Offer, int], OfferEstimate] = lambda offer, limit_cents: (
        OfferEstimate()
    )  # (another offer, limit in cents) -> its estimate
    rehearsal: Rehearsal | None = None

    @property
    def expected(self) -> Forecast | None:
        return self.estimate.expected

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if c.ok is False]

    @property
    def worst_cents(self) -> int:
        return worst_case_cents(self.plan.limit_cents, self.offer.hourly_cents, self.life_s)

    @property
    def life_s(self) -> int:
        return int(
            (parse_time(self.plan.deadline) - parse_time(self.plan.created_at)).total_seconds()
        )

    def bill(self) -> str:
        """The forecast and the worst case."""
        expected = self.expected.text() if self.expected else "expected cost unknown for this GPU"
        worst = f"{expected}; at worst {dollars(self.worst_cents)} in {self.life_s / 3600:.1f} h, then the provider deletes it"
        if self.plan.self_delete:
            return worst
        return f"{worst}. It cannot delete itself: WITHOUT A GUARD IT BILLS UNTIL {self.plan.deadline}. Start one: just guard"


def prepare(
    settings: Settings,
    offer: Offer,
    owner: str,
    hub: Hub | None,
    instances: Callable[[], list[Instance]] | None,
    *,
    rehearsal: Rehearsal | None = None,
    keep_old: bool = False,
    earlier: Iterable[Entry] = (),
    yes_really: bool = False,
) -> Prepared:
    """Run every check and make the plan; without `hub` or `instances` their checks are skipped.

    `earlier` are the ledger's runs, which improve the forecast; `yes_really` accepts limits below the forecast.
    """
    unset = [
        name
        for name, value in (("HF_TOKEN", settings.hf_token), ("HF_REPO", settings.hf_repo))
        if value is None
    ]
    found = (
        check_hub(hub, settings)
        if hub
        else Findings([Check("Hub", None, f"not checked without {' and '.join(unset)}")])
    )
    run_id = new_run_id()
    code, bundle, code_checks = code_here(run_id)
    estimate_on = _estimator(settings, found, tuple(earlier), rehearsal, yes_really)
    estimate = estimate_on(offer, settings.spend_limit)
    plan = structs.replace(
        make_plan(
            settings, offer, owner, run_id, code, found, rehearsal, keep_old, estimate.expected
        ),
        **estimate.usual,
    )
    outputs = [_check_output_folder(instances, plan)] if instances else []
    key = [check_ssh_key(settings.ssh_public_key)] if settings.ssh_public_key else []
    checks = [
        *found.checks,
        *estimate.checks,
        *outputs,
        *code_checks,
        *key,
        check_box_key(settings, instances),
    ]
    return Prepared(plan, offer, checks, bundle, found.public, estimate, estimate_on, rehearsal)


def _estimator(
    settings: Settings,
    found: Findings,
    earlier: tuple[Entry, ...],
    rehearsal: Rehearsal | None,
    yes_really: bool,
) -> Callable[[Offer, int], OfferEstimate]:
    """A function (offer, limit in cents) -> the estimate of this run on that offer."""
    size_bytes = sum(p.size for p in (*found.inputs, *found.datasets))
    work = work_of(settings, found.size.n_params if found.size else None, size_bytes or None)
    general = forecaster(work, earlier)
    of_recipe = (
        forecaster(replace(work, recipe=rehearsal.recipe), earlier) if rehearsal else general
    )

    def estimate(offer: Offer, limit_cents: int) -> OfferEstimate:
        expected = of_recipe(offer) or general(offer)
        checks = [
            check_money(limit_cents, offer.hourly_cents, expected, yes_really),
            *check_time(settings.max_duration, expected, yes_really),
            wallet_hint(expected.likely_cents if expected else None),
        ]
        if rehearsal:
            return OfferEstimate(expected, {}, tuple(checks))
        if found.size:
            checks.append(check_memory(found.size, offer.gpu, offer.vram_gb))
        figures, runs = usual(work, offer, earlier)
        return OfferEstimate(expected, {"usual": figures, "usual_runs": runs}, tuple(checks))

    return estimate


def make_plan(
    settings: Settings,
    offer: Offer,
    owner: str,
    run_id: str,
    code: Code,
    found: Findings,
    rehearsal: Rehearsal | None = None,
    keep_old: bool = False,
    expected: Forecast | None = None,
) -> Plan:
    """The plan of a run on `offer`, with the deadline for the provider."""
    now = now_utc()
    life = (life_s if settings.self_delete else keyless_life_s)(
        settings.spend_limit,
        offer.hourly_cents,
        expected.hours.high if expected else None,
        settings.max_duration,
    )
    plan = Plan(
        run_id=run_id,
        run_name=settings.run_name,
        owner=owner,
        created_at=iso(now),
        deadline=iso(now + timedelta(seconds=life)),
        limit_cents=settings.spend_limit,
        phases=settings.phases,
        model_tag=settings.model_tag,
        output_tag=settings.output_tag or settings.model_tag,
        hf_repo=found.hf_repo or settings.hf_repo or "none/none",
        runs_repo=found.runs_repo or settings.runs_repo or settings.hf_repo or "none/none",
        hf_endpoint=settings.hf_endpoint,
        shadeform_api=settings.shadeform_api,
        code=code,
        inputs=found.inputs,
        datasets=found.datasets,
        keep_old=keep_old,
        offer=_offer_in_plan(offer),
        wandb_project=settings.wandb_project,
        wandb_base_url=settings.wandb_base_url,
        processes=offer.num_gpus,
        batch=settings.batch,
        evaluate=settings.eval,
        humaneval=settings.humaneval,
        identity=not settings.no_identity,
        save_minutes=settings.save_minutes,
        gate=settings.gate,
        probation_cents=settings.probation_usd,
        self_delete=settings.self_delete,
        public=found.public,
        upload_minutes=settings.upload_minutes or upload_minutes(offer.hourly_cents),
        parameters=found.size.n_params if found.size else None,
        predicted=expected.predicted if expected else None,
    )
    return _rehearsed(plan, settings, rehearsal, expected) if rehearsal else plan


def _rehearsed(
    plan: Plan, settings: Settings, rehearsal: Rehearsal, expected: Forecast | None
) -> Plan:
    """`plan` with the changes of a rehearsal; UsageProblem unless both addresses are loopback."""
    if not (is_loopback(settings.shadeform_api) and is_loopback(settings.hf_endpoint)):
        raise UsageProblem(
            "a rehearsal uses local services only; SHADEFORM_API and HF_ENDPOINT must be loopback addresses"
        )
    # without an earlier rehearsal of this recipe the forecast is for the real model on GPUs
    measured = expected is not None and expected.own
    return structs.replace(
        plan,
        device="cpu",
        recipe=rehearsal.recipe,
        trainer=rehearsal.trainer,
        setup=rehearsal.setup,
        processes=rehearsal.processes,
        min_free_gb=rehearsal.min_free_gb,
        predicted=plan.predicted if measured else None,
        watch_s=rehearsal.watch_s,
        usual=rehearsal.usual,
        usual_runs=rehearsal.usual_runs,
    )


def _offer_in_plan(offer: Offer) -> Rented:
    """The part of an offer that the plan stores."""
    return Rented(
        offer.cloud,
        offer.region,
        offer.instance_type,
        offer.gpu,
        offer.num_gpus,
        offer.vram_gb,
        offer.hourly_cents,
        offer.os,
    )


def upload_minutes(hourly_cents: int) -> float:
    """Minutes between uploads of a state, so that losing the instance costs at most $5 of training; at least one minute."""
    return max(1.0, round(60 * LOSS_CENTS / max(hourly_cents, 1), 1))


def next_attempt(
    prepared: Prepared, settings: Settings, offer: Offer, limit_cents: int
) -> Prepared:
    """The next attempt of the same run on another offer, with a new deadline and the rest of the limit.

    Inputs and uploaded code stay; only the plan is made again.
    """
    old, estimate = prepared.plan, prepared.estimate_on(offer, limit_cents)
    found = Findings([], old.inputs, old.datasets, prepared.public)
    fresh = make_plan(
        replace(settings, spend_limit=limit_cents),
        offer,
        old.owner,
        old.run_id,
        old.code,
        found,
        prepared.rehearsal,
        old.keep_old,
        estimate.expected,
    )
    changed = {name: getattr(fresh, name) for name in PER_ATTEMPT} | estimate.usual
    return replace(
        prepared,
        plan=structs.replace(old, attempt=old.attempt + 1, **changed),
        offer=offer,
        bundle=b"",
        estimate=estimate,
    )


def check_ssh_key(text: str) -> Check:
    """Whether SSH_PUBLIC_KEY is a public key."""
    try:
        key = load_own_key(text)
    except UsageProblem as e:
        return Check("SSH key", False, str(e))
    return Check(
        "SSH key",
        True,
        f"yours ({key.private or key.kind}), uploaded if Shadeform does not have it",
    )


def _check_output_folder(instances: Callable[[], list[Instance]], plan: Plan) -> Check:
    try:
        return check_outputs(instances(), output_tags(plan))
    except AuthProblem as e:
        return Check("Shadeform key", False, str(e))
    except NanolanError as e:
        return Check("output folder", False, f"cannot check whether another run writes it: {e}")
