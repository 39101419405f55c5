"""The rescue program, on a bare machine: fetch, give up, and the dead man's timer."""

from __future__ import annotations

import ast
import hashlib
import json
import sys

import pytest
from msgspec.structs import replace

from nanolan.run.postmortem import read_postmortem
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import REPO, TOKEN, Box
from tests.support.rescue_fixtures import (
    LIST,
    box,  # noqa: F401  # a fixture
    module,  # noqa: F401  # an autouse fixture
    rescue,
)

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)


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


def url_of(box: Box, path: str = "tokenizer/tokenizer.pkl") -> str:
    return f"{box.hub.url}/{REPO}/resolve/main/{path}"


# ---- fetch
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
    assert box.deleted and calls(box, "/delete") >= 3 and other.status == "active"
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
