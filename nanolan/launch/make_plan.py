"""Makes the plan of a run on an offer, for a rented machine or a rehearsal. Pure, but for the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from msgspec import structs

from nanolan.cost.budget import keyless_life_s, life_s, upload_minutes
from nanolan.cost.forecast import Forecast
from nanolan.errors import UsageProblem
from nanolan.launch.preflight import Findings
from nanolan.plan import Code, Limits, Plan, Rented
from nanolan.settings.settings import Settings, is_loopback
from nanolan.shadeform.offers import Offer
from nanolan.times import iso, now_utc
from nanolan.trainers.choose import ADAPTER
from nanolan.version import VERSION

WANDB_SET = "wandb"  # of scripts/setup.sh: the trainer's, and wandb
# Fields of a plan with a foreign trainer. It evaluates within its training loop, which is silence
FOREIGN: dict[str, Any] = {
    "trainer": ADAPTER,
    "setup": "box",
    "watch_s": {"train": 1800.0},
}
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
    # small options of a foreign trainer's scripts
    fork_options: dict[str, int | float | str] = field(default_factory=dict)


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
        init=settings.input_folder if settings.init else None,
        probation_cents=settings.probation_usd,
        self_delete=settings.self_delete,
        public=found.public,
        upload_minutes=settings.upload_minutes or upload_minutes(offer.hourly_cents),
        parameters=found.size.n_params if found.size else None,
        nanolan=VERSION,
        predicted=expected.predicted if expected else None,
        limits=Limits(**{name: getattr(settings, name) for name in Limits.__struct_fields__}),
        **(FOREIGN | {"fork": settings.fork} if settings.fork else own_set(settings)),
    )
    return _rehearsed(plan, settings, rehearsal, expected) if rehearsal else plan


def own_set(settings: Settings) -> dict[str, str]:
    """The plan's `setup` for nanolan's own trainer: wandb is installed only where its key is set."""
    return {"setup": WANDB_SET} if settings.wandb_api_key else {}


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
        recipe={} if plan.fork else rehearsal.recipe,
        trainer=plan.trainer if plan.fork else rehearsal.trainer,
        setup=rehearsal.setup,
        processes=rehearsal.processes,
        min_free_gb=rehearsal.min_free_gb,
        predicted=plan.predicted if measured else None,
        watch_s=plan.watch_s | rehearsal.watch_s,
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
        offer.spot,
    )
