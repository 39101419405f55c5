"""Hugging Face Jobs on the local Hub: its list of machines, and jobs as they are submitted. It runs none: `hub.jobs` has what a job
would run, with its secrets, for a rehearsal to start."""

from __future__ import annotations

import secrets
from typing import Any

from nanolan.sim.hub.accounts import user_of, writer_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import Refusal, now

DEFAULT_TIMEOUT_S = 30 * 60
# name, what it is called, GPU, how many, GB of them all, millionths of a dollar a minute
MACHINES: list[tuple[str, str, str, int, int, int]] = [
    ("cpu-basic", "CPU Basic", "", 0, 0, 167),
    ("t4-small", "Nvidia T4 - small", "T4", 1, 16, 6_667),
    ("t4-medium", "Nvidia T4 - medium", "T4", 1, 16, 10_000),
    ("l40sx8", "8x Nvidia L40S", "L40S", 8, 384, 391_667),
    ("a100-large", "Nvidia A100 - large", "A100", 1, 80, 41_667),
    ("a100x8", "8x Nvidia A100", "A100", 8, 640, 333_333),
    ("h200", "Nvidia H200", "H200", 1, 141, 83_333),
    ("h200x8", "8x Nvidia H200", "H200", 8, 1_128, 666_667),
]


def hardware(request: Request) -> None:
    """Every machine, with its price."""
    user_of(request)
    request.reply(200, [_machine(*row) for row in MACHINES])


def _machine(name: str, pretty: str, gpu: str, count: int, vram: int, price: int) -> dict[str, Any]:
    accelerator = {
        "type": "gpu",
        "model": gpu,
        "quantity": str(count),
        "vram": f"{vram} GB",
        "manufacturer": "Nvidia",
    }
    return {
        "name": name,
        "prettyName": pretty,
        "cpu": "23 vCPU",
        "ram": "256 GB",
        "ephemeralStorage": "3000 GB",
        "accelerator": accelerator if count else None,
        "unitCostMicroUSD": price,
        "unitCostUSD": price / 1e6,
        "unitLabel": "minute",
    }


def submit(request: Request, owner: str) -> None:
    """Take a job; 400 for one that asks for a machine that there is not."""
    writer_of(request, owner)
    spec = request.json()
    if spec["flavor"] not in [row[0] for row in MACHINES]:
        raise Refusal(400, f"no flavor {spec['flavor']}")
    job = {
        "id": secrets.token_hex(12),
        "owner": owner,
        "created": now(),
        "stage": "RUNNING",
        "spec": {"timeoutSeconds": DEFAULT_TIMEOUT_S} | spec,
    }
    request.hub.jobs.append(job)
    request.reply(200, told(job))


def show(request: Request, owner: str, job_id: str) -> None:
    """A job; 404 if there is none of that id."""
    request.reply(200, told(find(request, owner, job_id)))


def listing(request: Request, owner: str) -> None:
    """All jobs of an account."""
    user_of(request)
    request.reply(200, [told(job) for job in request.hub.jobs if job["owner"] == owner])


def cancel(request: Request, owner: str, job_id: str) -> None:
    """End a job."""
    writer_of(request, owner)
    job = find(request, owner, job_id)
    job["stage"] = "CANCELED"
    request.reply(200, told(job))


def find(request: Request, owner: str, job_id: str) -> dict[str, Any]:
    """A job of an account."""
    user_of(request)
    for job in request.hub.jobs:
        if (job["owner"], job["id"]) == (owner, job_id):
            return job
    raise Refusal(404, "Job not found")


def told(job: dict[str, Any]) -> dict[str, Any]:
    """A job as the Hub shows it: of its secrets only the names."""
    spec = job["spec"]
    return {
        "id": job["id"],
        "createdAt": job["created"],
        "dockerImage": spec.get("dockerImage"),
        "command": spec["command"],
        "arguments": spec["arguments"],
        "environment": spec["environment"],
        "secrets": dict.fromkeys(spec.get("secrets", {}), ""),
        "flavor": spec["flavor"],
        "labels": spec.get("labels", {}),
        "status": {"stage": job["stage"], "message": None},
        "owner": {"id": "0" * 24, "name": job["owner"], "type": "user"},
    }


OWNER = r"([^/]+)"
ROUTES = [
    route("GET", r"/api/jobs/hardware", hardware),
    route("POST", rf"/api/jobs/{OWNER}", submit),
    route("GET", rf"/api/jobs/{OWNER}", listing),
    route("GET", rf"/api/jobs/{OWNER}/([^/]+)", show),
    route("POST", rf"/api/jobs/{OWNER}/([^/]+)/cancel", cancel),
]
