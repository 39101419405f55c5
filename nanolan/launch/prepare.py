"""Prepares a launch: all checks, the plan, and the bill to agree to. Uploads and rents nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import structs

from nanolan.checklist import Check
from nanolan.code.check import code_here
from nanolan.cost.budget import worst_case_cents
from nanolan.cost.forecast import Forecast, Work, forecaster, no_figures, usual, work_of
from nanolan.cost.gpu_check import GpuCheck
from nanolan.errors import AuthProblem, NanolanError, UsageProblem
from nanolan.hub.client import Hub
from nanolan.launch.make_plan import PER_ATTEMPT, Rehearsal, make_plan
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
from nanolan.phases import GATE, never_measured
from nanolan.plan import Code, Plan, new_run_id
from nanolan.run.ledger import Entry
from nanolan.settings.settings import Settings
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.ssh_key import load_own_key
from nanolan.times import parse_time
from nanolan.trainers.choose import Chosen


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
    fork_bundle: bytes = b""  # of a foreign trainer; empty: none, or already in the run folder

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

    def end(self) -> str:
        """The most that it can cost, and which of the provider's two limits comes first."""
        limit, hours = dollars(self.plan.limit_cents), f"{self.life_s / 3600:.1f} h"
        worst = f"at most {dollars(self.worst_cents)}"
        if self.worst_cents >= self.plan.limit_cents:
            return f"{worst}, the spend limit, after {hours}; then the provider deletes it"
        return (
            f"{worst}: the provider deletes it after {hours}, at {self.plan.deadline}; "
            f"the spend limit of {limit} would be reached later"
        )

    def bill(self) -> str:
        """The forecast and the worst case."""
        unknown = f"expected cost unknown, {no_figures(self.plan.fork)}"
        expected = self.expected.text() if self.expected else unknown
        worst = f"{expected}; {self.end()}"
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
    gpu_checks: Sequence[GpuCheck] = (),
    yes_really: bool = False,
    chosen: Chosen | None = None,
    found: Findings | None = None,
    code_of: Callable[[str], tuple[Code, bytes, tuple[Check, ...]]] = code_here,
) -> Prepared:
    """Run every check and make the plan; without `hub` or `instances` their checks are skipped. `found` is what the Hub's
    checks found, if they ran already.

    `earlier` are the ledger's runs, which improve the forecast, as do the `gpu_checks`; `yes_really` accepts limits below
    the forecast. `chosen` is the foreign trainer, if the settings name one. `code_of` bundles the code for a run id.
    """
    found = found or (check_hub(hub, settings) if hub else _unchecked(settings))
    run_id = new_run_id()
    code, bundle, code_checks = code_of(run_id)
    estimate_on = _estimator(
        settings, found, (tuple(earlier), gpu_checks), rehearsal, yes_really, chosen
    )
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
        *(chosen.checks if chosen else ()),
        *check_gate(settings),
        *found.checks,
        *estimate.checks,
        *outputs,
        *code_checks,
        *key,
        check_box_key(settings, instances),
    ]
    return Prepared(
        plan,
        offer,
        checks,
        bundle,
        found.public,
        estimate,
        estimate_on,
        rehearsal,
        chosen.bundle if chosen else b"",
    )


def _unchecked(settings: Settings) -> Findings:
    """What a dry run without a Hub token or repo knows of the Hub."""
    needed = {"HF_TOKEN": settings.hf_token, "HF_REPO": settings.hf_repo}
    unset = [name for name, value in needed.items() if value is None]
    return Findings([Check("Hub", None, f"not checked without {' and '.join(unset)}")])


def _work(settings: Settings, found: Findings | None) -> Work:
    """The work of the run, with the sizes that were read from the Hub."""
    if found is None:
        return work_of(settings)
    size_bytes = sum(p.size for p in (*found.inputs, *found.datasets))
    return work_of(settings, found.size.n_params if found.size else None, size_bytes or None)


