"""The local Hub's jobs: started and looked at, as the real client does; nothing is run. What was sent is in `hub.jobs`, in memory
alone, since secrets are in it."""

from __future__ import annotations

from typing import Any

from nanolan.sim.hub.accounts import writer_of
from nanolan.sim.hub.http import Request, route
from nanolan.sim.hub.repo import Refusal, now

FLAVORS = {"cpu-basic", "cpu-upgrade"}
DEMANDED = {
    "command": list,
    "arguments": list,
    "environment": dict,
    "flavor": str,
    "dockerImage": str,
}


def start(ask: Request, owner: str) -> None:
    """A new job of `owner`; 400 for a spec that is none."""
    user, spec = writer_of(ask, owner), ask.json()
    for name, kind in DEMANDED.items():
        if not isinstance(spec.get(name), kind):
            raise Refusal(400, f"{name} is missing or of another type")
    texts = [*spec["command"], *spec["environment"].values(), *spec.get("secrets", {}).values()]
    if spec["flavor"] not in FLAVORS or not all(isinstance(t, str) for t in texts):
        raise Refusal(400, "no such flavor, or a value that is no text")
    job = {
        "id": f"{len(ask.hub.jobs) + 1:024x}",
        "createdAt": now(),
        "owner": {"id": owner, "name": owner, "type": "user"},
        "initiator": {"id": owner, "name": user["name"], "type": "user"},
        "status": {"stage": "SCHEDULING", "message": None},
    }
    ask.hub.jobs.append(job | {"spec": spec})
    ask.reply(200, job | shown(spec))


def detail(ask: Request, owner: str, job_id: str) -> None:
    """One job, without its secrets."""
    writer_of(ask, owner)
    job = next((j for j in ask.hub.jobs if j["id"] == job_id), None)
    if job is None:
        raise Refusal(404, f"no job {job_id}")
    ask.reply(200, {k: v for k, v in job.items() if k != "spec"} | shown(job["spec"]))


def shown(spec: dict[str, Any]) -> dict[str, Any]:
    """What a job tells of its spec: of secrets the names."""
    return spec | {"secrets": sorted(spec.get("secrets", {}))}


ROUTES = [
    route("POST", r"/api/jobs/([^/]+)", start),
    route("GET", r"/api/jobs/([^/]+)/([^/]+)", detail),
]
