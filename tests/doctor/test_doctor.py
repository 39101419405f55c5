"""`just doctor`: every requirement with a fix per line, nothing changed, nothing rented, and an answer whatever is missing."""

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
from nanolan.doctor.doctor import Row, examine, exit_code, next_steps, render
from nanolan.errors import NanolanError
from nanolan.sim.hub.state import READER
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import creates, script, without
from tests.support.doctor_fixtures import (
    MID,
    doctor,
    one_world,  # noqa: F401  # a fixture
    patient,
    texts,
    world,  # noqa: F401  # a fixture
)

KEYS = ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")


# ---- what is well
def test_a_whole_world_is_well_and_nothing_in_it_changes(world: World) -> None:
    before = (sorted(world.hub.files(REPO)), len(world.hub.log))
    code, told = doctor(world.env())
    assert code == 0 and told["ok"] and told["next"] == [], told
    assert "0 instances bill now" in texts(told, "Shadeform key") and "full rights" in texts(
        told, "Shadeform key"
    )
    assert "may write everything" in texts(told, "Hub token", "note") and texts(
        told, "write access", "ok"
    )
    assert "3 for 8x B200, from $33.60/h" in texts(told, "offers", "ok")
    assert "proven" in texts(told, MID, "ok") and "unproven" in texts(
        told, "base_checkpoints/d20", "note"
    )
    assert "missing" in texts(told, "chatrl_checkpoints/d20", "note") and "just upload rl" in texts(
        told, "chatrl_checkpoints/d20"
    )
    assert "40 conversations" in texts(told, "identity data", "ok")
    assert texts(told, "safe to load").count("ok ") == 3 and "nothing else" in texts(
        told, "safe to load"
    )
    assert texts(told, "data set").count("ok ") == 4
    assert texts(told, "clock").count("ok agrees") == 2
    assert creates(world.cloud) == 0 and sorted(world.hub.files(REPO)) == before[0]
    assert {h["method"] for h in world.hub.log[before[1] :]} <= {"GET", "HEAD"}
    assert {r.method for r in world.cloud.requests} == {"GET"}
    assert not (world.root / "nanolan-home/owner").exists()


def test_a_model_is_looked_into_by_small_parts_only(world: World) -> None:
    seen = len(world.hub.log)
    doctor(world.env())
    assert not [
        h
        for h in world.hub.log[seen:]
        if h["path"].endswith(".pt") and h["method"] == "GET" and h["status"] == 200
    ]


def test_the_report_fits_80_columns_and_says_what_is_next(world: World) -> None:
    done = script("doctor", env=world.env())
    assert done.returncode == 0 and "A launch could start" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for group in ("This machine", "Settings", "Shadeform", "Hugging Face Hub", "Left behind"):
        assert f"\n{group}\n" in f"\n{done.stdout}"


# ---- what is missing, and in which order to get it
def test_a_newcomer_is_told_what_to_do_first_in_order(world: World, tmp_path: Path) -> None:
    env = without(world.env(), *KEYS) | {
        "HOME": str(tmp_path),
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
    }
    code, told = doctor(env)
    assert code == 4
    starts = [
        "cp .env.example .env",
        "SHADEFORM_API_KEY=... in .env",
        "just hf auth login",
        "HF_REPO=owner/name",
    ]
    assert [step[: len(start)] for step, start in zip(told["next"], starts, strict=True)] == starts
    assert "not looked at without HF_TOKEN and HF_REPO" in texts(told, "structure", "note")


def test_without_a_network_it_ends_soon_and_says_so_once(tmp_path: Path) -> None:
    p = patient(
        tmp_path,
        SHADEFORM_API="http://127.0.0.1:9/v1",
        SHADEFORM_API_KEY=f"a-key-{MARKER}",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_TOKEN=f"hf_{MARKER}",
        HF_REPO=REPO,
    )
    started = time.monotonic()
    found = examine(p, limit_s=12)
    assert time.monotonic() - started < 14 and exit_code(found) == 4
    assert "see that the network is up, then: just doctor" in next_steps(found)
    named = [c for _, c in found if c.name in ("structure", "safe to load", "identity data")]
    assert {c.text for c in named} == {"not looked at: see above"}


