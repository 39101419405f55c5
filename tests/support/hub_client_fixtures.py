"""Shared by tests/hub/test_client*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER

REPO, COMMIT = "me/lanbot", r"POST /api/models/me/lanbot/commit"


WRITER, READER = f"hf_writer_{MARKER}", f"hf_reader_{MARKER}"


USERS = {
    WRITER: {"name": "me", "orgs": [], "role": "write"},
    READER: {"name": "me", "orgs": [], "role": "read"},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=USERS) as hub:  # type: ignore[arg-type]
        hub.put(
            REPO,
            {
                "a.json": b"{}",
                "d20/model_000001.pt": b"weights",
                "d20/meta_000001.json": b"{}",
                "d200/x.txt": b"x",
            },
        )
        hub.put("owner/data", {"data/train-0.parquet": b"rows"}, typ="dataset", private=False)
        yield hub


class Sleeper:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(server: HubServer, token: str = WRITER, patience_s: float = 45.0) -> tuple[Hub, Sleeper]:
    sleeper = Sleeper()
    return Hub(
        server.url,
        Secret(token),
        patience_s=patience_s,
        sleep=sleeper.sleep,
        clock=lambda: sleeper.now,
    ), sleeper
