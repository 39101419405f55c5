"""Rehearse a whole run on this machine: launch, boot, train, upload, prove, delete. Rents nothing, uses no network.

    just rehearse                       phase=sft
    just rehearse phase=mid+sft gpu=H100   two phases
    just rehearse fault=hang            with a fault (--list-faults)

Takes every option of launch. A local Shadeform and a local Hub replace the real ones; launch, boot.sh,
the box program and the trainer are real. The exit code is the run's.
"""

from __future__ import annotations

import outside_venv  # noqa: F401

import difflib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.command import KeyValueCommand, TypedPath, profile_option, run, setting_options
from nanolan.errors import quoted
from nanolan.settings.settings import ROOT

if TYPE_CHECKING:
    from nanolan.sim.rehearsal import Outcome
    from nanolan.sim.scenarios import Scenario
    from nanolan.sim.world import World
    from nanolan.status.view import RunView

HOME = ROOT / ".rehearsal"


@click.command(cls=KeyValueCommand)
@setting_options()
@profile_option
@click.option("--keep-old", is_flag=True, help="keep older steps in the output folder on the Hub")
@click.option(
    "--yes-really",
    is_flag=True,
    help="accept limits that the forecast advises against, to see their effect",
)
@click.option("-v", "--verbose", is_flag=True, help="every line of the box's log")
@click.option(
    "--fault",
    default="",
    help="what goes wrong, such as hang (--list-faults); or faults of the local cloud, separated by "
    "commas, such as gpu-count-wrong:7@1 for the first instance only (just sim --list-faults)",
)
@click.option("--list-faults", is_flag=True, help="list what can go wrong, and exit")
@click.option(
    "--folder",
    type=TypedPath(path_type=Path),
    default=HOME,
    help="where all files go  [.rehearsal]",
)
def rehearse(
    verbose: bool,
    keep_old: bool,
    yes_really: bool,
    fault: str,
    list_faults: bool,
    folder: Path,
    **flags: Any,
) -> int:
    """Rehearse a run without renting anything. Takes the options of launch."""
    from nanolan.sim.rehearsal import FAULTY_BOOT_S, recall, remember
    from nanolan.sim.rehearsal import rehearse as play
    from nanolan.sim.scenarios import SCENARIOS
    from nanolan.sim.shadeform.instance import Delays
    from nanolan.sim.world import World

    if list_faults:
        return show_faults(SCENARIOS)
    started = time.monotonic()
    scenario = SCENARIOS.get(fault)
    words = [f"{k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None]
    words += ["--keep-old"] * keep_old + ["--yes-really"] * yes_really
    folder = new_folder(folder.resolve())
    click.echo(
        f"Rehearsal in {shown(folder)}: a local Shadeform and a local Hub; nothing is rented."
    )
    click.echo(f"What goes wrong: {scenario.what}.\n" if scenario else "")
    with World(
        folder, tag=flags.get("model_tag") or "d20", cache=folder.parent / "cache", delays=Delays()
    ) as world:
        for name in filter(None, fault.split(",") if scenario is None else ()):
            switch_on(world, name, SCENARIOS)
            world.rehearsal["boot_s"] = FAULTY_BOOT_S
        seed_for(flags, world)
        recall(world, folder.parent / "earlier")
        outcome = play(
            world, words, scenario, lambda line: show_line(line, started, verbose), started
        )
        if outcome.exit_code and not world.cloud.instances:
            click.echo("\nThe launch failed; nothing was running, nothing was rented.", err=True)
            return outcome.exit_code
        if outcome.view and outcome.verdict == "succeeded" and not fault:
            remember(world, folder.parent / "earlier", outcome.view)
        return summary(world, outcome)


def seed_for(flags: dict[str, Any], world: World) -> None:
    """A checkpoint that the fork of trainer= can load, if one is given; the launch refuses what is wrong with it."""
    from nanolan.cli.trainer import trainer_of
    from nanolan.launch.make_plan import Rehearsal
    from nanolan.settings.load import load_settings
    from nanolan.settings.paths import typed
    from nanolan.sim.fork_seed import seed_data, seed_fork
    from nanolan.sim.world import REPO
    from nanolan.trainers.checkout import copy_of

    if flags.get("trainer"):
        s, chosen = trainer_of(load_settings(flags, {}), Rehearsal(**world.rehearsal))
        if chosen:
            seed_data(world.hub)
            with copy_of(s.trainer, typed("")) as copy:
                seed_fork(world.hub, REPO, chosen.fork, s.input_folder, copy.root)


def switch_on(world: World, name: str, scenarios: dict[str, Scenario]) -> None:
    """Turn on a fault of the local cloud; UsageProblem names the nearest of both lists."""
    from nanolan.errors import UsageProblem

    try:
        world.switch(name)
    except UsageProblem:
        near = difflib.get_close_matches(name, scenarios, 1)
        hint = f" Did you mean fault={near[0]}?" if near else ""
        raise UsageProblem(
            f"no fault {quoted(name, 40)}.{hint} All: just rehearse --list-faults; of the local cloud alone: "
            "just sim --list-faults"
        ) from None


def show_faults(scenarios: dict[str, Scenario]) -> int:
    for name, scenario in scenarios.items():
        click.echo(f"  {name:<14} {scenario.what}")
    return 0


def new_folder(home: Path) -> Path:
    """A new folder for this rehearsal; removes the previous one."""
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("run-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = home / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir()
    return folder


def shown(path: Path) -> str:
    """The path, relative to the caller's folder if it is inside."""
    from nanolan.settings.paths import typed

    here = typed("")
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def show_line(line: str, started: float, verbose: bool) -> None:
    """Print lines of boot, box and guard, every fifth step and errors, with the seconds since the start."""
    stamp, _, rest = line.partition(" ")
    own = stamp.endswith("Z") and rest.startswith(("boot:", "box:", "guard:"))
    if own or verbose or worth_showing(line):
        click.echo(f"{time.monotonic() - started:6.1f}s  {rest if own else line}"[:160])


def worth_showing(line: str) -> bool:
    """Whether it is a fifth training step or looks like an error."""
    import re

    step = re.search(r"step\s+(\d+)", line)
    return bool(step and int(step[1]) % 5 == 0) or "error" in line.lower() or "rehearsal:" in line


def summary(world: World, outcome: Outcome) -> int:
    """Print verdict, bill, losses and files; the run's exit code."""
    from nanolan.hub.client import Hub
    from nanolan.redact import Secret
    from nanolan.sim.rehearsal import box_logs
    from nanolan.status.text import render_run
    from nanolan.status.view import SHORT
    from nanolan.status.why import look_into, render

    click.echo("")
    view = outcome.view
    if view is None or not view.ended:
        logs = ", ".join(map(str, box_logs(world)))
        click.echo(f"The rehearsal did not end; its box is stopped now. Logs: {logs}", err=True)
        return outcome.exit_code or 1
    lines = render_run(view)  # its services are gone: there is nothing to pull from
    click.echo("\n".join(line for line in lines if not line.startswith("  next ")))
    if view.state in SHORT:
        hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
        click.echo("\n".join(("", "just why", *render(look_into(hub, view)))))
    click.echo(
        f"\nSaved: {outcome.saved or 'nothing'}. Steps lost: {outcome.lost_steps}.\n"
        f"Simulated bill: ${outcome.paid_dollars:.4f} (a real run of this kind: {expected(view)}). "
        f"Instances left running: {outcome.left_running}. Took {outcome.seconds:.0f} s."
    )
    show_files(world, view)
    return outcome.exit_code


def show_files(world: World, view: RunView) -> None:
    """Copy what the run left on the Hub to files/ and print the paths."""
    plan = view.entry.plan
    files = world.root / "files"
    files.mkdir()
    for name, path in (
        ("log", view.receipt.log if view.receipt else ""),
        ("metrics", f"{plan.folder}/metrics.jsonl"),
        ("receipt", f"{plan.folder}/receipt.json"),
        ("report", f"{plan.folder}/report.html"),
        ("postmortem", f"{plan.folder}/postmortem.json"),
    ):
        if path and path in world.hub.files(plan.runs_repo):
            (files / Path(path).name).write_bytes(world.hub.read(plan.runs_repo, path))
            click.echo(f"  {name:<10} {shown(files / Path(path).name)}")
    for phase, report in view.phases.items():
        for path in sorted(
            p
            for p in world.hub.files(plan.hf_repo)
            if report.folder and p.startswith(report.folder + "/")
        ):
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_bytes(world.hub.read(plan.hf_repo, path))
        if report.folder:
            click.echo(f"  {phase:<10} {shown(files / report.folder)}/")


def expected(view: RunView) -> str:
    """The forecast cost of such a run on the rehearsed offer, with a model of that tag's real size."""
    from nanolan.checkpoint.model_size import parameters_of_tag
    from nanolan.cost.forecast import Work, forecast
    from nanolan.money import dollars
    from nanolan.shadeform.offers import Offer

    plan, o = view.entry.plan, view.entry.plan.offer
    offer = Offer(
        o.cloud, o.region, o.instance_type, o.gpu, o.num_gpus, o.vram_gb, o.hourly_cents, (o.os,)
    )
    size = 0 if plan.fork else parameters_of_tag(plan.model_tag)  # no figures for a fork
    found = forecast(Work(plan.phases, size, plan.evaluate), offer, {})
    return f"about {dollars(found.likely_cents)}" if found else "unknown"


if __name__ == "__main__":
    run(rehearse)
