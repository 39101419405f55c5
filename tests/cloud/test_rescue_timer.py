"""The dead man's timer of rescue.py."""

from __future__ import annotations

import base64
import importlib.util
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.run.record import leak_warning
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import TOKEN, Box, until
from tests.support.core_fixtures import forms_of
from tests.support.rescue_fixtures import (
    LIST,
    box,  # noqa: F401  # a fixture
    module,  # noqa: F401  # an autouse fixture
    rescue,
)

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)


# ---- the dead man's timer
def test_the_dead_mans_timer_deletes_at_its_time_and_does_nothing_else(box: Box) -> None:
    at = time.time() + 1.5
    timer = box.program("/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", str(at))
    time.sleep(0.8)
    assert timer.poll() is None and not box.deleted, "not before its time"
    assert timer.wait(15) == 0 and box.deleted and time.time() < at + 5
    assert {r.method + " " + r.path.replace(box.id, "ID") for r in box.cloud.requests} == {
        "GET /v1/instances/types",
        "GET /v1/instances",
        "POST /v1/instances/ID/delete",
    }
    assert not box.hub.log


def test_the_timer_keeps_to_a_deadline_that_just_limit_moved(box: Box) -> None:
    (box.state / "limit.json").write_text(json.dumps({"epoch": time.time() + 3}))
    timer = box.program(
        "/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", str(time.time() + 0.2)
    )
    time.sleep(1.5)
    assert timer.poll() is None and not box.deleted, "it was moved away"
    (box.state / "limit.json").write_text("{}")  # what cannot be read moves nothing
    assert timer.wait(60) == 0 and box.deleted


class Clocks:
    """A machine whose wall clock is wrong by `wrong_s`, a provider that is right, and tells it from `told_from` on; True time 0."""

    def __init__(self, wrong_s: float, told_from: float = 0.0) -> None:
        self.passed_s, self.wrong_s, self.told_from = 0.0, wrong_s, told_from
        self.asked = 0

    def provider(self) -> float | None:
        self.asked += 1
        return self.passed_s if self.passed_s >= self.told_from else None

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds

    def fires_at(self, module: Any, deadline_s: float = 3600.0) -> float:
        module.wait_until(
            lambda: deadline_s,
            self.provider,
            wall=lambda: self.passed_s + self.wrong_s,
            clock=lambda: self.passed_s,
            sleep=self.sleep,
        )
        return self.passed_s


@pytest.mark.parametrize(
    "wrong_s", [-86400 * 365, -86400, -8 * 3600, -60, 0, 60, 8 * 3600, 86400, 86400 * 365]
)
@pytest.mark.parametrize("told_from", [0.0, 45.0])
def test_the_timer_goes_by_the_providers_clock_however_wrong_the_machines_is(
    wrong_s: float, told_from: float
) -> None:
    clocks = Clocks(wrong_s, told_from)
    assert clocks.fires_at(RESCUE) == pytest.approx(3600, abs=1)
    assert clocks.asked <= 4


def test_a_clock_that_jumps_ahead_does_not_end_the_wait() -> None:
    clocks, module = Clocks(0.0), RESCUE
    sleep = clocks.sleep

    def jumps(seconds: float) -> None:
        sleep(seconds)
        clocks.wrong_s = 86400.0

    clocks.sleep = jumps  # type: ignore[method-assign]
    assert clocks.fires_at(module) == pytest.approx(3600, abs=1)


@pytest.mark.parametrize(("wrong_s", "over_s"), [(0.0, 3600), (86400.0, 0)])
def test_a_provider_that_never_tells_leaves_the_machines_own_clocks_after_ten_minutes_of_doubt(
    wrong_s: float, over_s: int
) -> None:
    assert Clocks(wrong_s, told_from=1e9).fires_at(RESCUE) == pytest.approx(
        over_s + RESCUE.DOUBT_S, abs=1
    )


def test_the_providers_time_is_read_from_any_answer_refusals_too(box: Box) -> None:
    module = RESCUE
    for fault in (None, "unauthorized", "internal_error"):
        if fault:
            box.cloud.fault("GET /v1/instances/types", fault, times=1)
        assert abs(module.provider_time(box.plan.shadeform_api) - time.time()) < 5
    assert module.provider_time("http://127.0.0.1:1/v1") is None


@pytest.mark.parametrize(
    "told, believed",
    [
        ((1e9, 1e9), 1e9),
        ((1e9, 1e9 + 5), 1e9 + 5),
        ((1e9, 1e9 + 7200), None),
        ((1e9 + 7200, 1e9), None),
        ((None, 1e9), None),
        ((1e9, None), None),
    ],
)
def test_two_answers_that_contradict_each_other_tell_no_time(
    told: tuple[float | None, ...], believed: float | None
) -> None:
    answers = iter(told)
    assert RESCUE.provider_time("", lambda api: next(answers)) == believed


