"""The local Hub's rules: commits, names, paths, and what goes into LFS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from nanolan.sim.hub.repo import (
    Blob,
    Change,
    Refusal,
    Repo,
    check_path,
    git_oid,
    is_lfs,
    lfs_pointer,
)

A, B = Blob("a" * 40, 1, "a" * 64), Blob("b" * 40, 2, "b" * 64, lfs=True)


def repo() -> Repo:
    return Repo.new("model", "me/m", True, {"keep.txt": A})


def test_a_commit_moves_its_branch_and_keeps_the_old_tree() -> None:
    r = repo()
    first = r.at("main")
    r.refs["other"] = first.oid
    second = r.commit("main", [Change("x/y.pt", B), Change("keep.txt", None)], "title", "message")
    assert (r.at("main"), second.parent, second.files) == (second, first.oid, {"x/y.pt": B})
    assert r.at("other").files == r.at(first.oid).files == {"keep.txt": A}


def test_a_commit_with_one_bad_change_changes_nothing() -> None:
    r = repo()
    before = r.at("main")
    with pytest.raises(Refusal):
        r.commit("main", [Change("good.txt", A), Change("absent.txt", None)], "t")
    assert r.at("main") == before
    assert len(r.commits) == 1


def test_a_parent_may_be_short_but_must_be_the_head() -> None:
    r = repo()
    old = r.at("main").oid
    r.commit("main", [Change("a", A)], "t", parent=old[:7])
    with pytest.raises(Refusal) as no:
        r.commit("main", [Change("b", A)], "t", parent=old)
    assert no.value.status == 412


def test_only_branches_accept_commits() -> None:
    r = repo()
    r.tags["v1"] = r.at("main").oid
    for rev, status in (("v1", 400), (r.at("main").oid, 400), ("nowhere", 404)):
        with pytest.raises(Refusal) as no:
            r.commit(rev, [Change("a", A)], "t")
        assert no.value.status == status


def test_deleting_a_folder_keeps_its_neighbours() -> None:
    r = repo()
    r.commit("main", [Change("d/a", A), Change("d/e/b", A), Change("dd", A)], "t")
    assert set(r.commit("main", [Change("d/", None, folder=True)], "t").files) == {"keep.txt", "dd"}
    with pytest.raises(Refusal):
        r.commit("main", [Change("d", None, folder=True)], "t")


def test_a_repository_survives_a_json_round_trip() -> None:
    r = repo()
    r.commit("main", [Change("x.pt", B)], "t")
    assert msgspec.json.decode(msgspec.json.encode(r), type=Repo) == r


@pytest.mark.parametrize(
    "name",
    [
        "",
        "me",
        "me/",
        "/m",
        "me/a/b",
        "me/..",
        "me/a--b",
        "me/a..b",
        "me/" + "x" * 97,
        "me/a b",
        "me/a\n",
        "me/.git",
        "../m",
        "me/ü",
    ],
)
def test_odd_repository_names_are_refused(name: str) -> None:
    with pytest.raises(Refusal) as no:
        Repo.new("model", name, True, {})
    assert no.value.status == 400


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/.", "a\\b", ".git/x", "a/"]
)
def test_paths_that_leave_the_repository_are_refused(path: str) -> None:
    with pytest.raises(Refusal):
        check_path(path)


@pytest.mark.parametrize(
    ("path", "size", "sample", "lfs"),
    [
        ("model_000001.pt", 5, b"text", True),
        ("tokenizer.pkl", 5, b"", True),
        ("train.parquet", 5, b"", True),
        ("meta.json", 5, b"{}", False),
        ("log", 10_000_001, b"text", True),
        ("log", 10_000_000, b"text", False),
        ("noname", 5, b"a\0b", True),
    ],
)
def test_the_hub_decides_what_goes_into_lfs(path: str, size: int, sample: bytes, lfs: bool) -> None:
    assert is_lfs(path, size, sample) is lfs


def test_ids_are_those_of_git(tmp_path: Path) -> None:
    for data in (b"", b"some text\n", lfs_pointer("0" * 64, 12)):
        (tmp_path / "f").write_bytes(data)
        git = subprocess.run(
            ["git", "hash-object", "--no-filters", "f"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert git.stdout.strip() == git_oid(data)