def test_a_look_that_hangs_or_breaks_does_not_keep_the_others_from_being_told(
    tmp_path: Path,
) -> None:
    def breaks(p: DoctorContext) -> list[Check]:
        raise RuntimeError(f"odd a-key-{MARKER}")

    def says_no(p: DoctorContext) -> list[Check]:
        raise NanolanError("no")

    rows = [
        Row("g", "hangs", lambda p: time.sleep(5) or []),
        Row("g", "breaks", breaks),
        Row("g", "says no", says_no),
        Row("g", "fine", lambda p: [Check("fine", True, "yes")]),
    ]
    started = time.monotonic()
    found = examine(patient(tmp_path, SHADEFORM_API_KEY=f"a-key-{MARKER}"), rows, limit_s=0.3)
    assert time.monotonic() - started < 2
    assert [(c.name, c.ok) for _, c in found] == [
        ("hangs", False),
        ("breaks", False),
        ("says no", False),
        ("fine", True),
    ]
    assert "a-key" not in "".join(render(found)) and "odd ***" in found[1][1].text


def test_services_that_take_the_call_and_never_answer_do_not_hold_it_up(tmp_path: Path) -> None:
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
            "print(exit_code(examine(open_context(load_settings({}, env), (), env, here, here, here, here, 5), limit_s=1)))"
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
        ({"HF_TOKEN": READER}, "Hub token", "may only read"),
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
def test_what_would_keep_a_launch_from_working_fails_with_its_fix(
    world: World, change: dict[str, str], name: str, says: str
) -> None:
    code, told = doctor(world.env() | change)
    failed = texts(told, name, "FAILED").replace("\n", " ")
    assert code == 4 and failed
    assert re.search(says, failed)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"TRAINING_PHASE": "mid"},
        {"TRAINING_PHASE": "rl"},
        {"SPEND_LIMIT": "3"},
        {"MAX_DURATION": "20m"},
        {"HF_TOKEN": READER},
        {"HF_REPO": "me/nothing-there"},
        {"SHADEFORM_API_KEY": f"wrong-key-{MARKER}{TWIST}"},
        {"MODEL_TAG": "d32"},
    ],
    ids=str,
)
def test_it_is_well_exactly_when_a_dry_run_is(world: World, change: dict[str, str]) -> None:
    env = world.env() | change
    assert doctor(env)[0] == script("launch", "--dry-run", env=env).returncode


@pytest.mark.parametrize(
    "phase, path, data",
    [
        (
            "mid",
            "identity_conversations.jsonl",
            b'[[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]',
        ),
        ("sft", "identity_conversations.jsonl", b"<?xml version='1.0'?>"),
        ("rl", "tokenizer/tokenizer.pkl", b"version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_what_doctor_knows_a_dry_run_refuses(
    world: World, phase: str, path: str, data: bytes
) -> None:
    good = world.hub.read(REPO, path)
    env = world.env() | {"TRAINING_PHASE": phase}
    try:
        world.hub.put(REPO, {path: data})
        code, told = doctor(env)
        dry = script("launch", "--dry-run", env=env)
    finally:
        world.hub.put(REPO, {path: good})
    assert (code, dry.returncode) == (4, 4)
    said = next(c["text"] for c in told["checks"] if path in c["text"] and c["state"] == "FAILED")
    assert said.partition(f"{path}")[2] and said.partition(path)[2][:40] in dry.stderr


def test_a_wrong_flag_is_a_usage_error(world: World) -> None:
    assert script("doctor", "phase=stf", env=world.env()).returncode == 2


def crash(p: DoctorContext) -> list[Check]:
    raise OSError("could not look")


def test_a_look_that_crashed_is_never_taken_for_well(tmp_path: Path) -> None:
    found = examine(patient(tmp_path), [Row("This machine", "odd", crash)])
    assert (
        exit_code(found) == 4
        and "could not be looked at (OSError: could not look)" in found[0][1].text
    )
