"""An exported run with the real trainer: preempted in mid training, resumed on the next machine with optimizer and position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.world import RECIPE, REPO, World
from tests.support.export_fixtures import JobMachines, export, record, run_id_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.shows("environ", "*HF_TOKEN", "SkyPilot sets it for the job's first process"),
]
STEPS = 400


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    with World(tmp_path, cache=seed_cache, recipe=RECIPE | {"max_steps": STEPS}) as made:
        yield made


def test_the_real_trainer_goes_on_where_the_lost_machine_was(world: World) -> None:
    task = export(world, "price=24", "save-minutes=0.05", "upload-minutes=0.05", "eval=none")
    run_id = run_id_of(task)
    machines = JobMachines(world, task["run"])
    try:
        first = machines.start()
        machines.wait_for(first, "proven in runs/", 300)
        first.kill()
        path = f"runs/{run_id}/saved/sft/manifest.json"
        step = json.loads(world.hub.read(REPO, path))["step"]
        second = machines.start()
        assert machines.ended(second, 400) == 0, machines.log(second)[-8000:]
    finally:
        machines.close()
    log = machines.log(second)
    assert f"goes on from step {step}" in log and f"sft step {step + 1}/{STEPS}" in log
    assert f"sft step {step}/{STEPS}" not in log.partition("continues from the state")[2]
    receipt = record(world, run_id, "receipt.json")
    assert (receipt["verdict"], receipt["attempt"]) == ("succeeded", 2)
    assert receipt["phases"]["sft"]["step"] == STEPS
    assert receipt["phases"]["sft"]["loss_end"] < 5
