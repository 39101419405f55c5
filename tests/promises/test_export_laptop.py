"""The laptop's commands on an exported run, without any Shadeform key; and the same run continued at Shadeform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.plan import SHADEFORM
from nanolan.run.ledger import Ledger
from nanolan.sim.world import World
from tests.promises.test_road import QUICK
from tests.support.core_fixtures import script
from tests.support.export_fixtures import JobMachines, export, record, run_id_of
from tests.support.run_fixtures import state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shows("environ", "*HF_TOKEN", "SkyPilot sets it for the job's first process"),
]


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path,
        cache=seed_cache,
        trainer="tests.support.standin_trainer",
        setup="light",
        recipe={"steps": 600, "seconds": 600, "save_every": 5},
        delays=QUICK,
    ) as made:
        yield made


def test_an_exported_run_is_followed_limited_stopped_and_continued(world: World) -> None:
    keyless = {k: v for k, v in world.env().items() if k != "SHADEFORM_API_KEY"}
    task = export(world, "price=24", "upload-minutes=0.05", "eval=none")
    run_id = run_id_of(task)
    status = script("check_status", env=keyless)
    assert "PENDING" in status.stdout and "sky jobs queue" in status.stdout, status.stderr

    machines = JobMachines(world, task["run"])
    try:
        machine = machines.start()
        machines.wait_for(machine, "proven in runs/")
        status = script("check_status", "--json", env=keyless)
        (run,) = json.loads(status.stdout)["runs"]
        assert status.returncode == 0 and run["state"] == "training" and run["progress"]["step"]
        logs = script("logs", run_id, "-n", "all", env=keyless)
        assert logs.returncode == 0 and "phase sft: training (attempt 1)" in logs.stdout
        assert script("why", run_id, env=keyless).returncode == 0

        at_once = script("stop", run_id, "--now", "--yes", env=keyless)
        assert at_once.returncode == 8
        assert f"sky jobs cancel -n lanbot-{run_id}" in at_once.stderr
        limited = script("limit", run_id, "90", "--yes", env=keyless)
        assert limited.returncode == 0, limited.stderr
        machines.wait_for(machine, "just limit: the limit is now $90.00")
        stopped = script("stop", run_id, "--yes", env=keyless, timeout=120)
        assert stopped.returncode == 0 and "STOPPED" in stopped.stdout, stopped.stderr
        assert machines.ended(machine) == 0
    finally:
        machines.close()
    assert record(world, run_id, "receipt.json")["reason"] == "user"
    report = script("report", run_id, "--to", str(world.root / "r.html"), env=keyless)
    assert report.returncode == 0 and (world.root / "r.html").stat().st_size > 1000
    waited = script("wait", run_id, env=keyless)
    assert waited.returncode == 5 and "stopped" in waited.stderr
    assert "STOPPED" in script("check_status", run_id, env=keyless).stdout
    assert not world.cloud.requests, "nothing was asked of Shadeform"

    # continued on an instance of Shadeform, from the saved state, with the rest of the money
    ledger = Ledger(world.root / "nanolan-home")
    state(world.hub, ledger.find(run_id).plan, "sft", step=20)  # the stand-in's is no model
    refused = script("resume", run_id, "--yes", env=keyless)
    assert refused.returncode == 4 and "SHADEFORM_API_KEY is not set" in refused.stderr
    resumed = script("resume", run_id, "gpu=B200", "--yes", "--json", env=world.env(), timeout=180)
    assert resumed.returncode == 0, resumed.stderr
    entry = ledger.find(run_id)
    assert (entry.plan.platform, entry.plan.attempt) == (SHADEFORM, 2)
    assert entry.plan.resume and entry.plan.limit_cents < 9000
    log = world.cloud.root / "boxes" / (entry.instance_id or "") / "var/log/lanbot-training.log"
    assert "continues from the state saved at step 20" in log.read_text()
    assert script("stop", run_id, "--now", "--yes", env=world.env()).returncode == 0

    # and the job, started once more, leaves the run alone
    again = machines.start("another job")
    try:
        assert machines.ended(again) == 5
        assert "was continued by just resume, as attempt 2" in machines.log(again)
    finally:
        machines.close()
