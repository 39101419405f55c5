"""The local Hub as a whole: uploads and downloads with the real client and `hf`, restarts, and use without a client."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.hub.repo import Refusal
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import READER, WRITER
from tests.sim.hubclient import BIG, REPO, client, folder_of, hf


@pytest.fixture(params=[False, True], ids=["plain", "xet"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def test_a_folder_is_uploaded_and_downloaded_unchanged(either: HubServer, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    script = """
api.create_repo("me/model", private=True)
api.upload_folder(repo_id="me/model", folder_path="out")
say(api.snapshot_download("me/model"))
"""
    got = Path(client(either, tmp_path, script))
    for path in ("README.md", "d20/meta_000001.json", "d20/model_000001.pt"):
        assert (got / path).read_bytes() == (folder / path).read_bytes() == either.read(REPO, path)


def test_the_hf_command_creates_uploads_lists_and_downloads(
    either: HubServer, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    for command in (
        ["auth", "whoami"],
        ["repos", "create", REPO, "--private"],
        ["upload", REPO, "out", "."],
        ["download", REPO, "--local-dir", "got"],
    ):
        done = hf(either, tmp_path, *command)
        assert done.returncode == 0, (command, done.stderr)
    listed = hf(either, tmp_path, "models", "ls", REPO, "-R", "--format", "json")
    assert listed.returncode == 0
    assert "d20/model_000001.pt" in listed.stdout
    assert (tmp_path / "got" / "d20" / "model_000001.pt").read_bytes() == (
        folder / "d20/model_000001.pt"
    ).read_bytes()


def test_the_hf_command_reports_missing_permission(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"x"})
    done = hf(hub, tmp_path, "upload", REPO, __file__, "b.py", HF_TOKEN=READER)
    assert done.returncode != 0
    assert "permission" in done.stdout + done.stderr
    assert "b.py" not in hub.files(REPO)


def test_a_second_server_on_the_same_folder_continues(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as first:
        head = first.put(REPO, {"m.pt": BIG})
    with HubServer(tmp_path / "hub", port=first.port) as second:
        assert second.url == first.url
        assert second.read(REPO, "m.pt", rev=head) == BIG


def test_nothing_committed_is_lost_by_kill_9(tmp_path: Path) -> None:
    def serve() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "nanolan.sim.hub.server", "--root", str(tmp_path / "hub")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        return process, process.stdout.readline().strip()

    process, url = serve()
    try:
        for path, body in (
            ("/api/repos/create", b'{"name": "model"}'),
            (
                "/api/models/me/model/commit/main",
                b'{"key": "header", "value": {"summary": "s"}}\n'
                b'{"key": "file", "value": {"path": "a.txt", "content": "kept"}}',
            ),
        ):
            urllib.request.urlopen(
                urllib.request.Request(url + path, body, {"Authorization": f"Bearer {WRITER}"})
            )
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (tmp_path / "hub" / "tmp" / "half").write_bytes(b"x")
    assert HubServer(tmp_path / "hub").read(REPO, "a.txt") == b"kept"
    assert not (tmp_path / "hub" / "tmp" / "half").exists()


def test_stop_ends_stalls_and_kept_connections_at_once(tmp_path: Path) -> None:
    hub = HubServer(tmp_path / "hub").start()
    hub.fault("GET /api/agent-harnesses", "stall", seconds=60)
    get = f"import urllib.request as u; u.urlopen('{hub.url}/api/agent-harnesses')"
    process = subprocess.Popen([sys.executable, "-c", get], stderr=subprocess.DEVNULL)
    while not hub.log:
        time.sleep(0.01)
    kept = http.client.HTTPConnection("127.0.0.1", hub.port)
    kept.request("GET", "/api/whoami-v2")
    kept.getresponse().read()
    before = time.monotonic()
    hub.stop()
    hub.stop()
    assert process.wait(10) == 1
    assert time.monotonic() - before < 3
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        kept.request("GET", "/api/whoami-v2")
        kept.getresponse()
    kept.close()


def test_one_put_is_one_commit_with_files_by_bytes_or_by_path(
    hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "m.pt").write_bytes(BIG)
    hub.put(
        "org/data",
        {"a.txt": b"text", "m.pt": tmp_path / "m.pt"},
        typ="dataset",
        private=False,
        message="seed",
    )
    repo = hub.store.load("dataset", "org/data")
    assert repo and not repo.private
    assert [c.title for c in repo.commits.values()] == ["initial commit", "seed"]
    assert hub.read("org/data", "m.pt", typ="dataset") == BIG
    assert hub.files("org/data", typ="dataset")["m.pt"].lfs
    with pytest.raises(Refusal):
        hub.files("org/data")  # there is no model of that name
    with pytest.raises(KeyError):
        hub.read("org/data", "no.txt", typ="dataset")


@pytest.mark.shows("output", "stdout of *", "the test asks for the token")
def test_the_environment_keeps_a_client_inside_its_home(hub: HubServer, tmp_path: Path) -> None:
    script = """
from huggingface_hub import constants as c, get_token
print(c.ENDPOINT, c.HF_HUB_OFFLINE, get_token(), c.HF_HUB_CACHE, c.HF_XET_CACHE, c.HF_ASSETS_CACHE, c.HF_TOKEN_PATH)
"""
    theirs = {
        name: "/theirs"
        for name in (
            "HF_ENDPOINT",
            "HF_TOKEN",
            "HF_HOME",
            "HF_HUB_CACHE",
            "HF_XET_CACHE",
            "HF_ASSETS_CACHE",
            "HF_TOKEN_PATH",
            "XDG_CACHE_HOME",
            "HOME",
        )
    }
    env = theirs | {"HF_HUB_OFFLINE": "1"} | hub.env(tmp_path / "h")
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    endpoint, offline, token, *paths = done.stdout.split()
    assert (endpoint, offline, token) == (hub.url, "False", WRITER)
    assert [Path(path).parent for path in paths] == [tmp_path / "h"] * 4
