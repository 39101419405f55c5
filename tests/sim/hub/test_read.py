"""Reads from the local Hub, under the real client: listings, hashes, downloads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.hub.repo import git_oid
from nanolan.sim.hub.server import HubServer
from tests.sim.hubclient import BIG, REPO, client, requests


@pytest.fixture(params=[False, True], ids=["plain", "xet"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def test_hashes_and_sizes_can_be_read_back(either: HubServer, tmp_path: Path) -> None:
    script = """
api.create_repo("me/model")
api.create_commit("me/model", [Add("m.pt", b"\\0weights"), Add("t.txt", b"text")], commit_message="both")
infos = api.get_paths_info("me/model", ["m.pt", "t.txt", "no"])
say([[i.path, i.size, i.blob_id, i.lfs and i.lfs.sha256] for i in infos])
"""
    model, text = client(either, tmp_path, script)
    assert (model[0], model[1], model[3]) == ("m.pt", 8, hashlib.sha256(b"\0weights").hexdigest())
    assert text == ["t.txt", 4, git_oid(b"text"), None]


def test_a_long_listing_comes_in_pages(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", page_size=3) as hub:
        hub.put(REPO, {f"f/{i}.txt": b"x" for i in range(7)})
        got = client(
            hub,
            tmp_path,
            """
tree = api.list_repo_tree
say([[i.path for i in t] for t in (tree("me/model", recursive=True), tree("me/model", "f"), tree("me/model"))])
""",
        )
        files = [f"f/{i}.txt" for i in range(7)]
        assert [sorted(g) for g in got] == [
            sorted([".gitattributes", "f", *files]),
            files,
            [".gitattributes", "f"],
        ]
        assert len(requests(hub, "GET", "/tree/")) == 3 + 3 + 1


def test_a_cut_download_resumes_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"m.pt": BIG * 8})  # 16 MiB: the client counts chunks of 10 MiB
    hub.fault("GET /__cdn__/", "truncate", after=12 << 20)
    got = client(hub, tmp_path, 'say(api.hf_hub_download("me/model", "m.pt"))')
    assert Path(got).read_bytes() == BIG * 8
    ranges = [line["range"] for line in requests(hub, "GET", "/__cdn__/")]
    assert len(ranges) == 2
    assert ranges[1] not in (None, "bytes=0-")


def test_the_token_is_not_sent_to_the_other_origin(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"m.pt": BIG})
    client(hub, tmp_path, 'say(api.hf_hub_download("me/model", "m.pt"))')
    assert [line["auth"] for line in requests(hub, "GET", "/__cdn__/")] == [False]
