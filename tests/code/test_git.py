"""In any state of a checkout and any environment, its own code is sent, or one line says why not."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from nanolan.code.bundle import bundle_and_snapshot
from nanolan.code.git import is_tracked, run_git
from nanolan.errors import PreflightFailed
from tests.support.core_fixtures import git

FILES = {
    "README.md": "one\n",
    "nanolan/a.py": "x = 1\n",
    "scripts/b.py": "y = 2\n",
    "docs/c.md": "three\n",
}


def make(root: Path) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    (root / "README.md").write_text("two\n")
    git(root, "commit", "--quiet", "--all", "--message=second")
    return root


def plain(tmp_path: Path) -> Path:
    return make(tmp_path / "plain")


def shallow(tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{make(tmp_path / 'origin')}", "shallow")
    return tmp_path / "shallow"


def worktree(tmp_path: Path) -> Path:
    git(make(tmp_path / "origin"), "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    return tmp_path / "worktree"


def submodule(tmp_path: Path) -> Path:
    outer, inner = make(tmp_path / "outer"), make(tmp_path / "inner")
    git(
        outer,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(inner),
        "vendor/nanolan",
    )
    return outer / "vendor/nanolan"


def shared(tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", "--shared", str(make(tmp_path / "origin")), "shared")
    return tmp_path / "shared"


def sparse(tmp_path: Path) -> Path:
    root = make(tmp_path / "sparse")
    git(root, "sparse-checkout", "set", "nanolan")
    assert not (root / "docs").exists()
    return root


def sparse_index(tmp_path: Path) -> Path:
    root = make(tmp_path / "sparse")
    git(root, "sparse-checkout", "set", "--cone", "--sparse-index", "nanolan")
    return root


def split_index(tmp_path: Path) -> Path:
    root = make(tmp_path / "split")
    git(root, "update-index", "--split-index")
    return root


def detached(tmp_path: Path) -> Path:
    root = make(tmp_path / "detached")
    git(root, "checkout", "--quiet", "--detach")
    return root


def no_index(tmp_path: Path) -> Path:
    root = make(tmp_path / "no-index")
    git(root, "reset", "--quiet", "--soft", "HEAD")
    return root


def odd_path(tmp_path: Path) -> Path:
    return make(tmp_path / "a \"b':c")


def through_a_link(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(make(tmp_path / "real"))
    return tmp_path / "link"


STATES: list[Callable[[Path], Path]] = [
    plain,
    shallow,
    worktree,
    submodule,
    shared,
    sparse,
    sparse_index,
    split_index,
    detached,
    no_index,
    odd_path,
    through_a_link,
]


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.__name__)
def test_all_code_is_sent_in_every_state_of_a_checkout(
    state: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = state(tmp_path)
    (root / "nanolan/new.py").write_text("new\n")
    files = sent(root, tmp_path)
    assert files == {
        **FILES,
        "README.md": "two\n",
        "nanolan/new.py": "new\n",
        **({".gitmodules": ""} if ".gitmodules" in files else {}),
    }


def sent(root: Path, tmp_path: Path) -> dict[str, str]:
    target, bundle = tmp_path / "out", tmp_path / "code.bundle"
    bundle_and_snapshot(root, bundle, "ab12cd34")
    git(tmp_path, "init", "--quiet", str(target))
    git(target, "fetch", "--quiet", str(bundle), "refs/nanolan/ab12cd34/nanolan")
    git(target, "checkout", "--quiet", "FETCH_HEAD")
    assert git(target, "rev-list", "--count", "FETCH_HEAD") == "1"
    return {p: (target / p).read_text() for p in git(target, "ls-files").splitlines()}


def no_git(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    return tmp_path / "x"


def no_commit(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "x")
    return tmp_path / "x"


def bare(tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", "--bare", str(make(tmp_path / "origin")), "x")
    return tmp_path / "x"


def unpacked_into_another(tmp_path: Path) -> Path:
    """A download of nanolan, unpacked in somebody's repository of all that is theirs."""
    home = make(tmp_path / "home")
    (home / "diary.md").write_text("dear diary\n")
    (home / "nanolan-main").mkdir()
    return home / "nanolan-main"


