"""Write a run as a job of SkyPilot (any cloud, spot too) or Hugging Face, which rent its machines. Rents and submits nothing.

just export skypilot phase=sft gpu=H100:8 price=24 --output sft.yaml      a SkyPilot managed job
just export skypilot phase=sft gpu=H100 price=24 cloud=aws --spot         on spot machines of one cloud
just export hf-job phase=sft gpu=H200:8 --output sft.sh                   a Hugging Face Job
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from launch import rehearsal_of, trainer_of
from market import checks_of

from nanolan.cli.command import (
    KeyValueCommand,
    TypedPath,
    profile_option,
    run,
    setting_options,
    settings_from,
)
from nanolan.cli.consent import say_wrapped
from nanolan.cli.run import open_ledger, say

if TYPE_CHECKING:
    from nanolan.export.prepare import Machine
    from nanolan.hub.client import Hub
    from nanolan.launch.prepare import Prepared
    from nanolan.settings.settings import Settings

SETTINGS = (
    "phase",
    "trainer",
    "train_options",
    "run_name",
    "gpu",
    "num_gpus",
    "spend_limit",
    "max_duration",
    "max_price",
    "model_tag",
    "output_tag",
    "init",
    "cloud",
    "region",
    "batch",
    "eval",
    "humaneval",
    "no_identity",
    "save_minutes",
    "upload_minutes",
    "gate",
    "hf_repo",
    "runs_repo",
    "wandb_project",
    "wandb_base_url",
    "hf_token",
    "wandb_api_key",
    "notify_url",
    "hf_endpoint",
    "shadeform_api",
)


@click.command(
    "export",
    cls=KeyValueCommand,
    epilog="Words work too: phase=sft gpu=H100:8 price=24 spend-limit=100.",
)
@click.argument("platform", type=click.Choice(["skypilot", "hf-job"]))
@setting_options(*SETTINGS)
@profile_option
@click.option("--price", metavar="USD", help="what the machine costs an hour  [max-price=]")
@click.option("--spot", is_flag=True, help="SkyPilot: spot machines, which may be taken away")
@click.option(
    "--output",
    "--to",
    type=TypedPath(path_type=Path, dir_okay=False),
    help="the file to write  [stdout]",
)
@click.option("--keep-old", is_flag=True, help="keep older steps in the output folder on the Hub")
@click.option("--yes-really", is_flag=True, help="accept limits that the forecast advises against")
@click.option(
    "--dry-run", is_flag=True, help="only the checks and the bill: uploads and writes nothing"
)
def export(
    platform: str,
    price: str | None,
    spot: bool,
    output: Path | None,
    keep_old: bool,
    yes_really: bool,
    dry_run: bool,
    **flags: Any,
) -> int:
    """Write a run as a job of PLATFORM: skypilot or hf-job. Checks the inputs and uploads the run folder, as a launch does."""
    from nanolan.export.prepare import bill, upload
    from nanolan.run.ledger import Entry

    s = settings_from(flags)
    s.need("hf_token", "hf_repo")
    check_file(output)
    s, hub, machine = machine_of(platform, s, price, spot)
    say(f"Machine: {machine.offer().where}, ${machine.hourly_cents / 100:.2f}/h\nChecks:")
    prepared = prepare_export(s, hub, machine, keep_old, yes_really)
    for check in prepared.checks:
        say_wrapped("", check.line())
    say_wrapped("Bill: ", f"{bill(prepared)}.")
    if dry_run:
        say("DRY RUN: nothing was uploaded or written")
        return 4 if prepared.failed else 0
    command = upload(prepared, hub, s)
    open_ledger().put(Entry(prepared.plan))
    write(prepared, command, s, output)
    return 0


def check_file(output: Path | None) -> None:
    """UsageProblem, before anything is uploaded, for a file that cannot be written or that is not an earlier export."""
    from nanolan.errors import UsageProblem
    from nanolan.files import read_regular

    if output is None:
        return
    if not output.parent.is_dir():
        raise UsageProblem(f"{output.parent} is no folder; nothing was exported")
    if output.exists() and b"# nanolan run " not in read_regular(output, 1 << 20)[:100]:
        raise UsageProblem(
            f"{output} is there already and is no export; nothing was exported. Choose another name"
        )


def machine_of(
    platform: str, s: Settings, price: str | None, spot: bool
) -> tuple[Settings, Hub, Machine]:
    """What the job asks for; UsageProblem for GPUs that the platform does not have, and without a price."""
    from nanolan.errors import UsageProblem
    from nanolan.export import hf_job
    from nanolan.export.gpus import find_gpu, memory_gb
    from nanolan.export.prepare import Machine, rate_cents
    from nanolan.export.skypilot import infra_of
    from nanolan.hub.client import Hub
    from nanolan.money import parse_limit

    hub = Hub(s.hf_endpoint, s.hf_token)
    given = parse_limit(price) if price else None
    if platform == "skypilot":
        gpu = find_gpu(s.gpu)
        rate = rate_cents(given, s.max_price)
        where = infra_of(s.cloud, s.region) or "any cloud"
        gb = memory_gb(gpu)
        return s, hub, Machine(platform, gpu, s.num_gpus, gb, rate, "", where, spot)
    if spot or s.cloud or s.region:
        raise UsageProblem("--spot, cloud= and region= are SkyPilot's; nothing was exported")
    flavor = hf_job.choose(hf_job.flavors(hub), s.gpu, s.num_gpus)
    rate = max(flavor.hourly_cents, given or 0)
    if s.max_price is not None and rate > s.max_price:
        raise UsageProblem(
            f"{flavor.text()} is above max-price={s.max_price / 100:.2f}; nothing was exported"
        )
    where = f"flavor {flavor.name}"
    return (
        s,
        hub,
        Machine(platform, flavor.gpu, flavor.num_gpus, flavor.vram_gb, rate, flavor.name, where),
    )


def prepare_export(
    s: Settings, hub: Hub, machine: Machine, keep_old: bool, yes_really: bool
) -> Prepared:
    """The checks and the plan."""
    from nanolan.export.prepare import for_platform, settings_for
    from nanolan.launch.preflight import check_hub
    from nanolan.launch.prepare import prepare

    rehearsal = rehearsal_of(s)
    s, chosen = trainer_of(settings_for(s), rehearsal)
    ledger = open_ledger()
    prepared = prepare(
        s,
        machine.offer(),
        ledger.owner,
        hub,
        None,
        rehearsal=rehearsal,
        keep_old=keep_old,
        earlier=ledger.entries(),
        gpu_checks=checks_of(ledger),
        yes_really=yes_really,
        chosen=chosen,
        found=check_hub(hub, s),
    )
    return for_platform(prepared, machine, ledger.entries())


def write(prepared: Prepared, command: str, s: Settings, output: Path | None) -> None:
    """The job as a file or on stdout; on stderr how it is started, and what bounds its bill."""
    from nanolan.export import hf_job, skypilot
    from nanolan.export.notes import notes
    from nanolan.export.prepare import secret_names
    from nanolan.plan import SKYPILOT
    from nanolan.run.jobs import job_name

    plan, secrets = prepared.plan, secret_names(s)
    ending = "yaml" if plan.platform == SKYPILOT else "sh"
    file = str(output or f"{job_name(plan)}.{ending}")
    if plan.platform == SKYPILOT:
        infra = skypilot.infra_of(s.cloud, s.region)
        made = skypilot.task(plan, command, secrets, infra)
        text = skypilot.to_yaml(plan, made, file)
        start = skypilot.launch_command(plan, secrets, file)
    else:
        text = hf_job.to_script(plan, hf_job.arguments(plan, command, secrets))
        start = f"sh {file}"
    if output:
        output.write_text(text)
    else:
        click.echo(text, nl=False)
    said = f"written to {output}" if output else f"above: keep it as {file}"
    say(
        f"run {plan.run_id}: plan and code are in {plan.runs_repo}/{plan.folder}; the job is {said}\n"
    )
    for heading, text in notes(prepared, start, secrets):
        say_wrapped(f"{heading and heading + ':':12}", text)


if __name__ == "__main__":
    run(export)
