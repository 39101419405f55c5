"""The wings can be deleted: without them a run still launches, trains, uploads, proves and deletes its instance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.run.record import SUCCEEDED, read_receipt
from nanolan.settings.settings import ROOT
from nanolan.sim.box import marked
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.world import REPO, World
from tests.support.box_fixtures import until
from tests.test_house import WINGS

QUICK = Delays(
    creating_s=0.05, pending_provider_s=0.05, pending_s=0.05, deleting_s=0.3, power_off_s=0.1
)
GIT = ("git", "-c", "user.name=me", "-c", "user.email=me@example.org")


@pytest.fixture
def road(tmp_path: Path) -> Path:
    """A checkout of its own without the wings, the local services included."""
    road = tmp_path / "road"
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        (road / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, road / name, follow_symlinks=False)
    for wing in WINGS:
        shutil.rmtree(road / "nanolan" / wing, ignore_errors=True)
        (road / "nanolan" / f"{wing}.py").unlink(missing_ok=True)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "the road"]):
        subprocess.run([*GIT, *words], cwd=road, check=True)
    return road


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path / "world",
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe={"steps": 2, "seconds": 0.2},
        delays=QUICK,
    ) as made:
        yield made


@pytest.mark.slow  # half a minute; tests/test_house.py holds the imports in the quick set
def test_a_run_needs_none_of_the_wings(world: World, road: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(road / "scripts/launch.py"), "phase=sft", "--yes", "--json"],
        env=world.env() | {"PYTHONPATH": str(road), "PATH": os.environ["PATH"]},
        cwd=road,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    instance = world.cloud.instance(run["instance_id"])
    log = world.cloud.root / "boxes" / instance.id / "var/log/lanbot-training.log"
    until(lambda: instance.why, 120, lambda: log.read_text() if log.is_file() else "no log")
    assert instance.why == "asked"  # it deleted itself
    until(lambda: not marked({instance.id}))
    files = set(world.hub.files(REPO))
    receipt = read_receipt(world.hub.read(REPO, f"runs/{run['run_id']}/receipt.json"))
    assert receipt.verdict == SUCCEEDED and receipt.phases["sft"].state == "proven"
    assert f"runs/{run['run_id']}/report.html" not in files  # made by a wing; the run goes on
