"""Uploads of large files to the local Hub, under the real client: whole, in parts, and cut."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanolan.sim.hub.server import HubServer
from tests.sim.hubclient import BIG, REPO, client, folder_of, requests

UPLOAD = (
    'api.upload_file(repo_id="me/model", path_or_fileobj="m.pt", path_in_repo="m.pt")\nsay("done")'
)


@pytest.fixture(params=[False, True], ids=["plain", "xet"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def test_a_file_is_uploaded_and_downloaded_alone(either: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(BIG)
    script = """
api.create_repo("me/model", private=True)
api.upload_file(repo_id="me/model", path_or_fileobj="model.pt", path_in_repo="a/model.pt")
api.upload_file(repo_id="me/model", path_or_fileobj=b"small", path_in_repo="notes.txt")
say([api.hf_hub_download("me/model", "a/model.pt"), api.hf_hub_download("me/model", "notes.txt")])
"""
    model, notes = client(either, tmp_path, script)
    assert Path(model).read_bytes() == BIG
    assert Path(notes).read_bytes() == b"small"


def test_uploads_of_two_concurrent_processes_all_arrive(either: HubServer, tmp_path: Path) -> None:
    either.put(REPO, {"start.txt": b"x"})
    script = """
import random
for i in range(2):
    name = f"NAME-{i}.pt"
    api.upload_file(repo_id="me/model", path_or_fileobj=random.Random(name).randbytes(200_000), path_in_repo=name)
say("done")
"""
    with ThreadPoolExecutor() as pool:
        assert (
            list(
                pool.map(lambda name: client(either, tmp_path, script.replace("NAME", name)), "ab")
            )
            == ["done"] * 2
        )
    assert {"a-0.pt", "a-1.pt", "b-0.pt", "b-1.pt"} <= set(either.files(REPO))
    assert len(either.read(REPO, "b-1.pt")) == 200_000


def test_large_files_are_uploaded_in_parts(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", multipart_over=1 << 20, part_size=600_000) as hub:
        (tmp_path / "m.pt").write_bytes(BIG)
        hub.put(REPO, {"start.txt": b"x"})
        client(hub, tmp_path, UPLOAD)
        assert len(requests(hub, "PUT", "/part/")) == 4
        assert hub.read(REPO, "m.pt") == BIG
        assert len(list((hub.root / "objects").iterdir())) == len(
            hub.files(REPO)
        )  # the parts are gone


def test_unchanged_files_are_not_sent_again(hub: HubServer, tmp_path: Path) -> None:
    folder_of(tmp_path)
    hub.put(REPO, {"d20/model_000001.pt": BIG})
    head = client(
        hub,
        tmp_path,
        'api.upload_folder(repo_id="me/model", folder_path="out")\n'
        'say(api.upload_folder(repo_id="me/model", folder_path="out").oid)',
    )
    assert requests(hub, "PUT", "/__lfs__/") == []
    assert head in hub.store.load("model", REPO).commits  # type: ignore[union-attr]
    assert len(requests(hub, "POST", "/commit/")) == 1


def test_an_upload_that_is_reset_is_sent_again(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    hub.fault("PUT /__lfs__/", "reset", after=1 << 20)
    (tmp_path / "m.pt").write_bytes(BIG)
    client(hub, tmp_path, UPLOAD)
    assert [line["status"] for line in requests(hub, "PUT", "/__lfs__/")] == [0, 200]
    assert hub.read(REPO, "m.pt") == BIG
    assert list((hub.root / "tmp").iterdir()) == []


def test_a_stalled_upload_hangs_and_then_continues(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    hub.fault("PUT /__lfs__/", "stall", after=1 << 20, seconds=0.7)
    (tmp_path / "m.pt").write_bytes(BIG)
    client(hub, tmp_path, UPLOAD)
    [put] = requests(hub, "PUT", "/__lfs__/")
    assert put["ms"] >= 700
    assert hub.read(REPO, "m.pt") == BIG
