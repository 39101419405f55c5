"""Twenty seeded rehearsals, each with a kill -9 of a random process at a random moment, the launcher's included.

Whatever dies: no machine runs on, no half checkpoint counts as whole, no verdict is wrong.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanolan.checkpoint.manifest import MANIFEST, parse_manifest
from nanolan.hub.client import Hub
from nanolan.hub.proof import prove
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.instance import Instance
from nanolan.sim.world import REPO, World
from nanolan.status.status import look
from nanolan.status.view import RunView

ROOT = Path(__file__).resolve().parents[2]
LATEST_S, END_S = 16.0, 150.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_random_kill_leaves_no_machine_no_half_checkpoint_no_wrong_verdict(
    seed: int, tmp_path: Path, seed_cache: Path
) -> None:
    dice = random.Random(seed)
    with World(tmp_path, cache=seed_cache) as world:
        launched = subprocess.Popen(
            [sys.executable, "scripts/launch.py", "--yes"],
            env=world.env(),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        victim = kill_something(world, launched, dice)
        launched.wait(120)
        wait_until_over(world, victim)
        assert not [p for i in world.cloud.instances if i.machine for p in i.machine.processes()], (
            victim
        )
        whole = checkpoints_are_whole(world)
        view = verdict(world)
        if view is None:  # killed before anything was noted or rented
            assert not world.cloud.instances
        elif view.verdict() is None:
            assert view.state == "succeeded" and "chatsft_checkpoints/d20" in whole, victim
            assert view.phases["sft"].state == "proven"
        elif (
            view.receipt is None
        ):  # its machine could not write one: then what is on the Hub decides what is shown
            assert view.state in ("lost", "pending", "failed"), victim


def kill_something(world: World, launched: subprocess.Popen[bytes], dice: random.Random) -> str:
    """Kill one process of the launcher or of a box, after up to LATEST_S; what it was."""
    end = time.monotonic() + dice.uniform(0.2, LATEST_S)
    while time.monotonic() < end:
        time.sleep(0.05)
    while True:
        alive = [psutil.Process(launched.pid)] if launched.poll() is None else []
        alive += [p for i in world.cloud.instances if i.machine for p in i.machine.processes()]
        if not alive:
            return "nothing: it was over"
        chosen = dice.choice(alive)
        try:
            name = " ".join(chosen.cmdline())[-120:]
            chosen.kill()
            return name
        except psutil.Error:
            continue


def wait_until_over(world: World, victim: str) -> None:
    end = time.monotonic() + END_S

    def runs(i: Instance) -> bool:
        return i.status not in ("deleting", "deleted") or bool(i.machine and i.machine.processes())

    while any(map(runs, world.cloud.instances)):
        assert time.monotonic() < end, f"still running {END_S} s after the kill of: {victim}"
        time.sleep(0.2)


def checkpoints_are_whole(world: World) -> set[str]:
    """Every checkpoint folder of the Hub that has a model file has a manifest that is proven, but the one seeded without."""
    hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
    tree = hub.tree(REPO)
    folders = {
        p.rsplit("/", 1)[0] for p in tree.files if p.rsplit("/", 1)[-1].startswith("model_")
    } - {"base_checkpoints/d20"}
    for folder in folders:
        prove(tree, folder, parse_manifest(world.hub.read(REPO, f"{folder}/{MANIFEST}")))
    return folders


def verdict(world: World) -> RunView | None:
    ledger = Ledger(tmp_home(world))
    entries = ledger.entries()
    if not entries:
        return None
    api = Shadeform(Secret(world.cloud.key), world.cloud.url)
    return look(
        ledger, entries[:1], api, lambda e: Hub(e.plan.hf_endpoint, Secret(world.env()["HF_TOKEN"]))
    ).runs[0]


def tmp_home(world: World) -> Path:
    return Path(world.env()["NANOLAN_HOME"])