def foreign(tmp_path: Path) -> Path:
    root = make(tmp_path / "x")
    os.environ["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    return root


def broken(tmp_path: Path) -> Path:
    root = make(tmp_path / "x")
    (root / ".git/HEAD").write_text("nonsense\n")
    return root


def lost_object(tmp_path: Path) -> Path:
    """A partial clone whose missing files cannot be fetched without a network."""
    origin = make(tmp_path / "origin")
    git(origin, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", "--sparse", f"file://{origin}", "x")
    return tmp_path / "x"


REFUSED = {
    no_git: "must be a git clone with at least one commit",
    no_commit: "must be a git clone with at least one commit",
    bare: "is a bare repository",
    unpacked_into_another: "is a folder inside another git checkout",
    foreign: "belongs to another user, so git does not read it.*safe.directory",
    broken: "nanolan must be a git clone",
    lost_object: "git sparse-checkout disable",
}


@pytest.mark.parametrize("state", REFUSED, ids=lambda s: s.__name__)
def test_other_folders_are_refused_with_what_to_do(
    state: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "0")
    with pytest.raises(PreflightFailed, match=REFUSED[state]) as e:
        bundle_and_snapshot(state(tmp_path), tmp_path / "code.bundle", "ab12cd34")
    assert "nothing was rented" in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "code.bundle").exists()


def other(tmp_path: Path) -> Path:
    root = make(tmp_path / "other")
    (root / "diary.md").write_text("dear diary\n")
    git(root, "add", "--all")
    return root


LEADING_AWAY = {
    "GIT_DIR": "{other}/.git",
    "GIT_WORK_TREE": "{other}",
    "GIT_INDEX_FILE": "{other}/.git/index",
    "GIT_OBJECT_DIRECTORY": "{other}/.git/objects",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "{other}/.git/objects",
    "GIT_COMMON_DIR": "{other}/.git",
    "GIT_NAMESPACE": "other",
    "GIT_CONFIG_PARAMETERS": "'core.worktree={other}'",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_GLOB_PATHSPECS": "1",
    "GIT_PREFIX": "docs/",
    "GIT_ATTR_SOURCE": "HEAD",
    "GIT_TRACE": "1",
    "GIT_TRACE_CURL": "{other}/trace",
    "GIT_EXTERNAL_DIFF": "touch {other}/ran",
    "GIT_SHALLOW_FILE": "{other}/none",
    "GIT_DEFAULT_HASH": "sha256",
    "GIT_ASKPASS": "{other}/ask",
    "GIT_REPLACE_REF_BASE": "refs/other",
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout, and another one with what is nobody's business."""
    base = tmp_path_factory.mktemp("two")
    return make(base / "mine"), other(base)


@pytest.mark.parametrize("name", LEADING_AWAY)
def test_no_variable_of_git_leads_to_another_repository(
    name: str, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root, away), before = two, git(two[1], "status", "--porcelain")
    with monkeypatch.context() as env:
        env.setenv(name, LEADING_AWAY[name].format(other=away))
        _, snapshot = bundle_and_snapshot(root, tmp_path / "code.bundle", "ab12cd34")
    assert (snapshot.tree, snapshot.new, snapshot.left) == (
        git(root, "rev-parse", "HEAD^{tree}"),
        (),
        {},
    )
    assert (
        git(away, "status", "--porcelain") == before
        and not (away / "trace").exists()
        and not (away / "ran").exists()
    )


def test_no_credential_helper_hook_or_monitor_is_asked(tmp_path: Path) -> None:
    root, ran = make(tmp_path / "mine"), tmp_path / "ran"
    script = tmp_path / "helper"
    script.write_text(f"#!/bin/sh\necho \"$0 $*\" >> '{ran}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    for key in ("credential.helper", "core.askPass", "core.fsmonitor", "core.sshCommand"):
        git(root, "config", key, str(script))
    git(root, "config", "core.hooksPath", str(tmp_path / "hooks"))
    (tmp_path / "hooks").mkdir()
    for hook in ("post-index-change", "reference-transaction", "pre-commit"):
        (tmp_path / "hooks" / hook).symlink_to(script)
    ran.unlink(missing_ok=True)
    bundle_and_snapshot(root, tmp_path / "code.bundle", "ab12cd34")
    with pytest.raises(PreflightFailed):
        run_git(root, "fetch", "https://127.0.0.1:9/x.git")
    assert not ran.exists()


def test_is_tracked_never_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "mine")
    assert (
        is_tracked(root / "README.md")
        and not is_tracked(root / "nothing")
        and not is_tracked(root / "READM?.md")
    )
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "outside").mkdir()
    assert not is_tracked(tmp_path / "outside/.env")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(PreflightFailed, match="belongs to another user"):
        is_tracked(root / "README.md")
