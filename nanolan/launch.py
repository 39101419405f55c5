"""Launching: settings -> offer -> checks -> plan -> consent -> ledger -> create -> read back. Order is the promise:
nothing is rented before every check passed and consent was given, and the ledger knows of it before the API does.
"""
from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from nanolan.bundle import make_bundle
from nanolan.config import ROOT, Settings, is_loopback
from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    OutOfStock,
    PreflightFailed,
    UsageProblem,
)
from nanolan.hub import Hub
from nanolan.instance import Instance
from nanolan.ledger import Attempt, Entry, Ledger
from nanolan.money import dollars
from nanolan.offers import Offer, expected_cents
from nanolan.payload import box_secrets, create_body, limits, output_tags, startup_script
from nanolan.phases import HIGH, expected_hours
from nanolan.plan import Code, Plan, Rented, iso, life_s, new_run_id, now_utc, parse_time, worst_case_cents
from nanolan.preflight import Check, Findings, check_money, check_outputs, look_at_hub, wallet_hint
from nanolan.rent import check_rented, create_once, goes_on
from nanolan.shadeform import Shadeform

STALE_S = 15 * 60
# Fields of a plan that follow from its offer and its clock: new for each attempt, the rest stays
OF_THE_MACHINE = ("created_at", "deadline", "limit_cents", "offer", "processes", "predicted", "upload_minutes")

No = TypeVar("No", bound=NanolanError)


@dataclass(frozen=True)
class Rehearsal:
    """What differs in a rehearsal; refused unless both addresses are loopback."""

    recipe: dict[str, int | float | dict[str, int | float]]
    trainer: str = "nanolan.train"
    setup: str = "train"
    processes: int = 2
    min_free_gb: int = 1
    boot_s: float = 600.0            # how long a machine may be silent


@dataclass(frozen=True)
class Prepared:
    """A plan with the checks behind it, ready to be agreed to."""

    plan: Plan
    offer: Offer
    checks: list[Check]
    bundle: bytes                    # empty: it is in the run folder already
    public: bool
    rehearsal: Rehearsal | None = None

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if c.ok is False]

    @property
    def worst_cents(self) -> int:
        return worst_case_cents(self.plan.limit_cents, self.offer.hourly_cents, self.life_s)

    @property
    def life_s(self) -> int:
        return int((parse_time(self.plan.deadline) - parse_time(self.plan.created_at)).total_seconds())

    def bill(self) -> str:
        expected = expected_cents(self.offer, self.plan.phases)
        hours = expected_hours(self.plan.phases, self.offer.gpu, self.offer.num_gpus)
        likely = f"expected about {dollars(expected)} in {hours:.1f} h; " if hours else "expected cost unknown for this GPU; "
        return f"{likely}at worst {dollars(self.worst_cents)} in {self.life_s / 3600:.1f} h, then the provider deletes it"


def prepare(s: Settings, offer: Offer, owner: str, hub: Hub | None, instances: Callable[[], list[Instance]] | None, *,
            rehearsal: Rehearsal | None = None, keep_old: bool = False) -> Prepared:
    """Run every check and make the plan; `hub` and `instances` None mean that there is nothing to check with."""
    expected = expected_cents(offer, s.phases)
    unset = [name for name, value in (("HF_TOKEN", s.hf_token), ("HF_REPO", s.hf_repo)) if value is None]
    found = look_at_hub(hub, s) if hub else Findings([Check("Hub", None, f"not checked without {' and '.join(unset)}")])
    run_id = new_run_id()
    code, bundle, code_check = _code(run_id)
    plan = make_plan(s, offer, owner, run_id, code, found, rehearsal, keep_old)
    checks = [*found.checks, check_money(s.spend_limit, expected), wallet_hint(expected)]
    if instances:
        checks.append(_outputs(instances, plan))
    return Prepared(plan, offer, [*checks, code_check], bundle, found.public, rehearsal)


def make_plan(s: Settings, offer: Offer, owner: str, run_id: str, code: Code, found: Findings,
              rehearsal: Rehearsal | None = None, keep_old: bool = False) -> Plan:
    """The plan of a run on `offer`, with the provider's deadline worked out."""
    hours = expected_hours(s.phases, offer.gpu, offer.num_gpus)
    now = now_utc()
    life = life_s(s.spend_limit, offer.hourly_cents, hours * HIGH if hours else None, s.max_duration)
    plan = Plan(
        run_id=run_id, run_name=s.run_name, owner=owner, created_at=iso(now), deadline=iso(now + timedelta(seconds=life)),
        limit_cents=s.spend_limit, phases=s.phases, model_tag=s.model_tag, output_tag=s.output_tag or s.model_tag,
        hf_repo=s.hf_repo or "none/none", runs_repo=s.runs_repo or s.hf_repo or "none/none", hf_endpoint=s.hf_endpoint,
        shadeform_api=s.shadeform_api, code=code, inputs=found.inputs, datasets=found.datasets, keep_old=keep_old,
        offer=Rented(offer.cloud, offer.region, offer.instance_type, offer.gpu, offer.num_gpus, offer.vram_gb,
                     offer.hourly_cents, offer.os),
        wandb_project=s.wandb_project, processes=offer.num_gpus, batch=s.batch, probation_cents=s.probation_usd)
    if rehearsal is None:
        return plan
    if not (is_loopback(s.shadeform_api) and is_loopback(s.hf_endpoint)):
        raise UsageProblem("a rehearsal talks to this machine only; SHADEFORM_API and HF_ENDPOINT must be loopback addresses")
    return structs.replace(plan, device="cpu", recipe=rehearsal.recipe, trainer=rehearsal.trainer, setup=rehearsal.setup,
                   processes=rehearsal.processes, min_free_gb=rehearsal.min_free_gb)


