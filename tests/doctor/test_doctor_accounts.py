"""The checks of .env, the token, the repository, the clock and earlier runs."""

from __future__ import annotations

import os
import pickle
import subprocess
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from msgspec.structs import replace

from nanolan.doctor.accounts import check_token_scope
from nanolan.doctor.doctor import ROWS, STATES, run_checks
from nanolan.doctor.env_file import check_env
from nanolan.run.ledger import Entry, Ledger
from nanolan.sim.world import REPO, World
from nanolan.times import now_utc
from tests.support.core_fixtures import PLAN
from tests.support.doctor_fixtures import (
    MID,
    doctor,
    doctor_context,
    texts,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


# ---- .env
@pytest.mark.parametrize(
    "content, mode, state, says",
    [
        ("HF_REPO=me/x\n", 0o644, "note", "chmod 600"),
        ("HF_REPO=me/x\n", 0o600, "ok", "readable by you only"),
        (
            "SPENDLIMIT=9\n",
            0o600,
            "FAILED",
            "line 1: SPENDLIMIT is not a setting; the setting is called SPEND_LIMIT",
        ),
        ("WHATEVER=1\n", 0o600, "note", "export WHATEVER"),
        ("HF_REPO=YOU/lanbot-checkpoints\n", 0o600, "FAILED", "HF_REPO still holds a placeholder"),
        ("HF_REPO=owner/name\n", 0o600, "FAILED", "placeholder"),
        ("HF_REPO=me/example-of-your\n", 0o600, "ok", "by you only"),
        ("HF_TOKEN=hf_xxxxxxxx\n", 0o600, "FAILED", "placeholder"),
        ("HF_TOKEN=<your token>\n", 0o600, "FAILED", "placeholder"),
        ("RUN_NAME=\nGPU=\n", 0o600, "note", "without a value: RUN_NAME, GPU"),
        ("GPU\n", 0o600, "FAILED", "line 1: no assignment"),
        (
            "A=1\nSPEND_LIMIT: 40\n",
            0o600,
            "FAILED",
            "line 2: no assignment: write SPEND_LIMIT=value",
        ),
    ],
    ids=str,
)
def test_every_line_of_the_env_file_is_checked(
    tmp_path: Path, content: str, mode: int, state: str, says: str
) -> None:
    path = tmp_path / ".env"
    path.write_text(content)
    path.chmod(mode)
    found = check_env(doctor_context(tmp_path))
    assert says in "\n".join(f"{c.text} -> {c.fix}" for c in found if STATES[c.ok] == state)


def test_an_env_file_that_git_tracks_fails(world: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RUN_NAME=x\n")
    for words in (("init", "-q"), ("add", ".env")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    code, report = doctor(world.env() | {"NANOLAN_ENV_FILE": str(tmp_path / ".env")})
    assert code == 4 and "git rm --cached .env" in texts(report, ".env", "FAILED")


# ---- the token's permissions
@pytest.mark.parametrize(
    "token, ok, says",
    [
        ({"role": "write"}, None, "all your repos"),
        ({"role": "read"}, False, "only read"),
        (
            {
                "role": "fineGrained",
                "fineGrained": {
                    "scoped": [
                        {"entity": {"type": "model", "name": REPO}, "permissions": ["repo.write"]}
                    ]
                },
            },
            True,
            REPO,
        ),
        (
            {
                "role": "fineGrained",
                "fineGrained": {
                    "scoped": [
                        {
                            "entity": {"type": "user", "name": "me"},
                            "permissions": ["repo.content.read", "repo.write"],
                        }
                    ]
                },
            },
            True,
            "me",
        ),
        (
            {
                "role": "fineGrained",
                "fineGrained": {
                    "scoped": [
                        {
                            "entity": {"type": "model", "name": "me/other"},
                            "permissions": ["repo.write"],
                        }
                    ]
                },
            },
            False,
            f"not {REPO}",
        ),
        (
            {
                "role": "fineGrained",
                "fineGrained": {
                    "scoped": [
                        {
                            "entity": {"type": "model", "name": REPO},
                            "permissions": ["repo.content.read"],
                        }
                    ]
                },
            },
            False,
            "nothing",
        ),
        ({"role": "fineGrained", "fineGrained": None}, False, "nothing"),
        ({}, None, "does not report"),
        (None, None, "does not report"),
        ({"role": "fineGrained", "fineGrained": {"scoped": [7]}}, None, "does not report"),
    ],
    ids=str,
)
def test_the_permissions_of_a_token_are_reported(token: Any, ok: bool | None, says: str) -> None:
    check = check_token_scope({"name": "me", "auth": {"accessToken": token}}, REPO)
    assert check.ok is ok and says in check.text


# ---- the repo
def test_a_pickle_that_would_run_code_fails_and_runs_nothing(world: World) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("touch /tmp/evil-doctor",)

    good = world.hub.read(REPO, "tokenizer/tokenizer.pkl")
    try:
        world.hub.put(REPO, {"tokenizer/tokenizer.pkl": pickle.dumps(Evil())})
        code, report = doctor(world.env())
        assert code == 4 and "it asks for posix.system" in texts(report, "tokenizer", "FAILED")
        assert not Path("/tmp/evil-doctor").exists()
    finally:
        world.hub.put(REPO, {"tokenizer/tokenizer.pkl": good})


def test_a_truncated_model_is_detected_by_its_index(world: World) -> None:
    path = next(p for p in world.hub.files(REPO) if p.startswith(f"{MID}/model_"))
    good = world.hub.read(REPO, path)
    try:
        world.hub.put(REPO, {path: good[:-100]})
        code, report = doctor(world.env())
        assert code == 4 and "NOT WHOLE" in texts(report, MID, "FAILED")
    finally:
        world.hub.put(REPO, {path: good})


class LateClock(BaseHTTPRequestHandler):
    late_s = 0.0

    def do_GET(self) -> None:
        self.send_response_only(401)
        self.send_header(
            "Date", format_datetime(now_utc() - timedelta(seconds=self.late_s), usegmt=True)
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


# ---- the clock
@pytest.mark.parametrize("late_s, ok", [(0, True), (120, None), (3600, False), (-3600, False)])
def test_a_wrong_clock_is_reported_with_its_fix(
    tmp_path: Path, late_s: float, ok: bool | None
) -> None:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), type("H", (LateClock,), {"late_s": late_s})
    ) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        found = run_checks(
            doctor_context(tmp_path, SHADEFORM_API=url, HF_ENDPOINT=url),
            [r for r in ROWS if r.name == "clock"],
        )
        server.shutdown()
        thread.join()
    assert [c.ok for _, c in found] == [ok, ok] and bool(found[0][1].fix) is not (ok is True)


# ---- what earlier runs left
def test_leftovers_are_listed_with_their_fix_and_not_removed(world: World, tmp_path: Path) -> None:
    home, keys = world.root / "nanolan-home", world.root / "ssh-keys"
    Ledger(home).put(Entry(replace(PLAN, run_id="feedbeef"), "gone-instance"))
    (home / "runs/broken.json").write_text("{")
    keys.mkdir()
    (keys / "lanbot-old.pem").write_text("key")
    (keys / "lanbot-old.pem").chmod(0o644)
    world.cloud.account.create(
        {
            "cloud": "hyperstack",
            "region": "canada-1",
            "shade_instance_type": "8x_b200_pcie_192gb",
            "name": "somebody-elses",
            "shade_cloud": True,
            "os": "ubuntu24.04_cuda13.0_shade_os",
        }
    )
    try:
        code, report = doctor(world.env())
    finally:
        (keys / "lanbot-old.pem").unlink()
        keys.rmdir()
    assert "broken.json cannot be read" in texts(report, "ledger") and "mv " in texts(
        report, "ledger"
    )
    assert "just status feedbeef" in texts(report, "runs", "note")
    assert "chmod 600" in texts(report, "SSH keys", "note") and "1 of deleted instances" in texts(
        report, "SSH keys", "note"
    )
    assert "somebody-elses, $33.60/h: another tool's or person's" in texts(
        report, "instances", "note"
    )
    assert (home / "runs/broken.json").read_text() == "{" and len(world.cloud.instances) == 1


def test_old_rehearsals_are_listed_with_their_size(tmp_path: Path) -> None:
    old, new = (
        tmp_path / ".rehearsal/run-20260101-000000",
        tmp_path / ".rehearsal/run-20260102-000000",
    )
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 5_000_000)
    os.utime(old, (1, 1))
    found = [
        c
        for _, c in run_checks(
            doctor_context(tmp_path), [r for r in ROWS if r.name == "rehearsals"]
        )
    ]
    assert [(c.text, c.fix) for c in found] == [
        ("run-20260101-000000, 5 MB", f"rm -r {tmp_path}/.rehearsal/run-20260101-000000")
    ]


def test_a_folder_without_git_repository_fails_with_its_fix(tmp_path: Path) -> None:
    found = [
        c for _, c in run_checks(doctor_context(tmp_path), [r for r in ROWS if r.name == "code"])
    ]
    assert found[0].ok is False and "clone nanolan with git" in found[0].fix
