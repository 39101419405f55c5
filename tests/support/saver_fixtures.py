"""A machine's inside with a real disk and a real (local) Hub, on a clock that runs only when somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.box.context import BoxDeps, BoxRun
from nanolan.box.upload.checkpoint import upload
from nanolan.checkpoint.manifest import newest_whole, save_whole
from nanolan.errors import Unreachable
from nanolan.hub.client import Hub
from nanolan.hub.transfer import Job
from nanolan.redact import Secret
from nanolan.run.record import PhaseReport
from nanolan.sim.hub.server import HubServer
from nanolan.times import iso, parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import a_plan

BORN = parse_time("2026-11-24T12:00:00Z")


class Clock:
    """Seconds since the start; `sleep` moves it."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds

    def now(self) -> datetime:
        return BORN + timedelta(seconds=self.s)


def machine(
    root: Path,
    hub: HubServer | None = None,
    *,
    life_s: float = 36_000,
    deps: dict[str, Any] | None = None,
    **plan: Any,
) -> BoxRun:
    """A machine that was born now; its transfers are made in this process and noted in `sent`."""
    clock = Clock()
    plan_ = a_plan(
        **{
            "hf_endpoint": hub.url if hub else "http://127.0.0.1:1",
            "created_at": iso(BORN),
            "deadline": iso(BORN + timedelta(seconds=life_s)),
            **plan,
        }
    )
    heartbeat = SimpleNamespace(
        phases={p: PhaseReport("none") for p in plan_.phases},
        state="training",
        set_state=lambda state, message="": None,
        note_trouble=lambda what, error: None,
        trouble_of=lambda what: "",
    )
    heartbeat.set_phase = heartbeat.phases.__setitem__
    meter = SimpleNamespace(
        give_up=lambda: "",
        must_give_up=lambda: None,
        note_upload=lambda s: None,
        deadline=plan_.deadline,
    )
    sent: list[Job] = []

    def client(endpoint: str, token: Secret, **how: Any) -> Hub:
        return Hub(endpoint, token, **{**how, "sleep": clock.sleep})

    def transfer(
        job: Job,
        token: Secret,
        *,
        give_up: Callable[[], str],
        say: Callable[[str], None],
        **_: object,
    ) -> None:
        sent.append(job)
        if reason := give_up():
            raise Unreachable(f"given up ({reason})")
        assert hub is not None
        hub.put(
            job.repo,
            {f"{job.target}/{name}": (Path(job.folder) / name).read_bytes() for name in job.files},
        )

    made = BoxDeps(
        **{
            "clock": clock,
            "sleep": clock.sleep,
            "now": clock.now,
            "hub": client,
            "transfer": transfer,
            "kill": lambda run: 0,
            **(deps or {}),
        }
    )
    parts: dict[str, Any] = dict(
        api=None,
        me=None,
        meter=meter,
        heartbeat=heartbeat,
        timeline=None,
        control=None,
        notify=None,
    )
    m = BoxRun(
        plan_, {"HF_TOKEN": Secret(TOKEN)}, root / "state", root / "work", deps=made, **parts
    )
    m.sent = sent  # type: ignore[attr-defined]
    for folder in (m.state, m.work):
        folder.mkdir(parents=True, exist_ok=True)
    return m


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with the repo of results."""
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"mine"})
        yield server


def send(box: BoxRun, phase: str = "sft") -> None:
    """Upload the newest whole step and prove it."""
    found = newest_whole(box.out_dir(phase), phase)
    assert found
    upload(box, phase, *found)


def trained(box: BoxRun, phase: str, step: int = 5, final: bool = True, size: int = 100) -> None:
    """A whole step on the machine's disk."""

    def write(folder: Path) -> None:
        (folder / f"model_{step:06d}.pt").write_bytes(phase.encode() * size)
        (folder / f"meta_{step:06d}.json").write_text("{}")

    save_whole(box.out_dir(phase), step, write, run_id=box.plan.run_id, phase=phase, final=final)


def on_hub(hub: HubServer, repo: str) -> list[str]:
    """The files of a repo."""
    return sorted(p for p in hub.files(repo) if p != ".gitattributes")