def again(p: Prepared, s: Settings, offer: Offer, limit_cents: int) -> Prepared:
    """The next attempt at the same run, on another offer, with a fresh clock and what is left of the limit.

    Inputs and code stay as they were found and uploaded; the plan alone is made anew.
    """
    found = Findings([], p.plan.inputs, p.plan.datasets, p.public)
    fresh = make_plan(replace(s, spend_limit=limit_cents), offer, p.plan.owner, p.plan.run_id, p.plan.code, found, p.rehearsal,
                      p.plan.keep_old)
    changed = {name: getattr(fresh, name) for name in OF_THE_MACHINE}
    return replace(p, plan=structs.replace(p.plan, attempt=p.plan.attempt + 1, **changed), offer=offer, bundle=b"")


def rent(p: Prepared, s: Settings, api: Shadeform, hub: Hub, ledger: Ledger, say: Callable[[str], None], *,
         earlier: tuple[Attempt, ...] = (), clock: Callable[[], float] = time.monotonic) -> Instance:
    """Upload the run folder, note the intent, create, read back; the id is said and written before any further call.

    `earlier` are the attempts that this run had before. OutOfStock and MachineFailed: nothing is rented, for sure.
    """
    plan, entry = p.plan, Entry(p.plan, earlier=earlier)
    age_s = (now_utc() - parse_time(plan.created_at)).total_seconds()
    if age_s > STALE_S:   # a prompt left open: the deadline in the plan has gone on all the while
        raise PreflightFailed(f"the checks and the price are {age_s / 60:.0f} minutes old; nothing was rented. Launch again")
    code: dict[str, bytes | Path] = {f"{plan.folder}/code.bundle": p.bundle} if p.bundle else {}
    revision = hub.commit(plan.runs_repo, {f"{plan.folder}/plan.json": plan.to_json(), **code}, f"run {plan.run_id}: plan and code")
    body = create_body(plan, startup_script(plan, box_secrets(s), revision))
    ledger.put(entry)
    say(f"run {plan.run_id}: plan and code are in {plan.runs_repo}/{plan.folder}; creating {plan.instance_name}")
    try:
        instance_id, interrupted = create_once(api, body, plan, say=say)
    except MayBeBilling:
        raise
    except NanolanError as e:
        ledger.put(structs.replace(entry, gone=True, note=f"create refused: {e}"))
        raise
    entry = structs.replace(entry, instance_id=instance_id)
    ledger.put(entry)
    say(f"instance {instance_id} ({dollars(plan.offer.hourly_cents)}/h)")
    try:
        if interrupted:
            raise KeyboardInterrupt
        return check_rented(api, instance_id, plan, limits(plan), say=say, clock=clock)
    except MachineFailed as e:   # it was deleted, and seen to be
        ledger.put(structs.replace(entry, gone=True, note=str(e)))
        raise
    except KeyboardInterrupt:
        say(f"Ctrl-C: {goes_on(instance_id, plan)}")
        raise
    except (ApiProblem, AuthProblem) as e:
        raise MayBeBilling(f"the instance could not be read back ({e}); {goes_on(instance_id, plan)}") from None


def next_offer_hint(e: No, offer: Offer, offers: Iterable[Offer], words: Iterable[str] = (), why: str = "") -> No:
    """The definite no with the next offer to try; `words` are the other settings of this launch, as they were typed,
    `why` says what keeps launch from trying it by itself."""
    o = next((o for o in offers if o != offer), None)
    what = f"{offer.where} {e}" if isinstance(e, OutOfStock) else str(e)
    if o is None:
        return type(e)(f"{what}. {why and why + '. '}Try: just offers --all-configs")
    place = (f"cloud={o.cloud}", f"region={o.region}", f"instance-type={o.instance_type}")
    return type(e)(f"{what}. Next: {o.where} for {dollars(o.hourly_cents)}/h{why and f' ({why})'}: "
                   f"just launch {shlex.join([*words, *place])}")


def _code(run_id: str) -> tuple[Code, bytes, Check]:
    """The bundle of this checkout, in memory, and its line of the checklist."""
    with tempfile.TemporaryDirectory() as temp:
        path = Path(temp) / "code.bundle"
        try:
            code = make_bundle(ROOT, path, run_id)
        except PreflightFailed as e:
            return Code("", "", 0, False), b"", Check("code", False, str(e))
        changed = ", with uncommitted changes" if code.dirty else ""
        text = f"commit {code.commit[:8]}{changed}, a bundle of {code.size // 1000:,} kB"
        return code, path.read_bytes(), Check("code", True, text)


def _outputs(instances: Callable[[], list[Instance]], plan: Plan) -> Check:
    try:
        return check_outputs(instances(), output_tags(plan))
    except AuthProblem as e:
        return Check("Shadeform key", False, str(e))
    except NanolanError as e:
        return Check("output folder", False, f"cannot see whether another run writes it: {e}")

