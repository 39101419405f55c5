"""The local Hub's types and rules: files, commits, repositories, refusals. No disk, no HTTP."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypedDict

# <kind> in /api/<kind>/<id> -> type
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".npz",
    ".npy",
    ".parquet",
    ".arrow",
    ".h5",
    ".onnx",
    ".zip",
    ".gz",
    ".tar",
    ".tgz",
    ".zst",
    ".pkl",
    ".png",
    ".jpg",
    ".mp4",
    ".bundle",
)
LFS_BYTES = 10_000_000
SHORT_ID = re.compile(r"[0-9a-f]{7,39}")
NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")


class Refusal(Exception):
    """An error answer: HTTP status, X-Error-Code (it selects the client's exception), message, more body fields."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        headers: Mapping[str, Any] | None = None,
        **body: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = dict(headers or {}), {"error": message, **body}


class User(TypedDict):
    """The account of a token: user name, organizations, and the role "write" or "read"."""

    name: str
    orgs: list[str]
    role: str


@dataclass(frozen=True)
class Blob:
    """One file of a commit; `oid` is the git sha1: of the file, or of its pointer file when it is in LFS."""

    oid: str
    size: int
    sha256: str
    lfs: bool = False


@dataclass(frozen=True)
class Change:
    """One line of a commit: put `blob` at `path`, or (None) delete the file or the folder."""

    path: str
    blob: Blob | None
    folder: bool = False


@dataclass(frozen=True)
class Commit:
    """A full list of files, with its parent and its message."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository: branches (`refs`), tags, and every commit by its id."""

    typ: str
    id: str
    private: bool
    created: str
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, rev: str) -> Commit:
        """The commit that a branch, a tag or a commit id (at least 7 digits of it) names; 404 RevisionNotFound if none."""
        commit = self.commits.get(self.refs.get(rev) or self.tags.get(rev) or rev)
        if commit is None and SHORT_ID.fullmatch(rev):
            matching = [c for oid, c in self.commits.items() if oid.startswith(rev)]
            commit = matching[0] if len(matching) == 1 else None
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return commit

    def commit(
        self,
        branch: str,
        changes: Iterable[Change],
        title: str,
        message: str = "",
        parent: str | None = None,
    ) -> Commit:
        """Add a commit and move the branch; 412 when `parent` (7 digits or more) is given and is not its head."""
        head = self.at(branch)
        if branch not in self.refs:
            raise Refusal(400, "can only commit on a branch")
        if parent is not None and not head.oid.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        return self._add(branch, head.oid, apply_changes(head.files, changes), title, message)

    def propose(self, changes: Iterable[Change], title: str, message: str = "") -> str:
        """Add a commit to a new pull request on main, which stays as it is; returns the request's branch."""
        head = self.at("main")
        name = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in self.refs)}"
        self._add(name, head.oid, apply_changes(head.files, changes), title, message)
        return name

    def squash(self, branch: str, title: str) -> Commit:
        """Replace a branch's history by one commit with its files; other branches and tags keep theirs."""
        if branch not in self.refs:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        commit = self._add(branch, None, self.at(branch).files, title, "")
        kept: set[str] = set()
        for oid in (*self.refs.values(), *self.tags.values()):
            while oid and oid not in kept:
                kept.add(oid)
                oid = self.commits[oid].parent or ""
        self.commits = {oid: c for oid, c in self.commits.items() if oid in kept}
        return commit

    def _add(
        self, branch: str, parent: str | None, files: dict[str, Blob], title: str, message: str
    ) -> Commit:
        commit = Commit(secrets.token_hex(20), parent, title, message, now(), files)
        self.commits[commit.oid] = commit
        self.refs[branch] = commit.oid
        return commit

    @classmethod
    def new(cls, typ: str, repo_id: str, private: bool, files: dict[str, Blob]) -> Repo:
        """A repository whose first commit holds `files`; 400 when the Hub does not accept the name."""
        parts = repo_id.split("/")
        if len(parts) != 2 or not all(NAME.fullmatch(p) for p in parts):
            raise Refusal(400, f"Invalid repo name: {repo_id[:120]}")
        repo = cls(typ, repo_id, private, now())
        repo._add("main", None, files, "initial commit", "")
        return repo


def apply_changes(files: Mapping[str, Blob], changes: Iterable[Change]) -> dict[str, Blob]:
    """`files` after the changes; deleting a missing file is a 404 EntryNotFound, as on the Hub."""
    out = dict(files)
    for change in changes:
        if change.blob is not None:
            out[check_path(change.path)] = change.blob
            continue
        inside = change.path.rstrip("/") + "/"
        gone = (
            [path for path in out if path.startswith(inside)]
            if change.folder
            else [path for path in out if path == change.path]
        )
        if not gone:
            raise Refusal(
                404, f"A file with this name doesn't exist: {change.path}", "EntryNotFound"
            )
        for path in gone:
            del out[path]
    return out


def check_path(path: str) -> str:
    """`path` if it stays inside a repository; 400 for an absolute, empty, dotted or backslashed one."""
    if not path or "\\" in path or any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise Refusal(400, f"Invalid path in repo: {path[:120]!r}")
    return path


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub keeps this file in LFS: by its name, its size, or first bytes that are not text."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_BYTES or b"\0" in sample


def gitattributes() -> bytes:
    """The .gitattributes that a new repository starts with."""
    return "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES).encode()


def git_oid(data: bytes) -> str:
    """The git blob id (sha1) of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git stores in place of an LFS file (https://git-lfs.com/spec/v1)."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )


def lfs_blob(sha256: str, size: int) -> Blob:
    """The Blob of a file kept in LFS."""
    return Blob(git_oid(lfs_pointer(sha256, size)), size, sha256, lfs=True)


def now() -> str:
    """The current time in the Hub's format, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
