"""The user's word from afar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.watch.control import Control
from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.jobs import CLAIM_FILE, SUPERSEDED, Claim
from nanolan.run.record import to_json
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan, until


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path, tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"x": b"x"})
        yield server


def control(hub: HubServer, attempt: int = 1) -> tuple[Control, str]:
    plan = replace(make_plan(hub.url, ""), attempt=attempt)
    return Control(plan, Hub(hub.url, Secret(TOKEN), patience_s=0)), f"{plan.folder}/stop.json"


def test_without_a_request_nobody_asked(hub: HubServer) -> None:
    c, _ = control(hub)
    c.look()
    assert c.asked() is None


def test_a_request_for_this_attempt_is_heard_while_it_follows(hub: HubServer) -> None:
    c, path = control(hub, 2)
    c.start()
    hub.put(REPO, {path: b'{"attempt": 2, "at": "2026-11-24T12:00:00Z", "from": "elsewhere"}'})
    until(c.asked)
    c.close()
    stop = c.asked()
    assert stop and stop.reason == "user" and "2026-11-24T12:00:00Z" in stop.text


@pytest.mark.parametrize(
    "body", [b'{"attempt": 1}', b'{"attempt": "2"}', b"{}", b"[]", b"", b"\xff\xfe", b"{" * 10_000]
)
def test_what_is_no_request_for_this_attempt_is_passed_over(hub: HubServer, body: bytes) -> None:
    c, path = control(hub, 2)
    hub.put(REPO, {path: body})
    c.look()
    assert c.asked() is None


def test_a_hub_that_is_gone_stops_nothing(hub: HubServer) -> None:
    c, _ = control(hub)
    hub.stop()
    c.look()
    assert c.asked() is None


def test_a_machine_whose_run_another_one_has_claimed_stops(hub: HubServer) -> None:
    mine = Claim(1, "mine", "job", "", "", 1000, 3600)
    plan = make_plan(hub.url, "", platform="skypilot")
    c = Control(plan, Hub(hub.url, Secret(TOKEN), patience_s=0), claim=mine)
    for other in (mine, None):
        hub.put(REPO, {f"{plan.folder}/{CLAIM_FILE}": to_json(other) if other else b"{"})
        c.look()
        assert c.asked() is None, "its own, or one that cannot be read"
    hub.put(REPO, {f"{plan.folder}/{CLAIM_FILE}": to_json(replace(mine, token="other", attempt=2))})
    c.look()
    stop = c.asked()
    assert stop and stop.reason == SUPERSEDED and "attempt 2" in stop.text
