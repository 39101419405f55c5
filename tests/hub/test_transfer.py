"""Transfers in a child process: killed when it stalls, retried when it fails, and the token is never visible."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nanolan.errors import Unreachable
from nanolan.hub.transfer import Job, run_transfer
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import TOKEN, WRITERS, until

REPO, TARGET = "me/lanbot", "chatsft_checkpoints/d20"
PUT, COMMIT = r"PUT /__lfs__/", r"POST /api/models/me/lanbot/commit"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {"README.md": b"# a model"})
        yield hub


@pytest.fixture
def step(tmp_path: Path) -> Path:
    folder = tmp_path / "step-000005"
    folder.mkdir()
    (folder / "model_000005.pt").write_bytes(os.urandom(300_000))
    for name in ("meta_000005.json", "manifest.json"):
        (folder / name).write_text("{}")
    return folder


def upload(server: HubServer, folder: Path, **fields: object) -> Job:
    names = tuple(sorted(p.name for p in folder.iterdir()))
    return Job(
        "upload",
        server.url,
        REPO,
        "model",
        "main",
        str(folder),
        names,
        TARGET,
        "sft step 5",
        **fields,
    )  # type: ignore[arg-type]


def transfer(job: Job, *, give_up: object = lambda: "", **limits: float) -> list[str]:
    """Run it; what it said."""
    said: list[str] = []
    run_transfer(job, Secret(TOKEN), give_up=give_up, say=said.append, **limits)  # type: ignore[arg-type]
    return said


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "nanolan.hub.transfer" in p.cmdline()]


def test_older_steps_and_nothing_else_are_removed_by_the_same_commit_unless_kept(
    server: HubServer, step: Path
) -> None:
    old = [
        f"{TARGET}/{name}"
        for name in (
            "model_000004.pt",
            "meta_000004.json",
            "optim_000004.pt",
            "optim_000004_rank3.pt",
        )
    ]
    others = [
        f"{TARGET}/{name}" for name in ("README.md", "notes_model_1.txt", "tokenizer.pkl")
    ] + [f"{TARGET}0/model_000004.pt", "mid_checkpoints/d20/model_000004.pt", "model_000004.pt"]
    server.put(REPO, {path: path.encode() for path in [*old, *others]})
    transfer(upload(server, step, keep=True))
    assert set(server.files(REPO)) >= {*old, *others, f"{TARGET}/model_000005.pt"}
    server.log.clear()
    (step / "meta_000005.json").write_text("[]")
    transfer(upload(server, step))
    files = set(server.files(REPO))
    assert not files & set(old) and files >= {*others, f"{TARGET}/model_000005.pt"}
    assert sum("/commit/" in line["path"] for line in server.log) == 1


def test_a_stalled_upload_is_killed_and_tried_again(server: HubServer, step: Path) -> None:
    server.fault(PUT, "stall", seconds=60)
    started = time.monotonic()
    said = transfer(upload(server, step), stall_s=1.0)
    assert len(said) == 1 and "no progress for 1 s" in said[0]
    assert f"{TARGET}/model_000005.pt" in server.files(REPO) and time.monotonic() - started < 20
    assert not children(), "the stalled child is gone"


def test_a_slow_upload_is_not_taken_for_a_stalled_one(server: HubServer, step: Path) -> None:
    server.fault(r"GET /api/models/me/lanbot", "stall", seconds=2)
    server.fault(COMMIT, "stall", seconds=2)
    assert transfer(upload(server, step), stall_s=8) == []
    assert server.read(REPO, f"{TARGET}/model_000005.pt") == (step / "model_000005.pt").read_bytes()


@pytest.mark.parametrize("xet", [True, False])
def test_an_upload_tells_how_much_it_has_sent(
    tmp_path: Path, step: Path, xet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 20_000_000
    (step / "model_000005.pt").write_bytes(os.urandom(size))
    with HubServer(tmp_path / "hub", tokens=WRITERS, xet=xet) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        server.put(REPO, {"README.md": b"# a model"})
        server.fault(COMMIT, "stall", seconds=1.5)
        seen: list[int] = []
        run_transfer(
            upload(server, step),
            Secret(TOKEN),
            give_up=lambda: "",
            say=lambda text: None,
            on_sent=seen.append,
        )
        assert seen == sorted(seen) and 0 < seen[-1] <= size + 1000, seen
        assert f"{TARGET}/model_000005.pt" in server.files(REPO)


def test_the_error_of_an_upload_is_not_mixed_with_its_bars(server: HubServer, step: Path) -> None:
    server.fault(COMMIT, status=400, body={"error": "bad commit"})
    said: list[str] = []
    run_transfer(
        upload(server, step),
        Secret(TOKEN),
        give_up=lambda: "",
        say=said.append,
        on_sent=lambda sent: None,
    )
    assert len(said) == 1 and "bad commit" in said[0] and "%" not in said[0]


def test_an_upload_is_retried_until_it_succeeds(server: HubServer, step: Path) -> None:
    server.put(REPO, {f"{TARGET}/model_000004.pt": b"old"})
    server.fault(COMMIT, status=503)
    server.fault(COMMIT, "committed_reply_lost")
    said = transfer(upload(server, step))
    assert len(said) == 2 and all("trying again" in line for line in said)
    assert f"{TARGET}/model_000005.pt" in server.files(
        REPO
    ) and f"{TARGET}/model_000004.pt" not in server.files(REPO)


def test_the_token_is_in_no_argument_list_no_environment_and_no_message(
    server: HubServer, step: Path
) -> None:
    server.fault(PUT, "stall", seconds=0.8)
    server.fault(COMMIT, status=400, body={"error": f"bad commit by {TOKEN}"})
    said: list[str] = []
    seen: list[str] = []
    worker = threading.Thread(target=lambda: said.extend(transfer(upload(server, step))))
    worker.start()
    until(lambda: any(line["method"] == "PUT" for line in server.log))
    for p in psutil.Process().children(recursive=True):
        seen += [*p.cmdline(), *p.environ().values()]
    worker.join()
    assert any("nanolan.hub.transfer" in word for word in seen), "the child was looked at"
    assert said and "bad commit" in said[0]
    assert TOKEN not in " ".join(seen + said)


def test_give_up_ends_a_transfer_under_way(server: HubServer, step: Path) -> None:
    server.fault(PUT, "stall", seconds=60)
    end = time.monotonic() + 1.0
    with pytest.raises(
        Unreachable, match="upload of chatsft_checkpoints/d20 given up.*90 % of the limit"
    ):
        transfer(
            upload(server, step),
            give_up=lambda: "90 % of the limit" if time.monotonic() > end else "",
        )
    assert time.monotonic() < end + 5 and not children()
    assert f"{TARGET}/model_000005.pt" not in server.files(REPO)


def test_give_up_ends_the_wait_between_two_tries(server: HubServer, step: Path) -> None:
    server.fault(COMMIT, status=503, times=1000)
    asked: list[int] = []

    def after_two_tries() -> str:
        asked.append(sum("/commit/" in line["path"] for line in server.log))
        return "no money" if asked[-1] >= 2 else ""

    with pytest.raises(Unreachable, match=re.escape("given up (no money)")):
        transfer(upload(server, step), give_up=after_two_tries)
    assert asked[-1] == 2


def test_a_hub_that_keeps_refusing_is_retried_for_a_limited_time(
    server: HubServer, tmp_path: Path
) -> None:
    job = Job("download", server.url, REPO, "model", "main", str(tmp_path / "in"), ("nothing.pt",))
    with pytest.raises(
        Unreachable,
        match=r"download of me/lanbot given up.*failed for 0 minutes\): the Hub has no me/lanbot/nothing.pt",
    ):
        transfer(job, patience_s=0.5)


def test_files_are_downloaded_to_their_paths(server: HubServer, tmp_path: Path) -> None:
    server.put(
        "owner/data",
        {"data/train-0.parquet": b"rows", "other.txt": b"x"},
        typ="dataset",
        private=False,
    )
    revision = server.store.load("dataset", "owner/data").at("main").oid  # type: ignore[union-attr]
    server.put("owner/data", {"data/train-0.parquet": b"newer rows"}, typ="dataset", private=False)
    transfer(
        Job(
            "download",
            server.url,
            "owner/data",
            "dataset",
            revision,
            str(tmp_path / "in"),
            ("data/train-0.parquet",),
        )
    )
    assert (tmp_path / "in/data/train-0.parquet").read_bytes() == b"rows"
    assert not (tmp_path / "in/other.txt").exists()


def test_files_are_downloaded_at_the_same_time(server: HubServer, tmp_path: Path) -> None:
    names = tuple(f"data/train-{n:05d}.parquet" for n in range(24))
    server.put(REPO, {name: name.encode() * 1000 for name in names})
    server.fault(r"GET /(__cdn__|me/lanbot/resolve)", "stall", seconds=1.0, times=1000)
    folder, started = tmp_path / "in", time.monotonic()
    assert transfer(Job("download", server.url, REPO, "model", "main", str(folder), names)) == []
    assert time.monotonic() - started < 20, "one by one each would take a second"
    assert all((folder / name).read_bytes() == name.encode() * 1000 for name in names)


def test_a_file_that_the_hub_refuses_ends_the_try_with_its_reason(
    server: HubServer, tmp_path: Path
) -> None:
    names = tuple(f"part-{n}.bin" for n in range(40))
    server.put(REPO, {name: b"x" * 1000 for name in names})
    server.fault(r"/part-3\.bin", status=403, times=1000)
    server.log.clear()
    with pytest.raises(Unreachable, match=r"part-3\.bin"):
        transfer(
            Job("download", server.url, REPO, "model", "main", str(tmp_path / "in"), names),
            patience_s=0.1,
        )
    assert not (tmp_path / "in/part-3.bin").exists()


def test_a_download_survives_a_hub_in_trouble(server: HubServer, tmp_path: Path) -> None:
    data = os.urandom(400_000)
    server.put(REPO, {"model_000001.pt": data})
    server.fault(r"GET /(__cdn__|me/lanbot/resolve)", status=503)
    server.fault(r"GET /(__cdn__|me/lanbot/resolve)", "reset", after=100_000)
    transfer(
        Job(
            "download",
            server.url,
            REPO,
            "model",
            "main",
            str(tmp_path / "in"),
            ("model_000001.pt",),
        )
    )
    assert (tmp_path / "in/model_000001.pt").read_bytes() == data and not server.faults[-1].times
