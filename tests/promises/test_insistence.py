"""From the disk to the Hub: only damage, or the end of the money or the time, keeps a whole step from being proven there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.box.upload.checkpoint import save, upload
from nanolan.checkpoint.manifest import Manifest, save_whole, whole_steps
from nanolan.errors import BadAnswer, Unreachable
from nanolan.hub.client import Hub
from nanolan.hub.transfer import Job, commit_step, run_transfer
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan

RUNS, SFT = "me/lanbot-runs", "chatsft_checkpoints/d20"
ID = re.escape(REPO)
INFO, MANIFEST, PREUPLOAD = (
    rf"GET /api/models/{ID}$",
    rf"GET /{ID}/resolve/",
    rf"POST /api/models/{ID}/preupload",
)
BATCH, PUT, VERIFY, COMMIT = (
    rf"POST /{ID}\.git/info/lfs/objects/batch",
    "PUT /__lfs__/",
    "POST .*/objects/verify",
    rf"POST .*{ID}/commit",
)
STEPS = {
    "manifest": MANIFEST,
    "info": INFO,
    "preupload": PREUPLOAD,
    "batch": BATCH,
    "put": PUT,
    "verify": VERIFY,
    "commit": COMMIT,
}
QUOTA = "Private repository storage limit reached, please upgrade your plan"
LIMIT_S = 3600.0


class Sleeper:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        for repo in (REPO, RUNS):
            hub.put(repo, {"README.md": b"#"})
        yield hub


class Box(SimpleNamespace):
    """As much of a machine as uploads need."""


def box(server: HubServer, tmp_path: Path, runs_repo: str = REPO) -> Any:
    clock = Sleeper()
    server.clock = lambda: clock.now
    plan = make_plan(server.url, "http://127.0.0.1:1/v1", run_id="ab12cd34", runs_repo=runs_repo)
    told: dict[str, str] = {}
    heard: list[str] = []

    def trouble(what: str, error: str) -> None:
        told[what] = error
        heard.append(error)

    heartbeat = SimpleNamespace(
        note_trouble=trouble,
        trouble_of=lambda what: told.get(what, ""),
        set_phase=lambda *_: None,
        set_state=lambda *_: None,
        state="uploading",
        told=told,
        heard=heard,
    )
    meter = SimpleNamespace(
        give_up=lambda: "$10.00 of $10.00 used" if clock.now > LIMIT_S else "",
        must_give_up=lambda: None,
        note_upload=lambda s: None,
    )
    deps = SimpleNamespace(
        clock=lambda: clock.now,
        sleep=clock.sleep,
        kill=lambda run_id: 0,
        hub=partial(Hub, sleep=clock.sleep),
        transfer=partial(
            run_transfer, attempt=in_this_process, clock=lambda: clock.now, sleep=clock.sleep
        ),
    )
    return Box(
        plan=plan,
        token=Secret(TOKEN),
        deps=deps,
        meter=meter,
        heartbeat=heartbeat,
        states={},
        proofs=[],
        unsaved=[],
        work=tmp_path,
        clock=clock,
        saved=lambda phase: f"{plan.folder}/saved/{phase}",
        target=lambda phase: SFT,
    )


def in_this_process(job: Job, give_up: object, stall_s: float) -> str:
    """What the child process does, without the process."""
    try:
        commit_step(job, Hub(job.endpoint, Secret(job.token), patience_s=0))
    except Exception as e:
        return str(e)
    return ""


def step(tmp_path: Path, final: bool = True) -> tuple[Path, Manifest]:
    def write(folder: Path) -> None:
        (folder / "model_000005.pt").write_bytes(os.urandom(3000))
        (folder / "meta_000005.json").write_text("{}")

    save_whole(tmp_path / "out", 5, write, run_id="ab12cd34", phase="sft", final=final)
    return next(iter(whole_steps(tmp_path / "out")))


def rows() -> Iterator[Any]:
    """(step, answer): every step with the refusals that a Hub in trouble gives, a commit with every answer."""
    for name in STEPS:
        for status in (400, 401, 403, 404):
            yield pytest.param(name, dict(status=status), id=f"{name}-{status}")
    for status in (402, 409, 412, 413, 416, 429, 503):
        yield pytest.param("commit", dict(status=status), id=f"commit-{status}")
    for name in ("manifest", "info", "commit"):
        yield pytest.param(name, dict(action="redirect", status=307), id=f"{name}-redirect-loop")
    yield pytest.param(
        "info", dict(status=404, headers={"X-Error-Code": "RepoNotFound"}), id="info-not-visible"
    )
    yield pytest.param(
        "manifest",
        dict(status=404, headers={"X-Error-Code": "RepoNotFound"}),
        id="manifest-not-visible",
    )
    yield pytest.param("commit", dict(action="reset"), id="commit-reset")
    yield pytest.param("info", dict(status=200, body={"page": "just a moment"}), id="info-a-page")
    for status in (401, 403, 404, 503):  # the look at what the commit has left
        yield pytest.param("info", dict(status=status, skip=1), id=f"read-back-{status}")


@pytest.mark.parametrize("name, answer", list(rows()))
def test_whatever_a_hub_answers_for_25_s_a_whole_step_is_proven_after_it(
    server: HubServer, tmp_path: Path, name: str, answer: dict[str, Any]
) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    fault = server.fault(STEPS[name], times=10**6, lasts_s=25.0, **answer)
    proof = save(m, folder, manifest, SFT)
    assert proof.manifest == manifest and f"{SFT}/model_000005.pt" in server.files(REPO)
    assert fault.applied_at is not None and m.clock.now < 120 and m.heartbeat.told[SFT] == "", (
        "the trouble is over"
    )


@pytest.mark.parametrize("lasts_s", [5.0, 60.0, 1800.0])
def test_a_refusal_may_last(server: HubServer, tmp_path: Path, lasts_s: float) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    server.fault(COMMIT, status=403, times=10**6, lasts_s=lasts_s)
    save(m, folder, manifest, SFT)
    assert lasts_s <= m.clock.now < lasts_s + 60


@pytest.mark.parametrize("name", ["manifest", "batch", "commit"])
def test_a_refusal_for_ever_is_given_up_with_the_money_and_said_with_what_the_hub_said(
    server: HubServer, tmp_path: Path, name: str
) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    server.fault(STEPS[name], status=403, times=10**6, body={"error": QUOTA})
    with pytest.raises(Unreachable, match=r"\$10.00 of \$10.00 used"):
        upload(m, "sft", folder, manifest)
    assert LIMIT_S < m.clock.now < LIMIT_S + 60, "until the money ends, and no longer"
    assert len(m.unsaved) == 1 and m.unsaved[0].startswith("sft step 5 (") and QUOTA in m.unsaved[0]


def test_the_error_is_told_at_once_and_room_that_is_made_lets_it_go_on(
    server: HubServer, tmp_path: Path
) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    server.storage_full = True
    trouble = m.heartbeat.note_trouble

    def make_room(what: str, error: str) -> None:
        trouble(what, error)
        server.storage_full = m.clock.now < 300

    m.heartbeat.note_trouble = make_room
    upload(m, "sft", folder, manifest)
    assert (
        "storage limit reached" in m.heartbeat.heard[0]
        and "Delete files" in m.heartbeat.heard[0]
        and m.heartbeat.heard[-1] == ""
    )
    assert m.proofs and not m.unsaved


def test_damage_is_final(server: HubServer, tmp_path: Path) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    server.fault(
        COMMIT,
        status=200,
        body={"success": True, "commitOid": "f" * 40, "commitUrl": f"{server.url}/{REPO}/commit/x"},
    )
    trouble = m.heartbeat.note_trouble

    def damage(what: str, error: str) -> None:
        trouble(what, error)
        (folder / "model_000005.pt").write_bytes(b"other bytes")

    m.heartbeat.note_trouble = damage
    with pytest.raises(BadAnswer):
        save(m, folder, manifest, SFT)
    assert m.clock.now < 60


def test_states_go_to_runs_repo_and_results_to_hf_repo(server: HubServer, tmp_path: Path) -> None:
    m, (folder, manifest) = box(server, tmp_path, RUNS), step(tmp_path, final=False)
    upload(m, "sft", folder, manifest)
    place = "runs/ab12cd34/saved/sft"
    assert m.proofs[-1].repo == RUNS and f"{place}/model_000005.pt" in server.files(RUNS)
    assert set(server.files(REPO)) == {"README.md", ".gitattributes"}
    again, final = step(tmp_path / "final")
    upload(m, "sft", again, final)
    assert (
        m.proofs[-1].repo == REPO
        and f"{SFT}/model_000005.pt" in server.files(REPO)
        and not any(path.startswith(SFT) for path in server.files(RUNS))
    )


@pytest.mark.parametrize("final", [True, False], ids=["result", "state"])
def test_what_an_earlier_life_has_proven_is_not_sent_again(
    server: HubServer, tmp_path: Path, final: bool
) -> None:
    folder, manifest = step(tmp_path, final)
    upload(box(server, tmp_path, RUNS), "sft", folder, manifest)
    server.log.clear()
    reborn = box(server, tmp_path, RUNS)
    upload(reborn, "sft", folder, manifest)
    assert reborn.proofs and not [line for line in server.log if line["method"] in ("PUT", "POST")]


def test_a_repo_that_is_renamed_on_the_way_gets_what_was_trained(
    server: HubServer, tmp_path: Path
) -> None:
    m, (folder, manifest) = box(server, tmp_path), step(tmp_path)
    server.put("me/renamed", {"README.md": b"#"})
    server.moved[REPO] = "me/renamed"
    save(m, folder, manifest, SFT)
    assert f"{SFT}/model_000005.pt" in server.files("me/renamed")
