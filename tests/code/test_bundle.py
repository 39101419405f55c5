"""The code bundle: exactly what git tracks or would track, never a key; the user's checkout is not changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nanolan.code.bundle import make_bundle
from nanolan.errors import PreflightFailed
from nanolan.plan import Code
from tests.support.core_fixtures import git

KEYS = (
    ".env",
    ".env.local",
    "sub/.env",
    "sub/.env.production",
    "server.pem",
    "sub/tls.key",
    "id_rsa",
    "id_rsa.pub",
    "sub/id_ed25519",
    "id_ecdsa",
    "sub/id_dsa",
    ".ssh_keys/lanbot",
    ".ssh_keys/deep/config",
    "sub/.ssh_keys/x",
)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "a checkout"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    write(
        root,
        {
            "tracked.py": "one\n",
            ".gitignore": "*.log\nbuild/\n",
            "sub/module.py": "two\n",
            "removed.py": "old\n",
        },
    )
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    return root


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def unpacked(code: Code, bundle: Path, target: Path, run_id: str) -> dict[str, str]:
    """The files of a bundle, fetched as boot.sh does it."""
    target.mkdir()
    git(target, "init", "--quiet")
    git(target, "fetch", "--quiet", str(bundle), f"refs/nanolan/{run_id}/nanolan")
    git(target, "checkout", "--quiet", "FETCH_HEAD")
    return {p: (target / p).read_text() for p in git(target, "ls-files").splitlines()}


def bundled(repo: Path, tmp_path: Path, run_id: str = "ab12cd34") -> tuple[Code, dict[str, str]]:
    bundle = tmp_path / f"{run_id}.bundle"
    code = make_bundle(repo, bundle, run_id)
    assert (code.size, code.sha256) == (
        bundle.stat().st_size,
        hashlib.sha256(bundle.read_bytes()).hexdigest(),
    )
    return code, unpacked(code, bundle, tmp_path / f"out-{run_id}", run_id)


def test_a_clean_checkout_is_bundled_as_committed(repo: Path, tmp_path: Path) -> None:
    code, files = bundled(repo, tmp_path)
    assert set(files) == {"tracked.py", ".gitignore", "sub/module.py", "removed.py"}
    assert code.commit == git(repo, "rev-parse", "HEAD") and not code.dirty


def test_uncommitted_changes_are_bundled_and_marked_dirty(repo: Path, tmp_path: Path) -> None:
    write(
        repo,
        {
            "tracked.py": "changed\n",
            "scripts/new.py": "new\n",
            "noise.log": "x",
            "build/out": "x",
            "scripts/a b'$(touch evil).py": "odd\n",
        },
    )
    (repo / "removed.py").unlink()
    code, files = bundled(repo, tmp_path)
    assert files["tracked.py"] == "changed\n" and files["scripts/new.py"] == "new\n" and code.dirty
    assert "removed.py" not in files and "noise.log" not in files and "build/out" not in files
    assert not list(repo.glob("**/evil"))


@pytest.mark.parametrize("tracked", [False, True])
def test_no_key_file_is_bundled_tracked_or_not(repo: Path, tmp_path: Path, tracked: bool) -> None:
    write(
        repo,
        dict.fromkeys(KEYS, "CANARY")
        | {
            "scripts/.env.example": "HF_TOKEN=\n",
            "nanolan/monkey.py": "x\n",
            "nanolan/run/environment.py": "x\n",
            "cloud/credentials.py": "x\n",
        },
    )
    if tracked:
        git(repo, "add", "--all", "--force")
        git(repo, "commit", "--quiet", "--message=keys")
    _, files = bundled(repo, tmp_path)
    assert not set(files) & set(KEYS) and "CANARY" not in "".join(files.values())
    assert {
        "scripts/.env.example",
        "nanolan/monkey.py",
        "nanolan/run/environment.py",
        "cloud/credentials.py",
    } <= set(files)


def test_the_bundle_has_no_history(repo: Path, tmp_path: Path) -> None:
    write(repo, {"tracked.py": "a password that was committed once\n"})
    git(repo, "commit", "--quiet", "--all", "--message=oops")
    write(repo, {"tracked.py": "clean\n"})
    git(repo, "commit", "--quiet", "--all", "--message=fixed")
    bundled(repo, tmp_path)
    assert git(tmp_path / "out-ab12cd34", "rev-list", "--count", "FETCH_HEAD") == "1"


def test_the_users_index_branches_and_head_do_not_change(repo: Path, tmp_path: Path) -> None:
    write(
        repo,
        {
            "staged.py": "staged\n",
            "tracked.py": "not staged\n",
            "untracked.py": "x\n",
            ".env": "SECRET=1\n",
        },
    )
    git(repo, "add", "staged.py")

    def state() -> list[str]:
        return [
            git(repo, *command)
            for command in (
                ["status", "--porcelain"],
                ["for-each-ref"],
                ["diff", "--cached"],
                ["symbolic-ref", "HEAD"],
                ["rev-parse", "HEAD"],
                ["stash", "list"],
                ["ls-files", "--stage"],
            )
        ]

    before = state()
    make_bundle(repo, tmp_path / "x.bundle", "ab12cd34")
    assert state() == before


def test_two_bundles_of_the_same_code_have_the_same_tree_and_do_not_conflict(
    repo: Path, tmp_path: Path
) -> None:
    first, files = bundled(repo, tmp_path, "ab12cd34")
    second, again = bundled(repo, tmp_path, "12345abc")
    assert files == again and first.commit == second.commit


@pytest.mark.parametrize("make", ["no git", "no commit"])
def test_a_folder_that_is_not_a_checkout_is_a_plain_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "x"
    folder.mkdir()
    if make == "no commit":
        git(folder, "init", "--quiet")
    with pytest.raises(
        PreflightFailed, match="must be a git clone with at least one commit; nothing was rented"
    ):
        make_bundle(folder, tmp_path / "x.bundle", "ab12cd34")


def test_missing_git_is_reported(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightFailed, match="git is missing"):
        make_bundle(repo, tmp_path / "x.bundle", "ab12cd34")
