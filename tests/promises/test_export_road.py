"""An exported run on machines that are taken away: the job's own command, the real boot.sh and box program, a stand-in trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.record import SUCCEEDED
from nanolan.sim.world import REPO, World
from tests.support.export_fixtures import JobMachines, export, record, run_id_of

pytestmark = [
    # the platform passes a job its secrets in this way
    pytest.mark.shows("environ", "*HF_TOKEN", "SkyPilot sets it for the job's first process"),
]
STEPS = 40


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path,
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe={"steps": STEPS, "seconds": 8.0, "save_every": 5},
    ) as made:
        yield made


def saved_step(world: World, run_id: str) -> int:
    """The step of the state on the Hub, 0 without one."""
    path = f"runs/{run_id}/saved/sft/manifest.json"
    if path not in world.hub.files(REPO):
        return 0
    return int(json.loads(world.hub.read(REPO, path))["step"])


def test_a_job_whose_machine_is_taken_away_goes_on_on_the_next_one_and_succeeds(
    world: World,
) -> None:
    task = export(world, "price=24", "upload-minutes=0.05", "eval=none", "--spot")
    run_id = run_id_of(task)
    machines = JobMachines(world, task["run"])
    try:
        first = machines.start()
        machines.wait_for(first, "proven in runs/")
        first.kill()  # no signal that it could answer: a spot machine
        state = saved_step(world, run_id)
        assert 0 < state < STEPS
        second = machines.start()
        assert machines.ended(second) == 0, machines.log(second)
    finally:
        machines.close()
    log = machines.log(second)
    assert "attempt 2: its machine vanished" in log and f"goes on from step {state}" in log
    assert "the job ends: everything is proven" in log and "SkyPilot takes this machine down" in log

    receipt = record(world, run_id, "receipt.json")
    assert (receipt["verdict"], receipt["attempt"]) == (SUCCEEDED, 2)
    assert receipt["phases"]["sft"]["state"] == "proven"
    hub = Hub(world.hub.url, Secret(world.env()["HF_TOKEN"]))
    assert f"chatsft_checkpoints/d20/model_{STEPS:06d}.pt" in hub.tree(REPO).files
    (lost,) = json.loads(world.hub.read(REPO, f"runs/{run_id}/earlier.json"))
    plan = record(world, run_id, "plan.json")
    assert lost["spent_cents"] > 0 and plan["limit_cents"] == 15_000 - lost["spent_cents"]

    # the file once more, by mistake: nothing is installed, trained or written
    before = set(world.hub.files(REPO))
    again = machines.start("another job")
    try:
        assert machines.ended(again) == 0 and "is over (succeeded)" in machines.log(again)
    finally:
        machines.close()
    assert set(world.hub.files(REPO)) == before and not (again.folder / "nanolan").exists()
    assert not world.cloud.requests, "nothing was asked of Shadeform"


@pytest.mark.slow
def test_the_limit_ends_a_job_with_its_work_saved(world: World) -> None:
    # $1,800 an hour: a dollar lasts two seconds, the limit two minutes, the training ten
    world.rehearsal["recipe"] |= {"steps": 1000, "seconds": 600}
    task = export(
        world,
        "price=1800",
        "spend-limit=60",
        "upload-minutes=0.05",
        "eval=none",
        "--yes-really",
    )
    run_id = run_id_of(task)
    machines = JobMachines(world, task["run"])
    try:
        machine = machines.start()
        code = machines.ended(machine, 240)
    finally:
        machines.close()
    receipt = record(world, run_id, "receipt.json")
    assert (receipt["verdict"], receipt["reason"]) == ("stopped", "spend_limit"), receipt
    assert code == 6 and receipt["spent_cents"] <= 6000
    assert 0 < saved_step(world, run_id) < 1000, machines.log(machine)


@pytest.mark.slow
def test_a_box_program_that_is_killed_is_started_again_on_the_same_machine(world: World) -> None:
    task = export(world, "price=24", "eval=none")
    machines = JobMachines(world, task["run"])
    try:
        machine = machines.start()
        machines.wait_for(machine, "training (attempt 1)")
        boxes = [p for p in machine.processes() if any("train.py" in w for w in p.cmdline())]
        boxes[0].kill()
        assert machines.ended(machine) == 0, machines.log(machine)
    finally:
        machines.close()
    assert "was killed (exit code -9); starting it again" in machines.log(machine)
    assert record(world, run_id_of(task), "receipt.json")["attempt"] == 1


@pytest.mark.slow
def test_the_dead_mans_timer_ends_a_job_whose_box_program_hangs(world: World) -> None:
    world.rehearsal["recipe"]["seconds"] = 600
    task = export(world, "price=24", "max-duration=90s", "eval=none", "--yes-really")
    machines = JobMachines(world, task["run"])
    try:
        machine = machines.start()
        machines.wait_for(machine, "training (attempt 1)")
        for p in machine.processes():
            if any("train.py" in w for w in p.cmdline()):
                p.suspend()
        assert machines.ended(machine, 180) == 143, machines.log(machine)
    finally:
        machines.close()
    assert "ended by a signal: the time is up" in machines.log(machine)


@pytest.mark.slow
def test_the_same_file_started_twice_trains_once(world: World) -> None:
    world.rehearsal["recipe"]["seconds"] = 600
    task = export(world, "price=24", "eval=none")
    machines = JobMachines(world, task["run"])
    try:
        first = machines.start()
        machines.wait_for(first, "training (attempt 1)")
        second = machines.start("another job")
        assert machines.ended(second) == 5
        assert "is being trained by another machine of SkyPilot" in machines.log(second)
        assert not first.exit_codes
    finally:
        machines.close()
    assert record(world, run_id_of(task), "machine.json")["attempt"] == 1


@pytest.mark.slow
def test_a_stop_that_the_lost_machine_did_not_hear_is_heard_by_the_next(world: World) -> None:
    task = export(world, "price=24", "upload-minutes=0.05", "eval=none")
    run_id = run_id_of(task)
    machines = JobMachines(world, task["run"])
    try:
        first = machines.start()
        machines.wait_for(first, "proven in runs/")
        first.kill()
        world.hub.put(REPO, {f"runs/{run_id}/stop.json": b'{"attempt": 1, "at": "now"}'})
        second = machines.start()
        assert machines.ended(second) == 0, machines.log(second)
    finally:
        machines.close()
    receipt = record(world, run_id, "receipt.json")
    assert (receipt["verdict"], receipt["reason"]) == ("stopped", "user")
    assert "runs/" in receipt["message"] and "just resume" in receipt["message"], (
        "what was saved before is named"
    )


@pytest.mark.slow
def test_no_secret_is_in_what_a_jobs_machine_prints_or_keeps_for_others(world: World) -> None:
    task = export(world, "price=24", "eval=none")
    token = world.env()["HF_TOKEN"]
    assert token not in json.dumps(task)
    machines = JobMachines(world, task["run"])
    try:
        machine = machines.start()
        machines.wait_for(machine, "training (attempt 1)")
        for p in machine.processes():
            held = json.dumps([p.cmdline(), p.environ()])
            assert token not in held or "init-script" in held, f"{p.cmdline()}"
        assert machines.ended(machine) == 0
    finally:
        machines.close()
    assert token not in machines.log(machine)
