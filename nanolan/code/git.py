"""git, run on this checkout: never with another repository that the environment names, never with a network or a credential helper.

An error of git is said in one line with the command that mends it: "dubious ownership" is no missing clone.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanolan.errors import PreflightFailed

# Of the environment's GIT_*: where git and its settings are. Not: other repositories, indexes, attributes, traces of requests
KEPT = re.compile(
    r"GIT_(CEILING_DIRECTORIES|EXEC_PATH|DISCOVERY_ACROSS_FILESYSTEM|TEST_ASSUME_DIFFERENT_OWNER"
    r"|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+))"
)
OFFLINE = (
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
)
QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
CLONE = "nanolan must be a git clone with at least one commit"
PARTIAL = "this partial clone has not got every file of its commit. Fetch them: git sparse-checkout disable"
MEANING = (  # what git says, and what it means; the first that fits
    (
        "dubious ownership",
        "{root} belongs to another user, so git does not read it. If you trust it: "
        "git config --global --add safe.directory '{root}'",
    ),
    (
        "must be run in a work tree",
        "{root} is a bare repository, which holds no files. Clone it: git clone '{root}' nanolan",
    ),
    ("missing blob", PARTIAL),
    ("promisor remote", PARTIAL),
    ("not allowed", PARTIAL),
)


@dataclass(frozen=True)
class Checkout:
    """Where a checkout's parts are, and what it stands on."""

    root: Path
    index: Path
    objects: Path
    head: str  # commit
    tree: str  # of that commit


def run_git(
    root: Path, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> bytes:
    """What git prints; PreflightFailed says what went wrong."""
    try:
        done = subprocess.run(
            ["git", *OFFLINE, *args],
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


def git_environment() -> dict[str, str]:
    """The environment without what would lead git to another repository or to a question."""
    return {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or KEPT.fullmatch(k)
    } | QUIET


def explain(root: Path, command: str, stderr: str) -> str:
    """An error of git as one line of ours."""
    for words, meaning in MEANING:
        if words in stderr:
            return meaning.format(root=root)
    hint = f". {CLONE}" if command == "rev-parse" else ""
    return f"git {command} failed in {root}: {' '.join(stderr.split())[:300]}{hint}"


def open_checkout(root: Path) -> Checkout:
    """The checkout at `root`; PreflightFailed when it is none, or a folder within another one."""
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
    if Path(top).resolve() != root.resolve():
        raise PreflightFailed(
            f"{root} is a folder within another git checkout, {top}, which would be sent whole. {CLONE} "
            "of its own; nothing was rented"
        )
    return Checkout(root, root / index, root / objects, head, tree)


def is_tracked(path: Path) -> bool:
    """Whether git tracks the file; False outside of any checkout. PreflightFailed when git does not say."""
    try:
        return bool(run_git(path.parent, "ls-files", "-z", "--", f":(literal){path.name}"))
    except PreflightFailed as e:
        if "not a git repository" in str(e) or "git is missing" in str(e):
            return False
        raise
