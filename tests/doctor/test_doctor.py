"""`just doctor`: a fix per failed requirement; it changes nothing, rents nothing, and always answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanolan.checklist import Check
from nanolan.doctor.context import DoctorContext
from nanolan.doctor.doctor import Row, exit_code, next_steps, render, run_checks
from nanolan.errors import NanolanError
from nanolan.sim.hub.state import READER
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import creates, script, without
from tests.support.doctor_fixtures import (
    MID,
    doctor,
    doctor_context,
    texts,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

KEYS = ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")


# ---- everything passes
def test_a_complete_setup_passes_and_nothing_in_it_changes(world: World) -> None:
    before = (sorted(world.hub.files(REPO)), len(world.hub.log))
    code, report = doctor(world.env())
    assert code == 0 and report["ok"] and report["next"] == [], report
    assert "0 instances are billing" in texts(report, "Shadeform key") and "full rights" in texts(
        report, "Shadeform key"
    )
    assert "can write to all your repos" in texts(report, "Hub token", "note") and texts(
        report, "write access", "ok"
    )
    assert "3 for 8x B200, from $33.60/h" in texts(report, "offers", "ok")
    assert "proven" in texts(report, MID, "ok") and "unproven" in texts(
        report, "base_checkpoints/d20", "note"
    )
    assert "missing" in texts(
        report, "chatrl_checkpoints/d20", "note"
    ) and "just upload rl" in texts(report, "chatrl_checkpoints/d20")
    assert "40 conversations" in texts(report, "identity data", "ok")
    assert texts(report, "safe to load").count("ok ") == 3 and "nothing else" in texts(
        report, "safe to load"
    )
    assert texts(report, "data set").count("ok ") == 4
    assert texts(report, "clock").count("ok agrees") == 2
    assert creates(world.cloud) == 0 and sorted(world.hub.files(REPO)) == before[0]
    assert {h["method"] for h in world.hub.log[before[1] :]} <= {"GET", "HEAD"}
    assert {r.method for r in world.cloud.requests} == {"GET"}
    assert not (world.root / "nanolan-home/owner").exists()


def test_a_model_is_inspected_by_range_requests_only(world: World) -> None:
    seen = len(world.hub.log)
    doctor(world.env())
    assert not [
        h
        for h in world.hub.log[seen:]
        if h["path"].endswith(".pt") and h["method"] == "GET" and h["status"] == 200
    ]


def test_the_report_fits_80_columns_and_names_the_next_step(world: World) -> None:
    done = script("doctor", env=world.env())
    assert done.returncode == 0 and "A launch can start" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for group in ("This machine", "Settings", "Shadeform", "Hugging Face Hub", "Left behind"):
        assert f"\n{group}\n" in f"\n{done.stdout}"


# ---- failures, and the order of their fixes
def test_without_settings_the_first_steps_are_listed_in_order(world: World, tmp_path: Path) -> None:
    env = without(world.env(), *KEYS) | {
        "HOME": str(tmp_path),
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
    }
    code, report = doctor(env)
    assert code == 4
    starts = [
        "just init",
        "SHADEFORM_API_KEY=... in .env",
        "just hf auth login",
        "HF_REPO=owner/name",
    ]
    assert [
        step[: len(start)] for step, start in zip(report["next"], starts, strict=True)
    ] == starts
    assert "not checked without HF_TOKEN and HF_REPO" in texts(report, "structure", "note")


def test_without_a_network_it_ends_soon_and_reports_it_once(tmp_path: Path) -> None:
    context = doctor_context(
        tmp_path,
        SHADEFORM_API="http://127.0.0.1:9/v1",
        SHADEFORM_API_KEY=f"a-key-{MARKER}",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_TOKEN=f"hf_{MARKER}",
        HF_REPO=REPO,
    )
    started = time.monotonic()
    found = run_checks(context, limit_s=12)
    assert time.monotonic() - started < 14 and exit_code(found) == 4
    assert "check the network, then: just doctor" in next_steps(found)
    named = [c for _, c in found if c.name in ("structure", "safe to load", "identity data")]
    assert {c.text for c in named} == {"not checked: see above"}


def test_a_check_that_hangs_or_raises_does_not_hide_the_others(
    tmp_path: Path,
) -> None:
    def breaks(context: DoctorContext) -> list[Check]:
        raise RuntimeError(f"odd a-key-{MARKER}")

    def refuses(context: DoctorContext) -> list[Check]:
        raise NanolanError("no")

    rows = [
        Row("g", "hangs", lambda context: time.sleep(5) or []),
        Row("g", "breaks", breaks),
        Row("g", "refuses", refuses),
        Row("g", "fine", lambda context: [Check("fine", True, "yes")]),
    ]
    started = time.monotonic()
    found = run_checks(
        doctor_context(tmp_path, SHADEFORM_API_KEY=f"a-key-{MARKER}"), rows, limit_s=0.3
    )
    assert time.monotonic() - started < 2
    assert [(c.name, c.ok) for _, c in found] == [
        ("hangs", False),
        ("breaks", False),
        ("refuses", False),
        ("fine", True),
    ]
    assert "a-key" not in "".join(render(found)) and "odd ***" in found[1][1].text


def test_services_that_accept_and_never_answer_do_not_delay_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {
            "SHADEFORM_API": url,
            "SHADEFORM_API_KEY": f"a-key-{MARKER}",
            "HF_ENDPOINT": url,
            "HF_TOKEN": f"hf_{MARKER}",
            "HF_REPO": REPO,
        }
        code = (
            "import sys, json; from pathlib import Path; from nanolan.settings.load import load_settings; from nanolan.doctor.doctor import *; "
            "from nanolan.doctor.context import open_context; env = json.load(sys.stdin); here = Path(sys.argv[1]); "
            "print(exit_code(run_checks(open_context(load_settings({}, env), (), env, here, here, here, here, 5), limit_s=1)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            input=json.dumps(env),
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize(
    "change, name, says",
    [
        (
            {"SHADEFORM_API_KEY": f"wrong-key-{MARKER}{TWIST}"},
            "Shadeform key",
            "HTTP 401.*make a new key",
        ),
        ({"HF_TOKEN": f"hf_nobodys_{MARKER}"}, "Hub token", "HTTP 401.*fine-grained"),
        ({"HF_TOKEN": READER}, "Hub token", "can only read"),
        ({"HF_TOKEN": READER}, "write access", "HTTP 403"),
        ({"HF_REPO": "me/nothing-there"}, "write access", "just upload base"),
        ({"HF_REPO": "me/nothing-there"}, "HF_REPO", "just upload base"),
        ({"SPEND_LIMIT": "lots"}, "settings", "SPEND_LIMIT.*correct SPEND_LIMIT"),
        (
            {"TRAINING_PHASE": "rl"},
            "chatsft_checkpoints/d20",
            "phase=rl cannot start without it.*just launch phase=sft",
        ),
    ],
    ids=str,
)
def test_what_would_block_a_launch_fails_with_its_fix(
    world: World, change: dict[str, str], name: str, says: str
) -> None:
    code, report = doctor(world.env() | change)
    failed = texts(report, name, "FAILED").replace("\n", " ")
    assert code == 4 and failed
    assert re.search(says, failed)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"MAX_DURATION": "20m"},
        *(
            pytest.param(change, marks=pytest.mark.slow)
            for change in (
                {"TRAINING_PHASE": "mid"},
                {"TRAINING_PHASE": "rl"},
                {"SPEND_LIMIT": "3"},
                {"HF_TOKEN": READER},
                {"HF_REPO": "me/nothing-there"},
                {"SHADEFORM_API_KEY": f"wrong-key-{MARKER}{TWIST}"},
                {"MODEL_TAG": "d32"},
            )
        ),
    ],
    ids=str,
)
def test_doctor_passes_exactly_when_a_dry_run_does(world: World, change: dict[str, str]) -> None:
    env = world.env() | change
    assert doctor(env)[0] == script("launch", "--dry-run", env=env).returncode


@pytest.mark.slow  # two commands each
@pytest.mark.parametrize(
    "phase, path, data",
    [
        (
            "mid",
            "identity_conversations.jsonl",
            b'[{"role": "user", "content": "q"}]',
        ),
        ("sft", "identity_conversations.jsonl", b"<?xml version='1.0'?>"),
        ("rl", "tokenizer/tokenizer.pkl", b"version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_a_dry_run_rejects_the_files_that_doctor_rejects(
    world: World, phase: str, path: str, data: bytes
) -> None:
    good = world.hub.read(REPO, path)
    env = world.env() | {"TRAINING_PHASE": phase}
    try:
        world.hub.put(REPO, {path: data})
        code, report = doctor(env)
        dry = script("launch", "--dry-run", env=env)
    finally:
        world.hub.put(REPO, {path: good})
    assert (code, dry.returncode) == (4, 4)
    message = next(
        c["text"] for c in report["checks"] if path in c["text"] and c["state"] == "FAILED"
    )
    assert message.partition(f"{path}")[2] and message.partition(path)[2][:40] in dry.stderr


def test_a_wrong_flag_is_a_usage_error(world: World) -> None:
    assert script("doctor", "phase=stf", env=world.env()).returncode == 2


def crash(context: DoctorContext) -> list[Check]:
    raise OSError("could not look")


def test_a_check_that_crashed_counts_as_failed(tmp_path: Path) -> None:
    found = run_checks(doctor_context(tmp_path), [Row("This machine", "odd", crash)])
    assert (
        exit_code(found) == 4
        and "could not be checked (OSError: could not look)" in found[0][1].text
    )
