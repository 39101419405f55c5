"""Prepares an export: the checks and the plan of a launch, for a machine that somebody else rents; uploads the run folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from msgspec import structs

from nanolan.checklist import Check
from nanolan.errors import PreflightFailed, UsageProblem
from nanolan.export.command import START, command, start_program
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared
from nanolan.launch.request import box_secrets, output_tags
from nanolan.money import dollars
from nanolan.plan import HF_JOB, Plan
from nanolan.run.jobs import NAMES
from nanolan.run.ledger import Entry
from nanolan.settings.settings import Settings
from nanolan.shadeform.offers import Offer
from nanolan.trainers.fork_job import FORK_BUNDLE

# checks of a launch that concern Shadeform alone
NOT_HERE = ("wallet", "key on the machine", "output folder", "SSH key")


@dataclass(frozen=True)
class Machine:
    """What is asked for: its GPUs, what it may cost an hour, and its name at the platform."""

    platform: str
    gpu: str
    num_gpus: int
    vram_gb: int
    hourly_cents: int
    name: str = ""  # a flavor
    where: str = "any cloud"
    spot: bool = False

    def offer(self) -> Offer:
        """The same as an offer, for the checks and the plan of a launch."""
        return Offer(
            self.platform,
            self.where,
            self.name,
            self.gpu,
            self.num_gpus,
            self.vram_gb,
            self.hourly_cents,
            (),
            spot=self.spot,
        )


def rate_cents(price_cents: int | None, max_price_cents: int | None) -> int:
    """The dollars an hour that the machine's own meter counts: price=, else max-price=; UsageProblem without either."""
    rate = price_cents or max_price_cents
    if rate is None:
        raise UsageProblem(
            "what may the machine cost an hour? Its price is unknown to nanolan, and its meter on the machine needs one: "
            "price=USD, such as price=24 for 8x H100 (sky gpus list shows prices); nothing was exported"
        )
    if max_price_cents is not None and rate > max_price_cents:
        raise UsageProblem(
            f"price={rate / 100:.2f} is above max-price={max_price_cents / 100:.2f}; nothing was exported"
        )
    return rate


def settings_for(settings: Settings) -> Settings:
    """The settings without what only an instance of Shadeform has."""
    return replace(
        settings, self_delete=True, ssh_public_key=None, shadeform_api_key_box=None, cloud=None
    )


def for_platform(prepared: Prepared, machine: Machine, earlier: Iterable[Entry]) -> Prepared:
    """A prepared launch as the run of a job: who ends its machine, and the checks that concern it."""
    plan = structs.replace(prepared.plan, platform=machine.platform)
    checks = [c for c in prepared.checks if c.name not in NOT_HERE]
    return replace(prepared, plan=plan, checks=[*checks, _output_check(plan, earlier)])


def _output_check(plan: Plan, earlier: Iterable[Entry]) -> Check:
    """Which other run of this laptop, not known to be over, writes the same folders."""
    mine = {t.lower() for t in output_tags(plan)}
    for e in earlier:
        shared = sorted(t for t in output_tags(e.plan) if t.lower() in mine)
        if shared and not e.gone and e.plan.hf_endpoint == plan.hf_endpoint:
            folder = shared[0].partition("=")[2]
            return Check(
                "output folder",
                None,
                f"run {e.plan.run_id} may write {folder}, too: of two runs the last one stays (just status {e.plan.run_id})",
            )
    folders = ", ".join(t.partition("=")[2] for t in output_tags(plan))
    return Check("output folder", True, folders)


def secret_names(settings: Settings) -> tuple[str, ...]:
    """The names of the secrets that the job needs."""
    return tuple(n for n in box_secrets(settings) if n != "SHADEFORM_API_KEY")


def upload(prepared: Prepared, hub: Hub, settings: Settings) -> str:
    """Put plan, code and start.py into the run folder; the job's command."""
    plan = prepared.plan
    if prepared.failed:
        raise PreflightFailed(
            f"{len(prepared.failed)} of {len(prepared.checks)} checks failed (see above); nothing was exported"
        )
    files = {
        "plan.json": plan.to_json(),
        "code.bundle": prepared.bundle,
        START: start_program(plan),
        FORK_BUNDLE: prepared.fork_bundle,
    }
    revision = hub.commit(
        plan.runs_repo,
        {f"{plan.folder}/{name}": content for name, content in files.items() if content},
        f"run {plan.run_id}: plan and code",
    )
    return command(plan, revision, secret_names(settings))


def bill(prepared: Prepared) -> str:
    """What the run should cost, and where it ends."""
    plan, hours = prepared.plan, prepared.life_s / 3600
    expected = prepared.expected.text() if prepared.expected else "expected cost unknown"
    whose = (
        "Hugging Face ends the job then"
        if plan.platform == HF_JOB
        else f"nanolan ends the job then; {NAMES[plan.platform]} has no limit of its own"
    )
    return (
        f"{expected}; at most {dollars(prepared.worst_cents)}, or {hours:.1f} h of machines at "
        f"{dollars(plan.offer.hourly_cents)}/h: {whose}"
    )
