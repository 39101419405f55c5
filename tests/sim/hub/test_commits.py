"""Writes to the local Hub, under the real client: commits, branches, and lost replies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.hub.commits import metadata_problem
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


def test_a_name_in_other_letter_case_reaches_the_same_repository(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    got = client(
        hub,
        tmp_path,
        """
api.upload_file(repo_id="ME/Model", path_or_fileobj=b"2", path_in_repo="b.txt")
say([api.model_info("Me/MODEL").id, open(api.hf_hub_download("me/Model", "a.txt")).read(),
     failure(api.create_repo, "me/MODEL")])
""",
    )
    assert got == ["me/model", "1", ["HfHubHTTPError", 409]]
    assert hub.read(REPO, "b.txt") == b"2"


def test_a_squashed_branch_has_one_commit_and_the_same_files(
    hub: HubServer, tmp_path: Path
) -> None:
    first = hub.put(REPO, {"a.pt": b"\0a"})
    hub.put(REPO, {"a.pt": b"\0b"})
    got = client(
        hub,
        tmp_path,
        f"""
api.super_squash_history("me/model")
say([len(api.list_repo_commits("me/model")), [f.filename for f in api.list_lfs_files("me/model")],
     failure(api.model_info, "me/model", revision="{first}")])
""",
    )
    assert got == [1, ["a.pt"], ["RevisionNotFoundError", 404]]
    assert hub.read(REPO, "a.pt") == b"\0b"


def test_a_moved_repository_is_found_under_both_names(hub: HubServer, tmp_path: Path) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    hub.put("me/taken", {"a.txt": b"1"})
    got = client(
        hub,
        tmp_path,
        """
refused = failure(api.move_repo, "me/model", "me/taken")
api.move_repo("me/model", "me/renamed")
say([refused, api.model_info("me/model").id, api.model_info("me/renamed").id])
""",
    )
    assert got == [["HfHubHTTPError", 409], "me/renamed", "me/renamed"]


def test_a_pull_request_leaves_main_as_it_is(hub: HubServer, tmp_path: Path) -> None:
    head = hub.put(REPO, {"a.txt": b"1"})
    got = client(
        hub,
        tmp_path,
        """
info = api.upload_file(repo_id="me/model", path_or_fileobj=b"2", path_in_repo="a.txt", create_pr=True)
refs = api.list_repo_refs("me/model", include_pull_requests=True)
say([info.pr_revision, api.model_info("me/model").sha, [r.name for r in refs.branches],
     [r.ref for r in refs.pull_requests]])
""",
    )
    assert got == ["refs/pr/1", head, ["main"], ["refs/pr/1"]]
    assert hub.read(REPO, "a.txt") == b"1"
    assert hub.read(REPO, "a.txt", rev="refs/pr/1") == b"2"


def test_a_short_commit_id_names_its_commit(hub: HubServer, tmp_path: Path) -> None:
    first = hub.put(REPO, {"a.txt": b"1"})
    hub.put(REPO, {"a.txt": b"2"})
    got = client(
        hub,
        tmp_path,
        f"""
say([api.model_info("me/model", revision="{first[:7]}").sha,
     failure(api.model_info, "me/model", revision="{first[:6]}")])
""",
    )
    assert got == [first, ["RevisionNotFoundError", 404]]


@pytest.mark.parametrize(
    ("readme", "says"),
    [
        ("# no metadata", ""),
        ("---\nlicense: mit\ntags:\n- a\n---\n# text", ""),
        ("---\n---\n", ""),
        ("---\nlicense: [mit\n---\n", "not valid"),
        ("---\n- a\n---\n", "must be an object"),
        ("---\ntags: a\n---\n", '"tags" must be list'),
        ("---\nmodel-index: {}\n---\n", '"model-index" must be list'),
        ("---\nlicense: 3\n---\n", '"license" must be str or list'),
    ],
)
def test_metadata_of_another_shape_is_refused(readme: str, says: str) -> None:
    problem = metadata_problem(readme)
    assert says in problem and bool(problem) == bool(says)


def test_a_readme_with_bad_metadata_is_not_committed(hub: HubServer, tmp_path: Path) -> None:
    head = hub.put(REPO, {"a.txt": b"1"})
    got = client(
        hub,
        tmp_path,
        """
say(failure(api.upload_file, repo_id="me/model", path_or_fileobj=b"---\\ntags: a\\n---\\n",
            path_in_repo="README.md"))
""",
    )
    assert got[0] == "ValueError" and hub.store.load("model", REPO).at("main").oid == head  # type: ignore[union-attr]
