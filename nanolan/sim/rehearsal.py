"""One rehearsal: the real launch, box program and trainer against local services, optionally with a fault.

with World(folder, ...) as world:
    outcome = rehearse(world, ["phase=sft"], scenario, hear=print)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.run.presence import QUIET_LOCAL_S, QUIET_S, REPORTS
from nanolan.settings.load import load_settings
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.sim.scenarios import Scenario
from nanolan.status.status import look
from nanolan.status.view import RunView

if TYPE_CHECKING:
    from nanolan.sim.world import World

POLL_S = 0.3
GIVE_UP_S = 900.0
REMEMBERED = 12  # rehearsals: three of each kind
FAULTY_BOOT_S = 60.0  # how long a box may be silent in a rehearsal with a fault
Hear = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a rehearsal."""

    view: RunView | None  # None: it did not end, or no run was started
    exit_code: int
    paid_dollars: Decimal
    left_running: int
    seconds: float
    played: int = 0  # how often the scenario's fault occurred
    saved: str = ""  # what is proven on the Hub
    lost_steps: int = 0  # trained but not saved: repeated or gone

    @property
    def verdict(self) -> str:
        return self.view.state if self.view else "none"

    @property
    def reason(self) -> str:
        return self.view.receipt.reason if self.view and self.view.receipt else ""


class Player:
    """Runs a scenario's action when its moment comes."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._scenario = scenario
        self._world = world
        self._left = scenario.times if scenario.moment else 0
        self.played = 0

    def hear(self, line: str) -> None:
        """Process a line of the box's log."""
        matches = self._left and re.search(self._scenario.moment, line)
        if matches and self._scenario.then(self._world) is not False:
            self._left -= 1
            self.played += 1


def rehearse(
    world: World,
    words: Sequence[str],
    scenario: Scenario | None,
    hear: Hear,
    started: float,
    quiet: bool = False,
) -> Outcome:
    """Launch, follow and, if the scenario requires it, resume; `hear` gets every line of the boxes' logs. If the boxes hold no
    key, a guard runs meanwhile."""
    player = Player(scenario or Scenario("nothing goes wrong"), world)
    if scenario:
        set_up(world, scenario)
        words = [
            *(
                w
                for w in scenario.words
                if w.partition("=")[0] not in {x.partition("=")[0] for x in words}
            ),
            *words,
        ]

    def listen(line: str) -> None:
        hear(line)
        player.hear(line)

    with guarding(world) if keyless(words) else nullcontext():
        code = run(world, ["launch.py", "--yes", "--json", *words], listen, quiet)
        view = settled(world, hear)
        if scenario and scenario.resume and view and view.resumable:
            hear(f"{'':20} rehearsal: {view.state}; just resume {view.entry.plan.run_id}")
            code = run(world, ["resume.py", "--yes", "--json"], listen, quiet)
            view = newest(world)
    error = (
        view.verdict() if view and world.cloud.instances else None
    )  # if nothing was rented, the launch's exit code tells why
    left = sum(bool(i.machine and i.machine.processes()) for i in world.cloud.instances)
    saved, lost = what_is_saved(world, view) if view else ("", 0)
    return Outcome(
        view,
        (error.exit_code if error else 0) or code,
        world.cloud.spent_dollars(),
        left,
        time.monotonic() - started,
        player.played,
        saved,
        lost,
    )


def keyless(words: Sequence[str]) -> bool:
    """Whether a launch with these words puts no Shadeform key on its instance."""
    said = [w.partition("=")[2] for w in words if w.startswith("self-delete=")]
    return not load_settings({"self_delete": said[-1] if said else None}, {}).self_delete


@contextmanager
def guarding(world: World) -> Iterator[None]:
    """Run the real `just guard` meanwhile; its output goes to guard.log."""
    with (
        (world.root / "guard.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/guard.py"), "1"],
            env=world.env(),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        ) as guard,
    ):
        try:
            yield
        finally:
            guard.kill()


def recall(world: World, folder: Path) -> None:
    """Copy the earlier rehearsals in `folder` into the world's ledger, for its forecast."""
    runs = Ledger(world.root / "nanolan-home").runs
    if folder.is_dir():
        shutil.copytree(folder, runs, dirs_exist_ok=True)


