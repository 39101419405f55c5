"""Preparing a launch: every check, the plan, and the bill to agree to. Nothing is uploaded or rented here."""

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
from nanolan.errors import (
    AuthProblem,
    NanolanError,
    UsageProblem,
)
from nanolan.hub.client import Hub
from nanolan.launch.preflight import (
    Findings,
    check_box_key,
    check_memory,
    check_money,
    check_outputs,
    check_time,
    look_at_hub,
    wallet_hint,
)
from nanolan.launch.request import output_tags
from nanolan.money import dollars
from nanolan.plan import Code, Plan, Rented, new_run_id
from nanolan.run.ledger import Entry
from nanolan.settings.settings import Settings, is_loopback
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.ssh_key import own_key
from nanolan.times import iso, now_utc, parse_time

LOSS_CENTS = 500  # of training that may be lost with a machine
# Fields of a plan that follow from its offer and its clock: new for each attempt, the rest stays
OF_THE_MACHINE = (
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
    """What differs in a rehearsal; refused unless both addresses are loopback."""

    recipe: dict[str, int | float | dict[str, int | float]]
    trainer: str = "nanolan.train"
    setup: str = "train"
    processes: int = 2
    min_free_gb: int = 1
    watch_s: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    usual_runs: int = 0
    boot_s: float = 600.0  # how long a machine may be silent


@dataclass(frozen=True)
class OfferEstimate:
    """What is known of a run on one offer before it is rented."""

    expected: Forecast | None = None  # None: no figure for this GPU
    usual: dict[str, Any] = field(
        default_factory=dict
    )  # fields of the plan: what earlier runs measured there
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A plan with the checks behind it, ready to be agreed to."""

    plan: Plan
    offer: Offer
    checks: list[Check]
    bundle: bytes  # empty: it is in the run folder already
    public: bool
    here: OfferEstimate = OfferEstimate()
    there: Callable[[Offer, int], OfferEstimate] = lambda offer, limit_cents: (
        OfferEstimate()
    )  # on another offer, with that limit in cents
    rehearsal: Rehearsal | None = None

    @property
    def expected(self) -> Forecast | None:
        return self.here.expected

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
        """What it should cost, and what it can cost at most."""
        expected = self.expected.text() if self.expected else "expected cost unknown for this GPU"
        worst = f"{expected}; at worst {dollars(self.worst_cents)} in {self.life_s / 3600:.1f} h, then the provider deletes it"
        if self.plan.self_delete:
            return worst
        return f"{worst}. It cannot delete itself: WITHOUT A GUARD IT BILLS UNTIL {self.plan.deadline}. Start one: just guard"


def prepare(
    s: Settings,
    offer: Offer,
    owner: str,
    hub: Hub | None,
    instances: Callable[[], list[Instance]] | None,
    *,
    rehearsal: Rehearsal | None = None,
    keep_old: bool = False,
    earlier: Iterable[Entry] = (),
    really: bool = False,
) -> Prepared:
    """Run every check and make the plan; `hub` and `instances` None mean that there is nothing to check with.

    `earlier` are the ledger's runs, which teach the forecast; `really` takes limits that the forecast speaks against.
    """
    unset = [
        name for name, value in (("HF_TOKEN", s.hf_token), ("HF_REPO", s.hf_repo)) if value is None
    ]
    found = (
        look_at_hub(hub, s)
        if hub
        else Findings([Check("Hub", None, f"not checked without {' and '.join(unset)}")])
    )
    run_id = new_run_id()
    code, bundle, code_checks = code_here(run_id)
    there = _survey(s, found, tuple(earlier), rehearsal, really)
    here = there(offer, s.spend_limit)
    plan = structs.replace(
        make_plan(s, offer, owner, run_id, code, found, rehearsal, keep_old, here.expected),
        **here.usual,
    )
    outputs = [_outputs(instances, plan)] if instances else []
    key = [check_key(s.ssh_public_key)] if s.ssh_public_key else []
    checks = [
        *found.checks,
        *here.checks,
        *outputs,
        *code_checks,
        *key,
        check_box_key(s, instances),
    ]
    return Prepared(plan, offer, checks, bundle, found.public, here, there, rehearsal)


def _survey(
    s: Settings,
    found: Findings,
    earlier: tuple[Entry, ...],
    rehearsal: Rehearsal | None,
    really: bool,
) -> Callable[[Offer, int], OfferEstimate]:
    """A function that says what is known of this run on an offer, with a limit in cents."""
    size_bytes = sum(p.size for p in (*found.inputs, *found.datasets))
    work = work_of(s, found.size.n_params if found.size else None, size_bytes or None)
    foretell = forecaster(work, earlier)
    learned = forecaster(replace(work, recipe=rehearsal.recipe), earlier) if rehearsal else foretell

    def there(offer: Offer, limit_cents: int) -> OfferEstimate:
        expected = learned(offer) or foretell(offer)
        checks = [
            check_money(limit_cents, offer.hourly_cents, expected, really),
            *check_time(s.max_duration, expected, really),
            wallet_hint(expected.likely_cents if expected else None),
        ]
        if rehearsal:
            return OfferEstimate(expected, {}, tuple(checks))
        if found.size:
            checks.append(check_memory(found.size, offer.gpu, offer.vram_gb))
        figures, runs = usual(work, offer, earlier)
        return OfferEstimate(expected, {"usual": figures, "usual_runs": runs}, tuple(checks))

    return there


def make_plan(
    s: Settings,
    offer: Offer,
    owner: str,
    run_id: str,
    code: Code,
    found: Findings,
    rehearsal: Rehearsal | None = None,
    keep_old: bool = False,
    expected: Forecast | None = None,
) -> Plan:
    """The plan of a run on `offer`, with the provider's deadline worked out."""
    now = now_utc()
    life = (life_s if s.self_delete else keyless_life_s)(
        s.spend_limit, offer.hourly_cents, expected.hours.high if expected else None, s.max_duration
    )
    plan = Plan(
        run_id=run_id,
        run_name=s.run_name,
        owner=owner,
        created_at=iso(now),
        deadline=iso(now + timedelta(seconds=life)),
        limit_cents=s.spend_limit,
        phases=s.phases,
        model_tag=s.model_tag,
        output_tag=s.output_tag or s.model_tag,
        hf_repo=found.hf_repo or s.hf_repo or "none/none",
        runs_repo=found.runs_repo or s.runs_repo or s.hf_repo or "none/none",
        hf_endpoint=s.hf_endpoint,
        shadeform_api=s.shadeform_api,
        code=code,
        inputs=found.inputs,
        datasets=found.datasets,
        keep_old=keep_old,
        offer=_rented(offer),
        wandb_project=s.wandb_project,
        wandb_base_url=s.wandb_base_url,
        processes=offer.num_gpus,
        batch=s.batch,
        evaluate=s.eval,
        humaneval=s.humaneval,
        identity=not s.no_identity,
        save_minutes=s.save_minutes,
        gate=s.gate,
        probation_cents=s.probation_usd,
        self_delete=s.self_delete,
        public=found.public,
        upload_minutes=s.upload_minutes or upload_minutes(offer.hourly_cents),
        parameters=found.size.n_params if found.size else None,
        predicted=expected.predicted if expected else None,
    )
    return _rehearsed(plan, s, rehearsal, expected) if rehearsal else plan


def _rehearsed(plan: Plan, s: Settings, rehearsal: Rehearsal, expected: Forecast | None) -> Plan:
    """`plan` with the changes of a rehearsal; UsageProblem unless both addresses are loopback."""
    if not (is_loopback(s.shadeform_api) and is_loopback(s.hf_endpoint)):
        raise UsageProblem(
            "a rehearsal talks to this machine only; SHADEFORM_API and HF_ENDPOINT must be loopback addresses"
        )
    # a forecast that no run of this kind taught is of the real model on GPUs
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


def _rented(offer: Offer) -> Rented:
    """What the plan keeps of an offer."""
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
    """Minutes between uploads of a state, so that losing the machine costs $5 of training at most; not under a minute."""
    return max(1.0, round(60 * LOSS_CENTS / max(hourly_cents, 1), 1))


def next_attempt(p: Prepared, s: Settings, offer: Offer, limit_cents: int) -> Prepared:
    """The next attempt at the same run, on another offer, with a fresh clock and what is left of the limit.

    Inputs and code stay as they were found and uploaded; the plan alone is made anew.
    """
    old, here = p.plan, p.there(offer, limit_cents)
    found = Findings([], old.inputs, old.datasets, p.public)
    fresh = make_plan(
        replace(s, spend_limit=limit_cents),
        offer,
        old.owner,
        old.run_id,
        old.code,
        found,
        p.rehearsal,
        old.keep_old,
        here.expected,
    )
    changed = {name: getattr(fresh, name) for name in OF_THE_MACHINE} | here.usual
    return replace(
        p,
        plan=structs.replace(old, attempt=old.attempt + 1, **changed),
        offer=offer,
        bundle=b"",
        here=here,
    )


def check_key(text: str) -> Check:
    """The user's own SSH key, if it is one."""
    try:
        key = own_key(text)
    except UsageProblem as e:
        return Check("SSH key", False, str(e))
    return Check(
        "SSH key", True, f"yours ({key.private or key.kind}), uploaded if Shadeform has not got it"
    )


def _outputs(instances: Callable[[], list[Instance]], plan: Plan) -> Check:
    try:
        return check_outputs(instances(), output_tags(plan))
    except AuthProblem as e:
        return Check("Shadeform key", False, str(e))
    except NanolanError as e:
        return Check("output folder", False, f"cannot see whether another run writes it: {e}")
