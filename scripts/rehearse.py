"""Rehearse a whole run on this machine: launch, boot, train, upload, prove, delete; nothing rented, no network.

    just rehearse                       phase=sft
    just rehearse phase=mid+sft gpu=H100
    just rehearse fault=create-out-of-stock@1 max-price=40      fails over to the next offer

Takes every option of launch. A local Shadeform and a local Hub stand in for the real ones; launch, boot.sh,
the box program and the trainer are the real ones. The exit code is the run's.
"""
from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli import Words, printable, run, setting_options
from nanolan.config import ROOT

if TYPE_CHECKING:
    from nanolan.sim.world import World
    from nanolan.status import RunView

HOME = ROOT / ".rehearsal"
POLL_S = 0.3
FAULTY_BOOT_S = 90.0             # how long a box may be silent when something is to go wrong
GIVE_UP_S = 900.0


@click.command(cls=Words)
@setting_options()
@click.option("--keep-old", is_flag=True, help="keep older steps in the output folder on the Hub")
@click.option("--yes-really", is_flag=True, help="take limits that the forecast speaks against, to see what they do")
@click.option("-v", "--verbose", is_flag=True, help="every line of the box's log")
@click.option("--fault", default="", help="what goes wrong in the cloud, such as gpu-count-wrong:7 or goes-to-error@1 (the first "
              "machine alone); several with commas (just sim --list-faults)")
@click.option("--folder", type=click.Path(path_type=Path), default=HOME, help="where everything lies  [.rehearsal]")
def rehearse(verbose: bool, keep_old: bool, yes_really: bool, fault: str, folder: Path, **flags: Any) -> int:
    """Rehearse a run with nothing rented. Options are those of launch."""
    from nanolan.sim.shadeform_instance import Delays
    from nanolan.sim.world import World
    started = time.monotonic()
    words = [f"{k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None]
    words += ["--keep-old"] * keep_old + ["--yes-really"] * yes_really
    folder = new_folder(folder.resolve())
    click.echo(f"Rehearsal in {shown(folder)}: a local Shadeform and a local Hub, nothing is rented.\n")
    with World(folder, tag=flags.get("model_tag") or "d20", cache=folder.parent / "cache", delays=Delays()) as world:
        for name in filter(None, fault.split(",")):
            world.switch(name)
            world.rehearsal["boot_s"] = FAULTY_BOOT_S
        launch = [sys.executable, str(ROOT / "scripts/launch.py"), "--yes", "--json", *words]   # without the hints of a real one
        with subprocess.Popen(launch, env=world.env(), cwd=ROOT, stdout=subprocess.DEVNULL) as launched:
            try:
                view = follow(world, launched, started, verbose)
            finally:
                launched.kill()
        if launched.returncode and not world.cloud.instances:
            click.echo("\nThe launch failed; nothing was running, nothing was rented.", err=True)
            return launched.returncode
        return summary(world, view, started) or launched.returncode


def new_folder(home: Path) -> Path:
    """A fresh folder for this rehearsal; the last one's is removed."""
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("run-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder = home / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir()
    return folder


def shown(path: Path) -> str:
    """A path as short as it can be said from the checkout."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def follow(world: World, launched: subprocess.Popen[bytes], started: float, verbose: bool) -> RunView | None:
    """Print the boxes' logs with the seconds since the start, until the launch and the run have ended."""
    from nanolan.hub import Hub
    from nanolan.ledger import Ledger
    from nanolan.secret import Secret
    from nanolan.shadeform import Shadeform
    from nanolan.status import look
    ledger = Ledger(world.root / "nanolan-home")
    api = Shadeform(Secret(world.cloud.key), world.cloud.url)
    hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
    shown: dict[Path, int] = {}
    end = time.monotonic() + GIVE_UP_S
    click.echo("")
    while time.monotonic() < end:
        over = launched.poll() is not None and not any(i.name.startswith("lanbot-") for i in api.instances())
        for log in box_logs(world):
            shown[log] = show_log(log, shown.get(log, 0), started, verbose)
        if over:
            entries = ledger.entries()
            return look(ledger, entries[:1], api, lambda _: hub).runs[0] if entries else None
        time.sleep(POLL_S)
    return None


def box_logs(world: World) -> list[Path]:
    """The logs of all boxes, the newest last."""
    return sorted(world.root.glob("cloud/boxes/*/var/log/lanbot-training.log"), key=lambda p: p.stat().st_mtime)


def show_log(path: Path, shown: int, started: float, verbose: bool) -> int:
    """Print what is new after byte `shown`: the road's own lines, and every tenth step; returns the new position."""
    if not path.is_file():
        return shown
    data = path.read_bytes()[shown:]
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        stamp, _, rest = line.partition(" ")
        ours = stamp.endswith("Z") and rest.startswith(("boot:", "box:"))
        if ours or verbose or worth_showing(line):
            click.echo(f"{time.monotonic() - started:6.1f}s  {printable(rest if ours else line)}"[:160])
    return shown + len(whole)


def worth_showing(line: str) -> bool:
    """Every fifth training step, and whatever looks like trouble."""
    import re
    step = re.search(r"step\s+(\d+)", line)
    return bool(step and int(step[1]) % 5 == 0) or "error" in line.lower()


def summary(world: World, view: RunView | None, started: float) -> int:
    """Verdict, bill, losses, and where everything lies; the run's exit code."""
    from nanolan.view import render_run
    click.echo("")
    if view is None:
        click.echo(f"The rehearsal did not end within {GIVE_UP_S:.0f} s; its box is stopped now. Logs: "
                   f"{', '.join(map(str, box_logs(world)))}", err=True)
        return 1
    click.echo("\n".join(map(printable, render_run(view))))
    left = [i for i in world.cloud.instances if i.machine and i.machine.processes()]
    plan = view.entry.plan
    spent = world.cloud.spent_dollars()
    click.echo(f"\nSimulated bill: ${spent:.4f} (a real run of this kind: {expected(view)}). "
               f"Instances left running: {len(left)}. Took {time.monotonic() - started:.0f} s.")
    files = world.root / "files"
    files.mkdir()
    for name, path in (("log", view.receipt.log if view.receipt else ""), ("metrics", f"{plan.folder}/metrics.jsonl"),
                       ("receipt", f"{plan.folder}/receipt.json")):
        if path and path in world.hub.files(plan.runs_repo):
            (files / Path(path).name).write_bytes(world.hub.read(plan.runs_repo, path))
            click.echo(f"  {name:<10} {shown(files / Path(path).name)}")
    for phase, report in view.phases.items():
        for path in sorted(p for p in world.hub.files(plan.hf_repo) if report.folder and p.startswith(report.folder + "/")):
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_bytes(world.hub.read(plan.hf_repo, path))
        if report.folder:
            click.echo(f"  {phase:<10} {shown(files / report.folder)}/")
    error = view.verdict()
    return error.exit_code if error else 0


def expected(view: RunView) -> str:
    """What a run of this kind should cost on the machine that was rehearsed, with a model of that tag's real size."""
    from nanolan.forecast import Work, forecast
    from nanolan.money import dollars
    from nanolan.offers import Offer
    from nanolan.size import parameters_of_tag
    plan, o = view.entry.plan, view.entry.plan.offer
    offer = Offer(o.cloud, o.region, o.instance_type, o.gpu, o.num_gpus, o.vram_gb, o.hourly_cents, (o.os,))
    found = forecast(Work(plan.phases, parameters_of_tag(plan.model_tag), plan.evaluate), offer, {})
    return f"about {dollars(found.likely_cents)}" if found else "unknown"


if __name__ == "__main__":
    run(rehearse)
