"""A machine that is a job: when its bill began, what it keeps for a restart, and with which code it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace as changed
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from nanolan.box.context import BoxDeps
from nanolan.box.main import main
from nanolan.box.platform.job import (
    BEFORE_CLAIM_S,
    age_s,
    begin_job,
    exit_code,
    kept_claim,
    kept_plan,
)
from nanolan.box.platform.platforms import JOB, PLATFORMS, platform_of
from nanolan.plan import HF_JOB, SHADEFORM, SKYPILOT, Plan, read_plan
from nanolan.redact import Secret
from nanolan.run.record import FAILED, STOPPED, SUCCEEDED, Receipt
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.keyless import KeylessClient
from nanolan.sim.hub.server import HubServer
from nanolan.times import parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan

NOW = parse_time("2026-11-24T12:00:00Z")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"README.md": b"#"})
        yield server


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKYPILOT_TASK_ID", "sky-1")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/booted").write_text(str((NOW - timedelta(minutes=5)).timestamp()))
    return tmp_path / "state"


def plan_of(server: HubServer | None = None, platform: str = SKYPILOT, **fields: object) -> Plan:
    return make_plan(
        server.url if server else "http://127.0.0.1:1", "", platform=platform, **fields
    )


def deps(now: datetime = NOW) -> BoxDeps:
    return changed(BoxDeps(), now=lambda: now)


# ---- the table of platforms
@pytest.mark.parametrize(
    ("platform", "self_delete", "row"),
    [
        (SHADEFORM, True, PLATFORMS[SHADEFORM]),
        (SHADEFORM, False, PLATFORMS["keyless"]),
        (SKYPILOT, True, JOB),
        (SKYPILOT, False, JOB),
        (HF_JOB, True, JOB),
    ],
)
def test_the_plan_names_who_ends_the_machine(platform: str, self_delete: bool, row: object) -> None:
    assert platform_of(plan_of(platform=platform, self_delete=self_delete)) is row


def test_a_plan_of_an_older_version_is_shadeforms() -> None:
    old = json.loads(plan_of(platform=SHADEFORM).to_json())
    assert old.pop("platform") == SHADEFORM
    plan = read_plan(json.dumps(old))
    assert plan.platform == SHADEFORM and plan.holds_key and not plan.is_job


def test_only_a_machine_of_shadeform_gets_a_client_with_a_key() -> None:
    secrets = {"SHADEFORM_API_KEY": Secret("key"), "HF_TOKEN": Secret("token")}
    made = {name: PLATFORMS[name].client(plan_of(), secrets, BoxDeps()) for name in PLATFORMS}
    assert {name: type(api) for name, api in made.items()} == {
        SHADEFORM: Shadeform,
        "keyless": KeylessClient,
        SKYPILOT: KeylessClient,
        HF_JOB: KeylessClient,
    }


# ---- its begin
def test_a_restart_on_the_same_machine_is_the_same_attempt(server: HubServer, state: Path) -> None:
    plan = plan_of(server)
    first = begin_job(plan, Secret(TOKEN), state, deps())
    again = begin_job(plan, Secret(TOKEN), state, deps(NOW + timedelta(hours=1)))
    claim = kept_claim(state)
    assert again == first == kept_plan(state) and claim and claim.job == "sky-1"
    limit = json.loads((state / "limit.json").read_bytes())
    assert limit["epoch"] == int(parse_time(first.deadline).timestamp()), "for the timer"


def test_another_machine_of_the_job_is_the_next_attempt(
    server: HubServer, state: Path, tmp_path: Path
) -> None:
    plan = plan_of(server)
    begin_job(plan, Secret(TOKEN), state, deps())
    (tmp_path / "second").mkdir()
    second = begin_job(plan, Secret(TOKEN), tmp_path / "second", deps(NOW + timedelta(minutes=9)))
    assert second.attempt == 2


def test_a_machine_with_nothing_to_do_writes_nothing_and_ends(
    server: HubServer, state: Path, tmp_path: Path
) -> None:
    plan = plan_of(server)
    begin_job(plan, Secret(TOKEN), state, deps())
    other, work = tmp_path / "other", tmp_path / "work"
    other.mkdir(), work.mkdir()
    (other / "plan.json").write_bytes(plan.to_json())
    (other / "secrets.json").touch(0o600)
    (other / "secrets.json").write_text(json.dumps({"HF_TOKEN": TOKEN}))
    before = set(server.files(REPO))
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SKYPILOT_TASK_ID", "sky-2")
        assert main(other, work, deps(NOW + timedelta(minutes=3))) == 5
    assert set(server.files(REPO)) == before


# ---- its bill
@pytest.mark.parametrize(
    ("up_minutes", "counted_minutes"),
    [(0, 5), (4, 5), (12, 12), (35, 35), (36, 35), (60 * 24 * 90, 35)],
    ids=str,
)
def test_the_bill_begins_with_the_machine_but_not_with_one_that_was_up_for_long(
    state: Path, up_minutes: int, counted_minutes: int
) -> None:
    started = (NOW - timedelta(minutes=up_minutes)).timestamp()
    assert age_s(state, lambda: started, NOW.timestamp) == 60 * counted_minutes


@pytest.mark.parametrize("jump_h", [-1000, -1, 1, 1000])
def test_a_clock_that_jumps_neither_rewinds_the_bill_nor_uses_it_up(
    state: Path, jump_h: int
) -> None:
    later = (NOW + timedelta(hours=jump_h)).timestamp()
    assert 0 <= age_s(state, NOW.timestamp, lambda: later) <= BEFORE_CLAIM_S


def test_a_boot_time_that_cannot_be_read_is_now(state: Path) -> None:
    (state / "booted").write_text("half")
    assert age_s(state, NOW.timestamp, NOW.timestamp) == 0


# ---- its end
@pytest.mark.parametrize(
    ("verdict", "reason", "code"),
    [
        (SUCCEEDED, "", 0),
        (STOPPED, "user", 0),
        (STOPPED, "gate", 6),
        (STOPPED, "spend_limit", 6),
        (STOPPED, "max_duration", 6),
        (STOPPED, "limit_lost", 7),
        (FAILED, "nan", 5),
        (FAILED, "superseded", 5),
    ],
)
def test_the_exit_code_is_the_verdicts(verdict: str, reason: str, code: int) -> None:
    assert exit_code(Receipt("ab12cd34", verdict, reason)) == code
    assert PLATFORMS[SHADEFORM].exit_code(Receipt("ab12cd34", verdict, reason)) == 0
