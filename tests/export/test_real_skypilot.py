"""Every exported task by SkyPilot's own parser, in an environment of its own: 320 MB, a minute, so with the slow tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nanolan.export.command import command
from nanolan.export.gpus import SKYPILOT_GPUS
from nanolan.export.skypilot import task, to_yaml
from nanolan.plan import SKYPILOT
from tests.support.core_fixtures import PLAN

PINNED = "skypilot==0.14.1"
SECRETS = ("HF_TOKEN", "WANDB_API_KEY")
# Runs in SkyPilot's environment: what it reads from each file, and what its optimizer says without a cloud
READER = """
import json, sys, sky
read = {}
for path in sys.argv[1:]:
    t = sky.Task.from_yaml(path)
    with sky.Dag() as dag:
        dag.add(t)
    try:
        sky.Optimizer.optimize(dag, quiet=True)
        end = "placed"
    except Exception as e:
        end = type(e).__name__
    with open(path) as file:
        config = sky.utils.yaml_utils.safe_load(file)
    given = sky.Task.from_yaml_config(config, secrets_overrides=[("HF_TOKEN", "a"), ("WANDB_API_KEY", "b")])
    resources = [
        {
            "accelerators": r.accelerators,
            "use_spot": r.use_spot,
            "job_recovery": r.job_recovery,
            "down": r.autostop_config.down,
            "idle_minutes": r.autostop_config.idle_minutes,
            "disk_size": r.disk_size,
            "infra": f"{r.infra.cloud}/{r.infra.region}".lower(),
        }
        for r in t.resources
    ]
    read[path] = {"name": t.name, "run": t.run, "setup": t.setup, "resources": resources, "end": end,
                  "secrets": sorted(given.secrets), "num_nodes": t.num_nodes}
print("READ " + json.dumps(read))
"""


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The Python of an environment with SkyPilot."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not uv:
        pytest.skip("uv is not here, so SkyPilot cannot be installed")
    folder = tmp_path_factory.mktemp("skypilot") / ".venv"
    for words in (
        ["venv", "--quiet", str(folder)],
        ["pip", "install", "--quiet", "--python", str(folder / "bin/python"), PINNED],
    ):
        done = subprocess.run([uv, *words], capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"{PINNED} cannot be installed: {done.stderr.strip()[-200:]}")
    return [str(folder / "bin/python")]


def read_by(sky: list[str], tmp_path: Path, files: dict[str, str]) -> dict[str, Any]:
    """What SkyPilot reads from the files, by name."""
    paths = {name: tmp_path / f"{name}.yaml" for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    home = {"HOME": str(tmp_path / "home"), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [*sky, "-c", READER, *map(str, paths.values())],
        env={"PATH": os.environ["PATH"], **home},
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("READ ")]
    assert lines, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    read = json.loads(lines[0].removeprefix("READ "))
    return {name: read[str(path)] for name, path in paths.items()}


@pytest.mark.slow
def test_skypilot_reads_every_task_as_it_is_meant(sky: list[str], tmp_path: Path) -> None:
    job = replace(PLAN, platform=SKYPILOT)
    run = command(job, "c0ffee", SECRETS)
    plans = {
        g: replace(job, offer=replace(job.offer, gpu=g, spot=g == "H100")) for g in SKYPILOT_GPUS
    }
    made = {g: task(p, run, SECRETS) for g, p in plans.items()}
    made["aws"] = task(plans["H200"], run, SECRETS, "aws/us-east-1")
    files = {name: to_yaml(job, t, "x.yaml") for name, t in made.items()}
    read = read_by(sky, tmp_path, files)
    for name, seen in read.items():
        wanted = made[name]["resources"]["accelerators"]
        gpus = [wanted] if isinstance(wanted, str) else wanted
        assert {f"{g}:{n}" for r in seen["resources"] for g, n in r["accelerators"].items()} == {
            *gpus
        }
        assert (seen["name"], seen["setup"], seen["num_nodes"]) == ("lanbot-ab12cd34", None, 1)
        assert seen["run"] == run and seen["secrets"] == sorted(SECRETS)
        assert seen["end"] == "NoCloudAccessError", "as far as its optimizer goes without a cloud"
        for r in seen["resources"]:
            assert (r["down"], r["idle_minutes"], r["disk_size"]) == (True, 10, 256)
            assert r["job_recovery"]["max_restarts_on_errors"] == 0
            assert r["use_spot"] == (name == "H100")
    assert {r["infra"] for r in read["aws"]["resources"]} == {"aws/us-east-1"}


@pytest.mark.slow
def test_a_field_that_skypilot_does_not_know_is_found(sky: list[str], tmp_path: Path) -> None:
    """The reader above would notice a mistake: SkyPilot refuses unknown fields and wrong types."""
    job = replace(PLAN, platform=SKYPILOT)
    good = task(job, "true", SECRETS)
    for odd in (
        good | {"workdirs": "."},
        good | {"resources": good["resources"] | {"job_recovery": {"max_restarts_on_errors": -1}}},
        good | {"resources": good["resources"] | {"max_hourly_cost": 0}},
    ):
        (tmp_path / "home").exists() and shutil.rmtree(tmp_path / "home")
        with pytest.raises(AssertionError, match="Invalid|ValueError"):
            read_by(sky, tmp_path, {"odd": to_yaml(job, odd, "x.yaml")})
