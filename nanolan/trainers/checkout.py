"""Finds the checkout that `trainer=` names, a folder or URL@commit, and copies what of it is sent to the instance.

The copy is a repository of one commit: tracked files with their current content, those of submodules too, and new files below
nanochat/, scripts/ and tasks/. A URL is fetched here, with the credentials that git has on this laptop: the instance needs none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nanolan.code.git import git_environment, run_git
from nanolan.code.secret_names import is_secret_name
from nanolan.code.snapshot import SECRET_NAME, UNTRACKED, check_size
from nanolan.errors import PreflightFailed, UsageProblem

URL = re.compile(r"((?:https|ssh|http|file)://[^\s@]+|[\w.-]+@[\w.-]+:[^\s@]+)@([0-9a-f]{40})")
LOOKS_LIKE_URL = re.compile(r"[a-z]+://|[\w.-]+@[\w.-]+:")
NEW_FROM = ("nanochat/", "scripts/", "tasks/")  # untracked files are sent only from these folders
FETCH_S = 300.0
AUTHOR = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in {
        "NAME": "nanolan",
        "EMAIL": "nanolan@localhost",
        "DATE": "2026-01-01T00:00:00Z",
    }.items()
}


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
        if LOOKS_LIKE_URL.match(value):
            url, commit = _parse_url(value)
            fetched = Path(temp) / "fetched"
            _fetch(url, commit, fetched)
            copied = _copy(fetched, target, url)
        else:
            root = (folder / Path(value).expanduser()).resolve()
            if not root.is_dir():
                raise UsageProblem(
                    f"trainer={value[:80]!r} is no folder here. Give nanolan, a nanochat checkout, or URL@COMMIT"
                )
            copied = _copy(root, target, root.name)
        yield copied


def _parse_url(value: str) -> tuple[str, str]:
    found = URL.fullmatch(value)
    if found:
        return found[1], found[2]
    shown = re.sub(r"//[^/]*@", "//...@", value)[:100]
    if re.match(r"https?://[^/\s]*@", value):
        raise UsageProblem(
            f"trainer={shown}: leave the name and the token out; git's own credentials are used"
        )
    raise UsageProblem(
        f"trainer={shown}: give the whole commit, too: URL@COMMIT with its 40 hexadecimal digits "
        "(git ls-remote URL HEAD)"
    )


def _fetch(url: str, commit: str, target: Path) -> None:
    """One commit of a repository, with its submodules; by the user's own git, so that its credentials work."""
    target.mkdir()
    protocols = {"GIT_ALLOW_PROTOCOL": "https:http:ssh:file"}
    for words in (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth=1", "--", url, commit),
        ("checkout", "--quiet", "FETCH_HEAD"),
        ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"),
    ):
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=target,
                env=git_environment() | protocols,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=FETCH_S,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise PreflightFailed(
                f"git {words[0]} of {url}: {type(e).__name__}; nothing was rented"
            ) from None
        if done.returncode:
            raise PreflightFailed(
                f"git {words[0]} of {url} at {commit[:8]} failed: {' '.join(done.stderr.split())[:300]}; "
                "nothing was rented"
            )


def _copy(root: Path, target: Path, source: str) -> Copy:
    """Copy the files of the checkout at `root`, which may be a folder inside a repository, to a repository of its own."""
    head = _head(root)
    tracked = _names(run_git(root, "ls-files", "-z", "--recurse-submodules"))
    others = _names(run_git(root, "ls-files", "-z", "--others", "--exclude-standard"))
    left = {p: SECRET_NAME for p in (*tracked, *others) if is_secret_name(p)}
    new = tuple(p for p in others if p.startswith(NEW_FROM) and p not in left)
    left |= {p: UNTRACKED for p in others if p not in new and p not in left}
    files = [p for p in (*tracked, *new) if p not in left and os.path.lexists(root / p)]
    check_size((p, (root / p).lstat().st_size) for p in files)
    for path in files:
        _copy_file(root / path, target / path)
    dirty = bool(new) or bool(run_git(root, "status", "--porcelain", "-z", "-uno", "--", "."))
    _commit(target)
    return Copy(target, source, head, dirty, new, left)


def _head(root: Path) -> str:
    try:
        return run_git(root, "rev-parse", "HEAD").decode().strip()
    except PreflightFailed as e:
        if "git is missing" in str(e):
            raise
        raise PreflightFailed(
            f"{root} is not a git checkout with a commit: what runs must have a name. There: git init, "
            "git add ., git commit; nothing was rented"
        ) from None


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_file():
        shutil.copy2(source, target)
    else:
        raise PreflightFailed(f"{source} is neither a file nor a link; nothing was rented")


def _commit(target: Path) -> None:
    """One commit of everything in the folder; a checkout without files has none to send."""
    if not target.is_dir():
        raise PreflightFailed("the checkout of trainer= has no files; nothing was rented")
    run_git(target, "init", "--quiet")
    run_git(target, "add", "--all", "--force")
    run_git(target, "commit", "--quiet", "--no-gpg-sign", "-m", "fork", env=AUTHOR)


def _names(raw: bytes) -> list[str]:
    return [os.fsdecode(name) for name in raw.split(b"\0") if name]
