"""The request to stop, and the wait until the deletion is confirmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling
from nanolan.hub.client import Hub
from nanolan.manage.stop_request import (
    LOOK_EVERY_S,
    ask_to_stop,
    wait_until_gone,
    why_not_listening,
)
from nanolan.redact import Secret
from nanolan.run.ledger import Entry
from nanolan.run.record import SILENT_S
from nanolan.sim.hub.server import HubServer
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.status.test_status import LIVE, machine
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan
from tests.support.status_fixtures import RUN, TRAINING, receipt

NOW = now_utc()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"#"})
        yield server


def heard(seconds_ago: float) -> Any:
    return structs.replace(TRAINING, updated=iso(NOW - timedelta(seconds=seconds_ago)))


def test_the_request_names_the_attempt_and_the_time(hub: HubServer) -> None:
    plan = make_plan(hub.url, "", run_id=RUN, runs_repo=REPO, attempt=3)
    ask_to_stop(Hub(hub.url, Secret(TOKEN), patience_s=1), plan, NOW)
    assert json.loads(hub.read(REPO, f"runs/{RUN}/stop.json")) == {"attempt": 3, "at": iso(NOW)}


@pytest.mark.parametrize(
    "view, why",
    [
        (RunView(LIVE, "training", instance=machine("active"), progress=heard(0)), ""),
        (RunView(LIVE, "training", instance=machine("active"), progress=heard(SILENT_S - 60)), ""),
        (
            RunView(LIVE, "training", instance=machine("active"), progress=heard(SILENT_S + 60)),
            "has not reported for 21 minutes",
        ),
        (
            RunView(
                LIVE,
                "training",
                instance=machine("active"),
                progress=heard(SILENT_S + 60),
                receipt=receipt(),
            ),
            "",
        ),
        (RunView(LIVE, "booting", instance=machine("active")), ""),
        (
            RunView(LIVE, "booting", instance=machine("active"), problems=("the Hub is away",)),
            "has not reported yet: the Hub is away",
        ),
        (
            RunView(LIVE, "failed", instance=machine("error", "no capacity"), progress=heard(0)),
            "no capacity",
        ),
        (RunView(LIVE, "failed", instance=machine("error")), "the provider says: error"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else None,
)
def test_a_box_that_would_not_read_a_request_is_detected_first(view: RunView, why: str) -> None:
    assert why_not_listening(view, NOW) == why or (why and why in why_not_listening(view, NOW))


class Looks:
    """The looks of a wait, one after the other, and the clock that they move."""

    def __init__(self, *seen: Overview) -> None:
        self.seen, self.now, self.said = list(seen), 0.0, list[str]()

    def __call__(self) -> Overview:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, timeout_s: float = 900.0) -> RunView:
        return wait_until_gone(
            self, self.said.append, timeout_s=timeout_s, clock=lambda: self.now, sleep=self.sleep
        )


def seen(view: RunView, *problems: str) -> Overview:
    return Overview((view,), (), (), problems)


SAVING = RunView(LIVE, "stopping", "asked", instance=machine("active"), spent_cents=100)
UPLOADING = replace(SAVING, state="uploading", reason="")
GONE = RunView(LIVE, "stopped", "user", receipt=receipt("stopped", "user"))


def test_every_stage_is_said_once_until_the_machine_is_gone() -> None:
    looks = Looks(seen(SAVING), seen(SAVING), seen(UPLOADING), seen(GONE))
    assert looks.wait() is GONE and looks.said == [
        "  stopping: asked ($1.00 spent)",
        "  uploading ($1.00 spent)",
    ]
    assert looks.now == 3 * LOOK_EVERY_S


def test_a_machine_that_is_being_deleted_bills_no_more() -> None:
    deleting = replace(SAVING, instance=machine("deleting"))
    assert Looks(seen(deleting)).wait() is deleting


def test_an_account_that_cannot_be_read_is_not_gone() -> None:
    unseen = replace(SAVING, instance=None)
    looks = Looks(seen(unseen, "Shadeform did not answer"), seen(GONE))
    assert looks.wait() is GONE and looks.said == ["  Shadeform did not answer ($1.00 spent)"]


@pytest.mark.parametrize(
    "last, names",
    [
        (seen(UPLOADING), "i-1 ($1.00/h)"),
        (seen(replace(SAVING, instance=None), "no answer"), "i-1 ($1.00/h)"),
        (
            seen(
                replace(
                    SAVING,
                    entry=Entry(LIVE.plan, None),
                    instance=replace(machine("active"), id="i-7"),
                )
            ),
            "i-7 ($1.00/h)",
        ),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else None,
)
def test_after_the_time_limit_the_error_names_what_still_bills(last: Overview, names: str) -> None:
    with pytest.raises(MayBeBilling) as e:
        Looks(last).wait(90.0)
    assert e.value.exit_code == 8
    for part in (
        f"instance {names} may continue to bill",
        "within 2 minutes",
        f"just stop {RUN} --now",
        "$10.00",
    ):
        assert part in str(e.value)


def test_it_looks_a_last_time_when_time_is_up() -> None:
    looks = Looks(seen(SAVING), seen(SAVING), seen(GONE))
    assert looks.wait(1.5 * LOOK_EVERY_S) is GONE and looks.now == 1.5 * LOOK_EVERY_S