def forecast_of(
    settings: Settings,
    found: Findings | None,
    earlier: Iterable[Entry],
    rehearsal: Rehearsal | None = None,
    gpu_checks: Sequence[GpuCheck] = (),
) -> Callable[[Offer], Forecast | None]:
    """The one forecast of a launch: for the table, the checks and the question alike."""
    work, runs = _work(settings, found), tuple(earlier)
    general = forecaster(work, runs, () if rehearsal else gpu_checks)
    if rehearsal is None:
        return general
    of_recipe = forecaster(replace(work, recipe=rehearsal.recipe), runs)
    return lambda offer: of_recipe(offer) or general(offer)


def _estimator(
    settings: Settings,
    found: Findings,
    known: tuple[tuple[Entry, ...], Sequence[GpuCheck]],
    rehearsal: Rehearsal | None,
    yes_really: bool,
    chosen: Chosen | None = None,
) -> Callable[[Offer, int], OfferEstimate]:
    """A function (offer, limit in cents) -> the estimate of this run on that offer. `known`: earlier runs, and checks of GPUs."""
    earlier, gpu_checks = known
    work = _work(settings, found)
    forecast = forecast_of(settings, found, earlier, rehearsal, gpu_checks)

    def estimate(offer: Offer, limit_cents: int) -> OfferEstimate:
        expected = forecast(offer)
        checks = [
            check_money(limit_cents, offer.hourly_cents, expected, yes_really, settings.fork),
            *check_time(settings.max_duration, expected, yes_really),
            wallet_hint(expected.likely_cents if expected else None),
        ]
        processes = rehearsal.processes if rehearsal else offer.num_gpus
        checks += [chosen.batch_check(processes)] if chosen else []
        if rehearsal:
            return OfferEstimate(expected, {}, tuple(checks))
        if found.size:
            checks.append(check_memory(found.size, offer.gpu, offer.vram_gb))
        figures, runs = usual(work, offer, earlier, gpu_checks)
        return OfferEstimate(expected, {"usual": figures, "usual_runs": runs}, tuple(checks))

    return estimate


def on_offer(prepared: Prepared, settings: Settings, offer: Offer, limit_cents: int) -> Prepared:
    """The same attempt on another offer, from now on: with a new deadline, and the estimate and its checks there."""
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
    others = [c for c in prepared.checks if c not in prepared.estimate.checks]
    return replace(
        prepared,
        plan=structs.replace(old, **changed),
        offer=offer,
        checks=[*estimate.checks, *others],
        estimate=estimate,
    )


def next_attempt(
    prepared: Prepared,
    settings: Settings,
    offer: Offer,
    limit_cents: int,
    *,
    uploaded: bool = True,
) -> Prepared:
    """The next attempt of the same run on another offer, with the rest of the limit.

    Inputs and code stay; code that is `uploaded` is not sent again."""
    again = on_offer(prepared, settings, offer, limit_cents)
    again = replace(again, plan=structs.replace(again.plan, attempt=again.plan.attempt + 1))
    return replace(again, bundle=b"", fork_bundle=b"") if uploaded else again


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


def check_gate(settings: Settings) -> list[Check]:
    """Whether the gate can open. What a foreign trainer measures is unknown."""
    phases, gate = settings.phases, settings.gate
    if gate is None:
        return []
    if len(phases) < 2:
        text = (
            f"{gate} has no effect: it is tested between two phases, and phase={phases[0]} is one"
        )
        return [Check(GATE, None, text)]
    after = f"{gate} is tested after {' and '.join(phases[:-1])}"
    if settings.fork:
        return [Check(GATE, None, f"{after}; what this trainer measures is not known here")]
    problem = never_measured(gate, phases[:-1], settings.eval, settings.humaneval)
    return [Check(GATE, not problem, problem or after)]


def _check_output_folder(instances: Callable[[], list[Instance]], plan: Plan) -> Check:
    try:
        return check_outputs(instances(), output_tags(plan))
    except AuthProblem as e:
        return Check("Shadeform key", False, str(e))
    except NanolanError as e:
        return Check("output folder", False, f"cannot check whether another run writes it: {e}")
