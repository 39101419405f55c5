"""Finds the checkout that `trainer=` names, a folder or URL@commit, and copies what of it is sent to the instance.

The copy is a repository of one commit: tracked files with their current content, those of submodules too, new files below
nanochat/, scripts/ and tasks/, and what uv needs. A URL is fetched by nanolan/trainers/fetch.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nanolan.code.git import AUTHOR, run_git
from nanolan.code.secret_names import is_secret_name
from nanolan.code.snapshot import (
    ENCRYPTED,
    OTHER_REPO,
    SECRET_NAME,
    UNTRACKED,
    check_size,
    encrypted,
)
from nanolan.errors import PreflightFailed, UsageProblem, quoted
from nanolan.redact import printable
from nanolan.settings.values import is_url
from nanolan.trainers.fetch import fetch_commit, parse_url, without_user

# Untracked files are sent only from these folders, and these
NEW_FROM = ("nanochat/", "scripts/", "tasks/")
NEW_FILES = ("pyproject.toml", "uv.lock", ".python-version")
# Git changes no content on its way into the copy: no line ends, no LFS pointers
AS_IT_IS = "* -text -filter -ident -working-tree-encoding\n"
NO_COMMIT = ("not a git repository", "Needed a single revision")


@dataclass(frozen=True)
class Copy:
    """A copy of a checkout."""

    root: Path
    source: str  # the folder's name, or the URL
    commit: str
    dirty: bool
    new: tuple[str, ...] = ()  # files in it that git does not track
    left: dict[str, str] = field(default_factory=dict)  # path that is not sent -> reason


@contextmanager
def copy_of(value: str, folder: Path) -> Iterator[Copy]:
    """A copy of the checkout `value`, a path relative to `folder` or URL@commit, until the context ends."""
    with tempfile.TemporaryDirectory(prefix="nanolan-fork-") as temp:
        target = Path(temp) / "copy"
        if is_url(value):
            url, commit = parse_url(value)
            fetched = Path(temp) / "fetched"
            fetch_commit(url, commit, fetched)
            copied = _copy(fetched, target, url)
        else:
            root = _folder(value, folder)
            copied = _copy(root, target, printable(root.name).replace("\n", "?"))
        yield copied


@contextmanager
def files_of(value: str, folder: Path) -> Iterator[Path]:
    """The checkout `value` as it is, to be read alone, until the context ends."""
    if not is_url(value):
        yield _folder(value, folder)
        return
    with tempfile.TemporaryDirectory(prefix="nanolan-fork-") as temp:
        fetch_commit(*parse_url(value), Path(temp) / "fetched")
        yield Path(temp) / "fetched"


def _folder(value: str, folder: Path) -> Path:
    try:
        root = (folder / Path(value).expanduser()).resolve()
        if root.is_dir():
            return root
    except (OSError, RuntimeError, ValueError):  # too long, a circle of links, no such user
        pass
    raise UsageProblem(
        f"trainer={quoted(without_user(value))} is no folder here. Give nanolan, a nanochat checkout, or URL@COMMIT"
    )


def _copy(root: Path, target: Path, source: str) -> Copy:
    """Copy the files of the checkout at `root`, which may be a folder inside a repository, to a repository of its own."""
    head = _head(root)
    tracked, left = _tracked(root)
    left |= dict.fromkeys(encrypted(root, tracked), ENCRYPTED)
    others = _names(run_git(root, "ls-files", "-z", "--others", "--exclude-standard"))
    left |= {p: OTHER_REPO if p.endswith("/") else UNTRACKED for p in others}
    left |= {p: SECRET_NAME for p in (*tracked, *others) if is_secret_name(p.rstrip("/"))}
    new = tuple(p for p in others if left[p] == UNTRACKED and _is_sent(p))
    for path in new:
        del left[path]
    files = [p for p in (*tracked, *new) if p not in left and os.path.lexists(root / p)]
    _check_inside(root, files)
    check_size((p, (root / p).lstat().st_size) for p in files)
    for path in files:
        _copy_file(root, target, path)
    dirty = bool(new) or bool(run_git(root, "status", "--porcelain", "-z", "-uno", "--", "."))
    _commit(target)
    return Copy(target, source, head, dirty, new, left)


def _is_sent(path: str) -> bool:
    """Whether a file that git does not track is sent."""
    return path.startswith(NEW_FROM) or path in NEW_FILES


def _tracked(root: Path) -> tuple[list[str], dict[str, str]]:
    """(tracked files, other repositories in the index that are no submodules); a submodule without files is refused."""
    names = dict.fromkeys(_names(run_git(root, "ls-files", "-z", "--recurse-submodules")))
    folders = [p for p in names if (root / p).is_dir() and not (root / p).is_symlink()]
    for path in folders:
        if not any((root / path).iterdir()):
            raise PreflightFailed(
                f"the submodule {path} is not checked out. In the checkout: git submodule update --init "
                "--recursive; nothing was rented"
            )
    return [p for p in names if p not in folders], dict.fromkeys(folders, OTHER_REPO)


def _check_inside(root: Path, files: list[str]) -> None:
    """PreflightFailed if a folder of the checkout is a link out of it: git's own check sees only links that it tracks."""
    real = root.resolve()
    for parent in {str(Path(p).parent) for p in files}:
        if not (root / parent).resolve().is_relative_to(real):
            raise PreflightFailed(
                f"{parent} is a link out of the checkout. Replace it by the folder; nothing was rented"
            )


def _head(root: Path) -> str:
    try:
        return run_git(root, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except PreflightFailed as e:
        if not any(words in str(e) for words in NO_COMMIT):
            raise
        raise PreflightFailed(
            f"{root} is not a git checkout with a commit: what runs must have a name. There: git init, "
            "git add ., git commit; nothing was rented"
        ) from None


def _copy_file(root: Path, target: Path, path: str) -> None:
    source = root / path
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        (target / path).symlink_to(source.readlink())
    elif source.is_file():
        shutil.copy2(source, target / path)
    else:
        raise PreflightFailed(f"{path} is neither a file nor a link; nothing was rented")


def _commit(target: Path) -> None:
    """One commit of everything in the folder; a checkout without files has none to send."""
    if not target.is_dir():
        raise PreflightFailed(
            "git tracks no file of the checkout of trainer=: git add, git commit; nothing was rented"
        )
    run_git(target, "init", "--quiet", env={"GIT_DEFAULT_HASH": "sha1"})
    (target / ".git/info").mkdir(exist_ok=True)
    (target / ".git/info/attributes").write_text(AS_IT_IS)
    run_git(target, "add", "--all", "--force")
    run_git(target, "commit", "--quiet", "--no-gpg-sign", "-m", "fork", env=AUTHOR)


def _names(raw: bytes) -> list[str]:
    return [os.fsdecode(name) for name in raw.split(b"\0") if name]
