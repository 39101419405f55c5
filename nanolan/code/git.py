"""Runs git on this checkout: ignores other repositories that the environment names, and uses no network or credential helper.

Translates git's errors into one line with the command that fixes them, for example "dubious ownership".
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanolan.errors import PreflightFailed

# GIT_* variables that are passed on: they locate git and its settings, not other repositories, indexes or traces
KEPT = re.compile(
    r"GIT_(CEILING_DIRECTORIES|EXEC_PATH|DISCOVERY_ACROSS_FILESYSTEM|TEST_ASSUME_DIFFERENT_OWNER"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)
OPTIONS = (
    "-c",
    "protocol.allow=never",
    "-c",
    "credential.helper=",
    "-c",
    "core.askPass=",
    "-c",
    "core.fsmonitor=false",
    "-c",
    f"core.hooksPath={os.devnull}",
    "-c",
    "pack.window=0",  # no search for deltas: a bundle in a third of the time, and as small for a clone
)
READ_FILES = {"add", "diff", "status", "update-index", "write-tree"}  # these may run filters
QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
# A fixed author: the same files give the same commit, and the user needs no git identity
AUTHOR = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in {
        "NAME": "nanolan",
        "EMAIL": "nanolan@localhost",
        "DATE": "2026-01-01T00:00:00Z",
    }.items()
}
SHA1 = 40  # hex digits of an object's name
CLONE = "nanolan must be a git clone with at least one commit"
PARTIAL = "this partial clone lacks files of its commit. Fetch them: git sparse-checkout disable"
MEANING = (  # part of git's message -> explanation; the first match counts
    (
        "dubious ownership",
        "{root} belongs to another user, so git does not read it. If you trust it: "
        "git config --global --add safe.directory '{root}'",
    ),
    (
        "must be run in a work tree",
        "{root} is a bare repository, which has no files. Clone it: git clone '{root}' FOLDER",
    ),
    ("missing blob", PARTIAL),
    ("promisor remote", PARTIAL),
    ("not allowed", PARTIAL),
)


@dataclass(frozen=True)
class Checkout:
    """The paths of a checkout, and its commit."""

    root: Path
    index: Path
    objects: Path
    head: str  # commit
    tree: str  # of that commit


def run_git(
    root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> bytes:
    """The output of a git command; PreflightFailed says what went wrong. No filter of the user's settings is run: it could do
    anything, and the files are sent as they are."""
    off = without_filters(root) if args[0] in READ_FILES else []
    try:
        done = subprocess.run(
            ["git", *OPTIONS, *off, *args],
            cwd=root,
            env=git_environment() | dict(env or {}),
            input=stdin,
            capture_output=True,
        )
    except FileNotFoundError:
        raise PreflightFailed(
            "git is missing; install it (the code that runs is sent as a git bundle)"
        ) from None
    if done.returncode:
        raise PreflightFailed(
            f"{explain(root, args[0], done.stderr.decode(errors='replace'))}; nothing was rented"
        )
    return done.stdout


def without_filters(root: Path) -> list[str]:
    """Options that switch off every filter that git's settings define: attributes of a checkout choose among these."""
    keys = run_git(root, "config", "--list", "--name-only", "-z").decode(errors="surrogateescape")
    names = {k[len("filter.") :].rpartition(".")[0] for k in keys.split("\0") if is_filter(k)}
    values = {"clean": "", "smudge": "", "process": "", "required": "false"}
    return [
        word
        for n in sorted(names)
        for k, v in values.items()
        for word in ("-c", f"filter.{n}.{k}={v}")
    ]


def is_filter(key: str) -> bool:
    """Whether a key of git's settings is filter.NAME.something; a NAME with a "=" cannot be named in an option."""
    return key.startswith("filter.") and key.count(".") >= 2 and "=" not in key


def git_environment() -> dict[str, str]:
    """The environment without variables that point git to another repository or make it ask a question."""
    return {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or KEPT.fullmatch(k)
    } | QUIET


def explain(root: Path, command: str, stderr: str) -> str:
    """An error of git as one line for the user."""
    for words, meaning in MEANING:
        if words in stderr:
            return meaning.format(root=root)
    hint = f". {CLONE}" if command == "rev-parse" else ""
    return f"git {command} failed in {root}: {' '.join(stderr.split())[:300]}{hint}"


def open_checkout(root: Path) -> Checkout:
    """The checkout at `root`; PreflightFailed if it is not a checkout, or a folder inside another one."""
    words = (
        "--show-toplevel",
        "--git-path",
        "index",
        "--git-path",
        "objects",
        "HEAD^{commit}",
        "HEAD^{tree}",
    )
    top, index, objects, head, tree = (
        run_git(root, "rev-parse", *words).decode(errors="surrogateescape").splitlines()
    )
    if len(head) != SHA1:
        raise PreflightFailed(
            f"{root} names its objects by SHA-256, which the git of an instance does not fetch. Clone nanolan in git's usual "
            "format and put your changes there; nothing was rented"
        )
    if Path(top).resolve() != root.resolve():
        raise PreflightFailed(
            f"{root} is a folder inside another git checkout, {top}, all of which would be sent. {CLONE} "
            "of its own; nothing was rented"
        )
    return Checkout(root, root / index, root / objects, head, tree)


def is_tracked(path: Path) -> bool:
    """Whether git tracks the file; False outside of a checkout. PreflightFailed if git fails."""
    try:
        return bool(run_git(path.parent, "ls-files", "-z", "--", f":(literal){path.name}"))
    except PreflightFailed as e:
        if "not a git repository" in str(e) or "git is missing" in str(e):
            return False
        raise
