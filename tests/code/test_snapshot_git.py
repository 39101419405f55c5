"""What git's own settings and states do to what is sent: filters do not run, hidden edits are sent, a merge is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nanolan.code.bundle import make_bundle
from nanolan.code.check import code_here
from nanolan.code.git import run_git
from nanolan.code.snapshot import ENCRYPTED, check_code_of
from nanolan.errors import PreflightFailed
from nanolan.trainers.checkout import copy_of
from tests.code.test_snapshot import sent, start, write
from tests.support.core_fixtures import git

SETTINGS = {
    "clean": "touch {ran}; sed s/x/y/",
    "smudge": "touch {ran}; cat",
    "process": "touch {ran}",
    "required": "true",
}


@pytest.mark.parametrize("keys", [["clean"], ["clean", "required"], ["process"], [*SETTINGS]])
@pytest.mark.parametrize("name", ["f", "a.b", "lfs"])
def test_no_filter_of_gits_settings_runs(tmp_path: Path, keys: list[str], name: str) -> None:
    repo, ran = start(tmp_path / "repo"), tmp_path / "RAN"
    write(repo, {".gitattributes": f"*.py filter={name}\n", "nanolan/a.py": "x = 2\n"})
    write(repo, {"nanolan/new.py": "x = 3\n"})
    for key in keys:
        git(repo, "config", f"filter.{name}.{key}", SETTINGS[key].format(ran=ran))
    files = sent(repo, tmp_path)
    assert not ran.exists()
    assert (files["nanolan/a.py"], files["nanolan/new.py"]) == (b"x = 2\n", b"x = 3\n")
    run_git(repo, "status", "--porcelain")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["git-crypt", "transcrypt", "sops", "age"])
def test_what_a_filter_encrypts_is_left_out(tmp_path: Path, name: str) -> None:
    repo = start(tmp_path / "repo")
    write(repo, {".gitattributes": f"nanolan/k.txt filter={name}\n", "nanolan/k.txt": "clear\n"})
    git(repo, "add", "--all")
    texts = {c.name: c.text for c in code_here("ab12cd34", repo)[2]}
    assert "a filter of git encrypts it: nanolan/k.txt" in texts["code, left out"]
    assert "nanolan/k.txt" not in sent(repo, tmp_path)
    with copy_of(str(repo), tmp_path) as copy:
        assert copy.left["nanolan/k.txt"] == ENCRYPTED
        assert not (copy.root / "nanolan/k.txt").exists()


@pytest.mark.parametrize("bit", ["--skip-worktree", "--assume-unchanged"])
def test_an_edit_that_git_was_told_to_overlook_is_sent(tmp_path: Path, bit: str) -> None:
    repo = start(tmp_path / "repo")
    git(repo, "update-index", bit, "nanolan/a.py")
    write(repo, {"nanolan/a.py": "x = 'edited'\n"})
    assert check_code_of(repo).dirty
    assert sent(repo, tmp_path)["nanolan/a.py"] == b"x = 'edited'\n"
    assert git(repo, "ls-files", "-v", "nanolan/a.py")[0] in "Sh", "the user's index is as it was"


def test_files_outside_of_a_sparse_checkout_are_sent_as_committed(tmp_path: Path) -> None:
    repo = start(tmp_path / "repo")
    git(repo, "sparse-checkout", "set", "nanolan")
    assert not (repo / "scripts").exists()
    assert sent(repo, tmp_path)["scripts/b.py"] == b"y = 2\n"


def test_a_merge_with_conflicts_is_named(tmp_path: Path) -> None:
    repo = start(tmp_path / "repo")
    for branch, text in (("other", "x = 2\n"), ("main", "x = 3\n")):
        git(repo, "checkout", "--quiet", *(["-b"] if branch == "other" else []), branch)
        write(repo, {"nanolan/a.py": text})
        git(repo, "commit", "--quiet", "--all", f"--message={branch}")
    with pytest.raises(subprocess.CalledProcessError):  # which is the state that is meant
        git(repo, "merge", "--quiet", "other")
    with pytest.raises(PreflightFailed, match=r"nanolan/a.py has conflicts.*git merge --abort"):
        make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")


def test_a_repository_of_sha256_is_named(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "--quiet", "--object-format=sha256")
    write(repo, {"nanolan/a.py": "x = 1\n"})
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message=first")
    with pytest.raises(PreflightFailed, match="names its objects by SHA-256"):
        make_bundle(repo, tmp_path / "code.bundle", "ab12cd34")