def remember(world: World, folder: Path, view: RunView) -> None:
    """Keep a successful rehearsal for later ones; only the newest few."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Ledger(world.root / "nanolan-home").runs / f"{view.entry.plan.run_id}.json", folder)
    for old in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime)[:-REMEMBERED]:
        old.unlink()


def set_up(world: World, scenario: Scenario) -> None:
    """Prepare the world for the scenario."""
    recipe: dict[str, Any] = world.rehearsal["recipe"]
    if steps := scenario.recipe.get("max_steps"):  # a fork counts its micro-batches, two a step
        world.rehearsal["fork_options"] |= {"num_iterations": 2 * steps}
    world.rehearsal.update(
        recipe=recipe | dict(scenario.recipe),
        watch_s=dict(scenario.watch_s),
        boot_s=FAULTY_BOOT_S,
        usual=dict(scenario.usual),
        usual_runs=int(bool(scenario.usual)),
    )
    scenario.before(world)


def run(world: World, command: list[str], hear: Hear, quiet: bool) -> int:
    """Run a laptop command and read the boxes' logs until it and the run have ended; its exit code."""
    api = Shadeform(Secret(world.cloud.key), world.cloud.url)
    heard: dict[Path, int] = {}
    end = time.monotonic() + GIVE_UP_S
    script = [sys.executable, str(ROOT / "scripts" / command[0]), *command[1:]]
    with subprocess.Popen(
        script,
        env=world.env(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
    ) as process:
        try:
            while time.monotonic() < end:
                over = process.poll() is not None and not any(
                    i.name.startswith("lanbot-") for i in api.instances()
                )
                for log in (*box_logs(world), *world.root.glob("guard.log")):
                    heard[log] = _hear(log, heard.get(log, 0), hear)
                if over:
                    break
                time.sleep(POLL_S)
        finally:
            process.kill()
    return process.returncode


def box_logs(world: World) -> list[Path]:
    """The logs of all boxes, the newest last."""
    return sorted(
        world.root.glob("cloud/boxes/*/var/log/lanbot-training.log"),
        key=lambda p: p.stat().st_mtime,
    )


def _hear(path: Path, position: int, hear: Hear) -> int:
    """Pass the complete lines after byte `position` to `hear`; returns the new position."""
    data = path.read_bytes()[position:]
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        hear(line)
    return position + len(whole)


def newest(world: World) -> RunView | None:
    """The newest run as a laptop sees it; None if nothing was rented."""
    ledger = Ledger(world.root / "nanolan-home")
    hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
    api, entries = Shadeform(Secret(world.cloud.key), world.cloud.url), ledger.entries()
    return look(ledger, entries[:1], api, lambda _: hub).runs[0] if entries else None


def settled(world: World, hear: Hear) -> RunView | None:
    """The newest run, once an instance that vanished has not reported for so long that it counts as gone."""
    view = newest(world)
    if view and view.unknown.startswith(REPORTS):
        hear(
            f"{'':20} rehearsal: not listed, but it reported just now; it counts as gone after {QUIET_LOCAL_S:.0f} s "
            f"without a report ({QUIET_S / 60:.0f} minutes on a real account)"
        )
    while view and view.unknown.startswith(REPORTS):
        time.sleep(POLL_S)
        view = newest(world)
    return view


def what_is_saved(world: World, view: RunView) -> tuple[str, int]:
    """The newest step of each phase that is proven or resumable, and the number of trained steps beyond these."""
    plan, steps = view.entry.plan, dict[str, int]()
    for phase, report in view.phases.items():
        if report.state == "proven" and report.step:
            steps[phase] = report.step
    if view.saved:
        steps[view.saved.phase] = view.saved.step
    rows = [(row["phase"], row["step"]) for row in metrics(world, view) if "loss" in row]
    lost = steps_lost(rows, steps)
    names = [
        f"{phase} {'whole' if phase in plan.phases and view.phases[phase].state == 'proven' else f'step {step}'}"
        for phase, step in steps.items()
    ]
    return ", ".join(names), lost


def steps_lost(rows: list[tuple[str, int]], saved: Mapping[str, int]) -> int:
    """How many of the trained steps (phase, step) were repeated, or are beyond the saved one of their phase.

    A fork may print several lines of one step, and count from 0."""
    trained = [row for row, _ in groupby(rows)]
    kept = {(phase, step) for phase, step in trained if step <= saved.get(phase, -1)}
    return len(trained) - len(kept)


def metrics(world: World, view: RunView) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl of all boxes of a run, including those that a vanished box never sent."""
    files = [path for path in world.root.glob("cloud/boxes/*/nanolan/trainer/metrics.jsonl")]
    return [
        json.loads(line)
        for path in files
        for line in path.read_text().splitlines()
        if line.endswith("}")
    ]