def test_only_one_timer_is_armed_and_a_killed_one_can_be_armed_again(box: Box) -> None:
    def arm() -> object:
        return box.program(
            "/usr/bin/env",
            "python3",
            str(box.state / "rescue.py"),
            "deadman",
            str(time.time() + 600),
        )

    first = arm()
    until(lambda: "rescue.py" in str(first.args))  # type: ignore[attr-defined]
    time.sleep(0.2)
    assert arm().wait(10) == 0 and first.poll() is None  # type: ignore[attr-defined]
    first.kill()  # type: ignore[attr-defined]
    third = arm()
    time.sleep(0.5)
    assert third.poll() is None and not box.deleted  # type: ignore[attr-defined]


def test_when_deleting_fails_for_long_it_powers_the_machine_off_once_and_goes_on_trying(
    box: Box,
) -> None:
    box.cloud.fault(LIST, "status", status=500, times=3)
    act = (
        f"import sys; sys.path.insert(0, {str(box.state)!r}); import json, rescue; rescue.FIRST_WAIT_S = 0.05\n"
        "plan, secrets = (json.loads((rescue.HERE / n).read_bytes()) for n in ('plan.json', 'secrets.json'))\n"
        "rescue.delete_self(plan, secrets, 0.01)"
    )
    assert box.program("/usr/bin/env", "python3", "-c", act).wait(30) == 0
    assert box.log().count("powering off") == 1 and box.deleted


def program() -> Any:
    spec = importlib.util.spec_from_file_location("rescue", ROOT / "cloud/rescue.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


RESCUE = program()


# ---- secrets
@given(
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    before=st.binary(max_size=5),
)
def test_it_hides_a_secret_in_every_form(key: str, before: bytes) -> None:
    text = f"raw {key} path {quote(key)} url {quote(key, safe='')} json {json.dumps(key)} b64 {base64.b64encode(before + key.encode()).decode()}."
    shown = RESCUE.hide(text, {"HF_TOKEN": key})
    assert shown.count("***") >= 5 and not any(
        form in shown for form in forms_of(key) if len(form) > 8
    )


def test_what_it_prints_holds_no_secret_and_drives_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESCUE, "HERE", tmp_path)
    RESCUE.say("before there is a file")
    (tmp_path / "secrets.json").touch(0o600)
    (tmp_path / "secrets.json").write_text(json.dumps({"HF_TOKEN": TOKEN}))
    RESCUE.say(f"deleting {TOKEN}\x1b[2J")
    assert capsys.readouterr().out == "rescue: before there is a file\nrescue: deleting ***?[2J\n"


@pytest.mark.parametrize("public", [True, False])
def test_a_secret_in_a_log_that_anybody_can_read_is_said_loudly(box: Box, public: bool) -> None:
    (box.state / "plan.json").write_bytes(replace(box.plan, public=public).to_json())
    assert rescue(box, "fail", "words") == 0
    receipt, last = box.receipt(), box.uploaded_log("error").splitlines()[-1]
    loud = leak_warning(box.plan)
    assert (receipt.get("warning"), receipt["message"].endswith(loud), last.endswith(loud)) == (
        (loud, True, True) if public else (None, False, False)
    )


# ---- a job of SkyPilot or Hugging Face
def test_the_timer_of_a_job_ends_its_first_process_and_asks_no_shadeform(box: Box) -> None:
    first = box.program("/usr/bin/env", "sleep", "60")
    timer = box.program(
        "/usr/bin/env",
        f"NANOLAN_JOB={first.pid}",
        "python3",
        str(box.state / "rescue.py"),
        "deadman",
        str(time.time() + 0.5),
    )
    assert first.wait(20) == -15 and timer.poll() is None
    assert not box.deleted and not box.cloud.requests, "its clock is the Hub's"


def test_a_job_that_gives_up_leaves_its_receipt_and_ends_with_an_error(box: Box) -> None:
    (box.state / "attempt.json").write_bytes(replace(box.plan, attempt=3).to_json())
    done = box.program(
        "/usr/bin/env",
        "NANOLAN_JOB=1",
        "python3",
        str(box.state / "rescue.py"),
        "fail",
        "no driver",
    )
    assert done.wait(30) == 1 and not box.cloud.requests and not box.deleted
    assert (box.receipt()["reason"], box.receipt()["attempt"]) == ("boot_failed", 3)


def test_before_its_claim_a_job_counts_as_its_last_attempt(box: Box) -> None:
    done = box.program(
        "/usr/bin/env",
        "NANOLAN_JOB=1",
        "NANOLAN_ATTEMPT=2",
        "python3",
        str(box.state / "rescue.py"),
        "fail",
        "no driver",
    )
    assert done.wait(30) == 1 and box.receipt()["attempt"] == 2
