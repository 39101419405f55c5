"""The rescue program, on a bare machine: fetch, give up, and the dead man's timer."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.run.postmortem import read_postmortem
from nanolan.run.record import leak_warning
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import KEY, REPO, TOKEN, Box, no_box_left, until
from tests.support.core_fixtures import forms_of

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)
module = pytest.fixture(autouse=True, scope="module")(no_box_left)
LIST = "GET /v1/instances$"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        made.unpack()
        made.log_file.write_text(f"boot: started\nwith {TOKEN} and {KEY}\n")
        yield made


def rescue(box: Box, *words: str) -> int:
    """Run it as boot.sh does; its exit code."""
    return box.program("/usr/bin/env", "python3", str(box.state / "rescue.py"), *words).wait(30)


def calls(box: Box, part: str) -> int:
    return sum(part in f"{r.method} {r.path}" for r in box.cloud.requests)


def test_it_needs_nothing_but_the_standard_library() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse((ROOT / "cloud/rescue.py").read_text()))
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - {"__future__"} <= set(sys.stdlib_module_names)


# ---- fetch


def url_of(box: Box, path: str = "tokenizer/tokenizer.pkl") -> str:
    return f"{box.hub.url}/{REPO}/resolve/main/{path}"


def test_it_fetches_the_code_through_trouble_and_shows_the_token_to_the_hub_only(box: Box) -> None:
    box.hub.fault(r"GET /me/.*resolve", status=503)
    box.hub.fault(r"GET /__cdn__", "truncate", after=4)  # fewer bytes than promised
    assert (
        rescue(
            box,
            "fetch",
            url_of(box),
            hashlib.sha256(b"a tokenizer").hexdigest(),
            str(box.root / "code"),
        )
        == 0
    )
    assert (box.root / "code").read_bytes() == b"a tokenizer"
    assert {line["auth"] for line in box.hub.log if "/resolve/" in line["path"]} == {True}
    assert {line["auth"] for line in box.hub.log if "/__cdn__/" in line["path"]} == {False}, (
        "another host after the redirect"
    )


@pytest.mark.parametrize(
    "path, sha256, why",
    [
        ("tokenizer/tokenizer.pkl", "0" * 64, "not the one that the launcher uploaded"),
        ("nothing", "0" * 64, "404"),
    ],
)
def test_a_definite_no_ends_the_fetch_and_leaves_no_file(
    box: Box, path: str, sha256: str, why: str
) -> None:
    assert rescue(box, "fetch", url_of(box, path), sha256, str(box.root / "code")) == 1
    assert (
        why in box.log()
        and not (box.root / "code").exists()
        and TOKEN not in box.log().split("\n", 2)[2]
    )


# ---- fail


@pytest.mark.shows(
    "argv", "*", "a reason with a secret in it is the input here; the box program masks its own"
)
def test_giving_up_uploads_the_masked_log_and_a_receipt_and_deletes_the_machine(box: Box) -> None:
    other = box.cloud.add_foreign("lanbot-sft-20260101-0000-00000000", 100)
    box.cloud.fault("POST /v1/instances/.*/delete", "internal_error")
    box.cloud.switch("delete_ignored", 1)  # answers 200, and the machine stays
    box.hub.fault(r"POST .*/commit/", status=503)
    assert rescue(box, "fail", f"it broke near {TOKEN}") == 0
    assert box.deleted and calls(box, "/delete") == 3 and other.status == "active"
    log = box.uploaded_log("error")
    assert log.startswith("boot: started\nwith *** and ***\n")
    receipt = box.receipt()
    assert (receipt["verdict"], receipt["reason"], receipt["run_id"]) == (
        "failed",
        "boot_failed",
        box.plan.run_id,
    )
    assert receipt["attempt"] == 1
    assert (
        receipt["message"] == "the machine gave up: it broke near ***"
        and receipt["log"] in box.files()
    )


@pytest.mark.shows("file", "*/usr/bin/dmesg", "a kernel that tells a secret is the input here")
def test_giving_up_leaves_a_postmortem_that_the_laptop_can_read(box: Box) -> None:
    box.log_file.write_text("".join(f"line {i}\n" for i in range(600)))
    dmesg = box.root / "usr/bin/dmesg"
    dmesg.write_text(f"#!/bin/sh\necho a kernel with {TOKEN}\n")
    dmesg.chmod(0o755)
    assert rescue(box, "fail", "install the 'light' set") == 0
    left = read_postmortem(box.hub.read(REPO, f"{box.plan.folder}/postmortem.json"))
    assert (left.run_id, left.attempt, left.reason, left.cause) == (
        box.plan.run_id,
        1,
        "boot_failed",
        "",
    )
    assert (
        left.seen["kernel"] == ["a kernel with ***"]
        and left.seen["gpus"]
        and "FileNotFoundError" in left.not_seen["disk"]
    )
    assert left.log[:1] == ("line 100",) and left.plan["run_id"] == box.plan.run_id


def test_a_machine_that_tells_nothing_of_itself_is_deleted_all_the_same(box: Box) -> None:
    smi = box.root / "usr/bin/nvidia-smi"
    smi.write_text("#!/bin/sh\nexec sleep 600\n")
    (box.state / "rescue.py").write_text(
        (box.state / "rescue.py").read_text().replace("PROBE_S, LINES = 8", "PROBE_S, LINES = 0.5")
    )
    assert rescue(box, "fail", "words") == 0 and box.deleted
    assert (
        "TimeoutExpired"
        in read_postmortem(box.hub.read(REPO, f"{box.plan.folder}/postmortem.json")).not_seen[
            "gpus"
        ]
    )


def test_a_long_log_keeps_both_ends_and_never_half_a_secret(box: Box) -> None:
    box.log_file.write_text(
        "boot: first line\n" + f"{TOKEN} flood\n" * 250_000 + "the last words\n"
    )
    assert rescue(box, "fail", "words") == 0
    log = box.uploaded_log("error").splitlines()
    assert log[0] == "boot: first line" and "the last words" in log
    assert {line for line in log if "flood" in line} == {"*** flood"} and any(
        "left out here" in line for line in log
    )


def test_a_verdict_that_the_box_program_reached_stands(box: Box) -> None:
    verdict = {
        "run_id": box.plan.run_id,
        "verdict": "stopped",
        "reason": "spend_limit",
        "log": f"logs/error-{box.plan.instance_name}.log",
    }
    (box.state / "verdict.json").write_text(json.dumps(verdict))
    assert rescue(box, "fail", "the box program failed") == 0
    assert box.receipt() == verdict and box.deleted


def test_no_log_and_no_hub_keep_the_machine_from_nothing(box: Box) -> None:
    box.log_file.unlink()
    box.hub.fault(r"POST .*/commit/", status=403, times=1000)
    assert rescue(box, "fail", "words") == 0
    assert box.deleted and f"runs/{box.plan.run_id}/receipt.json" not in box.files()


def test_a_later_attempts_machine_deletes_itself_and_no_other_of_its_run(box: Box) -> None:
    earlier = replace(box.plan, attempt=1, created_at=box.plan.created_at)
    box.plan = replace(box.plan, attempt=2)
    (box.state / "plan.json").write_bytes(box.plan.to_json())
    first = box.id
    box.cloud.switch("list_lag", 1.0)  # its own machine is listed late, the earlier one at once
    box._rent()
    assert rescue(box, "fail", "words") == 0
    assert (
        box.deleted
        and box.cloud.instance(first).why == ""
        and earlier.instance_name == box.cloud.instance(first).name
    )
    assert (
        box.receipt()["attempt"] == 2 and f"logs/error-{box.plan.instance_name}.log" in box.files()
    )


def test_a_renamed_machine_knows_itself_by_its_tags(box: Box) -> None:
    box.instance.spec["name"] = "renamed"
    assert rescue(box, "fail", "words") == 0 and box.deleted


@pytest.mark.parametrize(
    "fault",
    [
        dict(action="html"),
        dict(action="status", status=200, body=[]),
        dict(action="status", status=200, body={"instances": []}),
        dict(action="status", status=200, body={"instances": [{"name": None}]}),
        dict(action="cut"),
        dict(action="unauthorized"),
    ],
    ids=str,
)
def test_no_answer_of_the_api_keeps_it_from_deleting(box: Box, fault: dict[str, object]) -> None:
    box.cloud.fault(LIST, **fault)  # type: ignore[arg-type]
    assert rescue(box, "fail", "words") == 0
    assert box.deleted and box.receipt()


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


# ---- secrets


def program() -> Any:
    spec = importlib.util.spec_from_file_location("rescue", ROOT / "cloud/rescue.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


RESCUE = program()


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
