"""The whole road with a stand-in trainer: launch, boot.sh, the box program, watch; over Xet, as a real machine uploads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from nanolan.sim.box import marked
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.world import REPO, World
from tests.support.box_fixtures import until

QUICK = Delays(
    creating_s=0.05, pending_provider_s=0.05, pending_s=0.05, deleting_s=0.3, power_off_s=0.1
)


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    recipe = {"steps": 4, "seconds": 1.5}
    with World(
        tmp_path,
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe=recipe,
        delays=QUICK,
    ) as made:
        yield made


def command(world: World, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *words],
        env=world.env(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_from_one_command_to_two_proven_phases_and_the_machine_gone_through_a_reboot(
    world: World,
) -> None:
    world.cloud.switch("ip", "")  # no shell, so no key file in this checkout
    launched = command(world, "launch.py", "phase=mid+sft", "--yes", "--json")
    assert launched.returncode == 0, launched.stderr
    run = json.loads(launched.stdout)
    instance = world.cloud.instance(run["instance_id"])
    log = world.cloud.root / "boxes" / instance.id / "var/log/lanbot-training.log"

    until(
        lambda: log.is_file() and "sft step 2/4" in log.read_text(),
        90,
        lambda: log.read_text() if log.is_file() else "no log",
    )
    world.cloud.account.restart(instance.id)  # a reboot in mid-training
    watched = command(world, "check_status.py", "--watch", "1", run["run_id"])
    assert watched.returncode == 0, watched.stdout + watched.stderr + log.read_text()
    assert "SUCCEEDED" in watched.stdout and watched.stdout.count("proven") >= 2

    text = log.read_text()
    assert (
        text.count(f"boot: run {run['run_id']}") == 2
        and text.count("mid step 4/4") == 1
        and "sft: training (attempt 2)" in text
    )
    assert instance.why == "asked" and len(world.cloud.instances) == 1
    until(lambda: not marked({instance.id}))
    files = set(world.hub.files(REPO))
    assert {
        f"runs/{run['run_id']}/{name}"
        for name in (
            "plan.json",
            "code.bundle",
            "progress.json",
            "receipt.json",
            "metrics.jsonl",
            "report.html",
        )
    } <= files
    assert {
        f"{folder}/d20/model_000004.pt" for folder in ("mid_checkpoints", "chatsft_checkpoints")
    } <= files
    assert f"logs/success-{run['name']}.log" in files
    assert any("/xet-write-token/" in line["path"] for line in world.hub.log), (
        "it went the way that real uploads go"
    )
    uploaded = world.hub.read(REPO, f"logs/success-{run['name']}.log").decode()
    assert uploaded.splitlines()[0].endswith(f"boot: run {run['run_id']}"), "from its first second"
    assert command(world, "logs.py", "-n", "all").stdout == uploaded
    status = command(world, "check_status.py", "--json")
    assert status.returncode == 0 and json.loads(status.stdout)["runs"][0]["state"] == "succeeded"
