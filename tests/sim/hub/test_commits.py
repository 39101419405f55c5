"""Writes to the local Hub, under the real client: commits, branches, and lost replies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.hub.server import HubServer
from tests.sim.hubclient import REPO, client

UPLOAD = 'say(failure(api.upload_file, repo_id="me/model", path_or_fileobj=b"x", path_in_repo="b"))'


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def test_commits_delete_files_and_folders_and_keep_the_history(
    hub: HubServer, tmp_path: Path
) -> None:
    first = hub.put(REPO, {"old/a.pt": b"\0a", "old/b.pt": b"\0b", "keep.txt": b"k"})
    titles = client(
        hub,
        tmp_path,
        """
api.create_commit("me/model", [Delete("old/", is_folder=True), Delete("keep.txt"), Add("new/a.pt", b"\\0c")],
                  commit_message="swap")
say([c.title for c in api.list_repo_commits("me/model")])
""",
    )
    assert titles == ["swap", "put files", "initial commit"]
    assert set(hub.files(REPO)) == {".gitattributes", "new/a.pt"}
    assert hub.read(REPO, "old/a.pt", rev=first) == b"\0a"


def test_branches_and_tags_can_be_created_and_deleted(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    got = client(
        hub,
        tmp_path,
        """
api.create_branch("me/model", branch="try"); api.create_tag("me/model", tag="v1")
api.upload_file(repo_id="me/model", path_or_fileobj=b"2", path_in_repo="a.txt", revision="try")
refs = api.list_repo_refs("me/model")
api.delete_branch("me/model", branch="try"); api.delete_tag("me/model", tag="v1")
left = api.list_repo_refs("me/model")
say([[r.name for r in refs.branches], [r.name for r in refs.tags], [r.name for r in left.branches + left.tags],
     failure(api.create_branch, "me/model", branch="main"), failure(api.model_info, "me/model", revision="try")])
""",
    )
    assert got == [
        ["main", "try"],
        ["v1"],
        ["main"],
        ["HfHubHTTPError", 409],
        ["RevisionNotFoundError", 404],
    ]
    assert hub.read(REPO, "a.txt") == b"1"


def test_a_gitignore_in_the_folder_keeps_files_out(hub: HubServer, tmp_path: Path) -> None:
    for name, text in ((".gitignore", "*.tmp\n\n# a comment\n"), ("a.tmp", "no"), ("b.txt", "yes")):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    hub.put(REPO, {"start.txt": b"x"})
    client(hub, tmp_path, 'api.upload_folder(repo_id="me/model", folder_path="out")\nsay("done")')
    assert set(hub.files(REPO)) == {".gitattributes", "start.txt", ".gitignore", "b.txt"}


def test_a_stale_parent_is_refused(hub: HubServer, tmp_path: Path) -> None:
    parent = hub.put(REPO, {"a.txt": b"1"})
    hub.put(REPO, {"a.txt": b"2"})
    got = client(
        hub,
        tmp_path,
        f"""
say(failure(api.create_commit, "me/model", [Add("b.txt", b"x")], commit_message="late", parent_commit="{parent}"))
""",
    )
    assert got == ["HfHubHTTPError", 412]
    assert "b.txt" not in hub.files(REPO)


def test_a_503_on_commit_fails_and_nothing_is_committed(hub: HubServer, tmp_path: Path) -> None:
    head = hub.put(REPO, {"a.txt": b"1"})
    fault = hub.fault("POST .*/commit/", status=503)
    got = client(hub, tmp_path, UPLOAD)
    assert got == ["HfHubHTTPError", 503]
    assert fault.times == 0
    assert hub.files(REPO) == hub.files(REPO, rev=head)


def test_a_commit_whose_reply_is_lost_is_stored(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    hub.fault("POST .*/commit/", "committed_reply_lost")
    got = client(hub, tmp_path, UPLOAD)
    assert got[1] is None  # no answer: a transport error
    assert hub.read(REPO, "b") == b"x"
