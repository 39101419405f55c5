"""A Hugging Face Job by the real client: its flavor and price from the Hub's own list, its time limit, its secrets by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub._jobs_api import JobHardwareInfo
from msgspec.structs import replace

from nanolan.errors import AuthProblem, BadAnswer, UsageProblem
from nanolan.export.command import command
from nanolan.export.hf_job import Flavor, arguments, choose, flavors, timeout_s, to_script
from nanolan.hub.client import Hub
from nanolan.plan import HF_JOB
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER
from tests.support.box_fixtures import TOKEN, WRITERS
from tests.support.core_fixtures import PLAN

pytestmark = pytest.mark.shows(
    "request", "POST /api/jobs/me body", "Hugging Face gets the secrets of its jobs"
)
SECRETS = ("HF_TOKEN", "WANDB_API_KEY")
H200X8 = Flavor("h200x8", "H200", 8, 141, 4001)
JOB = replace(PLAN, platform=HF_JOB, offer=replace(PLAN.offer, instance_type="h200x8", gpu="H200"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        yield server


def hub_of(server: HubServer) -> Hub:
    return Hub(server.url, Secret(TOKEN), patience_s=0.2)


# ---- the machines
def test_the_machines_and_their_prices_are_the_hubs_own(server: HubServer) -> None:
    known = flavors(hub_of(server))
    assert H200X8 in known and [f.hourly_cents for f in known] == sorted(
        f.hourly_cents for f in known
    )
    assert "cpu-basic" not in [f.name for f in known]


@pytest.mark.parametrize(
    ("gpu", "count", "name"),
    [
        ("h200", 8, "h200x8"),
        ("H200", 1, "h200"),
        ("A100_80G", 8, "a100x8"),
        ("T4", 1, "t4-small"),
        ("l40s", 8, "l40sx8"),
    ],
)
def test_the_cheapest_flavor_with_these_gpus_is_taken(
    server: HubServer, gpu: str, count: int, name: str
) -> None:
    assert choose(flavors(hub_of(server)), gpu, count).name == name


@pytest.mark.parametrize(("gpu", "count"), [("H100", 8), ("B200", 8), ("H200", 3), ("any", 1)])
def test_gpus_without_a_flavor_are_refused_with_the_list(
    server: HubServer, gpu: str, count: int
) -> None:
    with pytest.raises(UsageProblem) as refused:
        choose(flavors(hub_of(server)), gpu, count)
    assert f"no machine with {count}x {gpu}" in str(refused.value)
    assert "h200x8 (8x H200, $40.01/h)" in str(refused.value)


MACHINE = {
    "name": "h200x8",
    "prettyName": "",
    "cpu": "",
    "ram": "",
    "accelerator": {
        "type": "gpu",
        "model": "H200",
        "quantity": "8",
        "vram": "1128 GB",
        "manufacturer": "Nvidia",
    },
    "unitCostMicroUSD": 666_667,
    "unitCostUSD": 0.67,
    "unitLabel": "minute",
}


def changed(**fields: Any) -> dict[str, Any]:
    gpu = {k: v for k, v in fields.items() if k in MACHINE["accelerator"]}  # type: ignore[operator]
    rest = {k: v for k, v in fields.items() if k not in gpu}
    return MACHINE | rest | {"accelerator": MACHINE["accelerator"] | gpu}  # type: ignore[operator]


def listed(*machines: dict[str, Any]) -> Any:
    return SimpleNamespace(jobs_hardware=lambda: [JobHardwareInfo(**m) for m in machines])


@pytest.mark.parametrize(
    "odd",
    [
        changed(quantity="eight"),
        changed(quantity="0"),
        changed(unitCostMicroUSD=0),
        changed(unitCostMicroUSD=None),
        changed(unitCostMicroUSD="dear"),
        changed(manufacturer=None),
        {k: v for k, v in MACHINE.items() if k != "unitCostMicroUSD"},
    ],
    ids=str,
)
def test_a_list_that_cannot_be_read_is_no_price(odd: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer, match="nothing was exported"):
        flavors(listed(odd))


@pytest.mark.parametrize(
    "other",
    [
        changed(unitLabel="second-ish"),
        changed(manufacturer="AMD"),
        changed(type="tpu"),
        MACHINE | {"accelerator": None},
    ],
    ids=str,
)
def test_machines_in_other_units_or_without_nvidia_gpus_are_left_out(other: dict[str, Any]) -> None:
    assert flavors(listed(other, MACHINE)) == [H200X8]


def test_a_price_an_hour_is_an_hours_price() -> None:
    (flavor,) = flavors(listed(changed(unitLabel="hour", unitCostMicroUSD=40_000_000)))
    assert flavor.hourly_cents == 4000


def test_without_access_the_list_is_no_empty_one(server: HubServer) -> None:
    with pytest.raises(AuthProblem):
        flavors(Hub(server.url, Secret("hf_unknown"), patience_s=0.2))


# ---- the job, by the real client and by the real command
def test_the_real_client_submits_it_and_the_hub_has_what_it_needs(server: HubServer) -> None:
    given = arguments(JOB, command(JOB, "c0ffee", SECRETS), SECRETS)
    values = dict.fromkeys(given.pop("secrets"), f"hf_{MARKER}")
    with_values = dict(given, secrets=values)
    info = HfApi(endpoint=server.url, token=TOKEN).run_job(**with_values)
    (job,) = server.jobs
    assert info.status.stage == "RUNNING" and job["spec"]["flavor"] == "h200x8"
    assert job["spec"]["timeoutSeconds"] == timeout_s(JOB) == 16_071
    assert job["spec"]["secrets"] == values and job["spec"]["labels"] == {"name": "lanbot-ab12cd34"}
    assert job["spec"]["command"][:2] == ["bash", "-c"] and job["spec"]["environment"] == {}
    assert "attempts" not in job["spec"], "Hugging Face starts a failed job once"
    HfApi(endpoint=server.url, token=TOKEN).cancel_job(job_id=info.id)
    assert job["stage"] == "CANCELED"


def hf(
    server: HubServer, tmp_path: Path, script: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """The script, run with the installed `hf`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", script],
        env={**server.env(tmp_path / "home", TOKEN), "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_real_hf_command_submits_the_script(server: HubServer, tmp_path: Path) -> None:
    run = command(JOB, "c0ffee", SECRETS)
    script = to_script(JOB, arguments(JOB, run, SECRETS))
    done = hf(server, tmp_path, script, WANDB_API_KEY=f"key{MARKER}")
    assert done.returncode == 0, done.stderr
    (job,) = server.jobs
    assert job["spec"]["command"] == ["bash", "-c", run]
    assert job["spec"]["secrets"] == {"HF_TOKEN": TOKEN, "WANDB_API_KEY": f"key{MARKER}"}
    assert job["spec"]["timeoutSeconds"] == 16_071 and job["spec"]["flavor"] == "h200x8"
    assert MARKER not in done.stdout + done.stderr + script


def test_a_secret_that_is_not_set_ends_the_script_before_anything_is_submitted(
    server: HubServer, tmp_path: Path
) -> None:
    script = to_script(JOB, arguments(JOB, "true", SECRETS))
    done = hf(server, tmp_path, script)
    assert done.returncode and "WANDB_API_KEY" in done.stderr and not server.jobs


def test_the_arguments_are_json() -> None:
    given = arguments(JOB, command(JOB, "c0ffee", SECRETS), SECRETS)
    assert json.loads(json.dumps(given)) == given
