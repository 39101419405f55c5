"""A Hub in memory for nanolan.hub.client.Hub: the few calls of HfApi that it makes and its GET, on a fake clock, with faults.

tests/promises/test_life.py checks it against nanolan/sim's Hub, which speaks HTTP.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from nanolan.hub.client import Tree
from nanolan.hub.http import ANSWER_S, read_date
from nanolan.plan import PinnedFile
from nanolan.sim.hub.repo import is_lfs
from tests.support.life_clock import Clock

BEFORE_S, AFTER_S = 0.5, 0.3  # of a call, around what it does
# What a fault does to a call; the lies say yes to a commit of a checkpoint and hold something else
TROUBLES = ("503", "429", "409", "forbidden", "reset", "lost", "page", "drips")
REFUSALS = (400, 401, 402, 403, 404, 413)
LIES = ("nothing", "other bytes", "one file less")


@dataclass(frozen=True)
class Commit:
    """All files of a repo, and what was added and removed last."""

    revision: str
    title: str
    files: Mapping[str, bytes]
    added: Mapping[str, bytes]
    gone: tuple[str, ...]
    lie: str = ""


@dataclass
class Fault:
    """The next `times` calls named `call` go wrong, after `skip` good ones."""

    call: str
    kind: str
    times: int = 1
    skip: int = 0


@dataclass
class MemoryHub:
    """Repos as lists of commits."""

    clock: Clock
    repos: dict[str, list[Commit]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    down_until: float = 0.0
    refused: tuple[float, int, str] = (
        0.0,
        0,
        "",
    )  # until then, with that status, the calls of that name ("": all)
    troubled_at: float = -1e9  # when a call went wrong last
    token: str = ""

    # ---- for a test, without a client

    def put(self, repo: str, files: Mapping[str, bytes], title: str = "put") -> str:
        """Commit files."""
        return self._add(repo, files, (), title).revision

    def file(self, url: str) -> bytes | None:
        """What is at an address of the Hub's, if anything is."""
        repo, revision, path = re.fullmatch(
            r"https?://[^/]+/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url
        ).groups()  # type: ignore[union-attr]
        at = next(
            (c for c in reversed(self.repos.get(repo, ())) if revision in ("main", c.revision)),
            None,
        )
        return at.files.get(path) if at else None

    def head(self, repo: str) -> Commit:
        return self.repos[repo][-1]

    def pinned(self, repo: str) -> dict[str, PinnedFile]:
        """The newest files as Hub.tree shows them."""
        return tree_of(repo, self.head(repo)).files

    # ---- HfApi's part

    def repo_info(self, repo: str, **_: object) -> SimpleNamespace:
        return self._call("info", repo, lambda: self._info(repo))

    def list_repo_files(self, repo: str, **_: object) -> list[str]:
        return self._call("info", repo, lambda: list(self.head(repo).files))

    def auth_check(self, repo: str, **_: object) -> None:
        return self._call("info", repo, lambda: None)

    def create_commit(
        self,
        repo: str,
        operations: list[Any],
        *,
        commit_message: str,
        parent_commit: str | None = None,
        **_: object,
    ) -> SimpleNamespace:
        add = {
            o.path_in_repo: _bytes(o.path_or_fileobj)
            for o in operations
            if isinstance(o, CommitOperationAdd)
        }
        gone = [o.path_in_repo for o in operations if not isinstance(o, CommitOperationAdd)]
        checkpoint = any(path.endswith("/manifest.json") for path in add)
        return self._call(
            "commit",
            repo,
            lambda kind="": SimpleNamespace(
                oid=self._commit(repo, add, gone, commit_message, kind, parent_commit)
            ),
            lies=checkpoint,
        )

    # ---- the GET of Hub.read, and of a download

    def get(self, url: str, **_: object) -> SimpleNamespace:
        repo = "/".join(url.split("/")[3:5])

        def find() -> SimpleNamespace:
            data = self.file(url)
            return SimpleNamespace(
                status_code=404 if data is None else 200,
                content=data or b"",
                raise_for_status=lambda: None,
            )

        return self._call("get", repo, find)

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str]) -> Iterator[SimpleNamespace]:
        """A part of a file."""
        found = self.get(url)
        start, end = map(int, headers["Range"].removeprefix("bytes=").split("-"))

        def raise_for_status() -> None:
            if found.status_code != 200:
                raise EntryNotFoundError("no such file", response=_response(404))

        yield SimpleNamespace(
            status_code=206,
            raise_for_status=raise_for_status,
            iter_bytes=lambda *_: iter([found.content[start : end + 1]]),
            headers={},
        )

    # ---- inside

    def _call(self, name: str, repo: str, act: Callable[..., Any], lies: bool = False) -> Any:
        self.clock.sleep(BEFORE_S)
        if self.clock.now < self.down_until:
            self.troubled_at = self.clock.now
            raise httpx2.ConnectError(f"no route to the Hub with {self.token}")
        self._refuse(name, repo)
        kind = self._draw(name, lies)
        if kind in TROUBLE:
            TROUBLE[kind](repo)
        if repo not in self.repos:
            raise RepositoryNotFoundError("no such repo", response=_response(404))
        answer = act(kind) if kind in LIES else act()
        self.clock.sleep(ANSWER_S if kind == "drips" else AFTER_S)
        if kind == "drips":
            raise httpx2.ReadTimeout(f"no whole answer in {ANSWER_S:.0f} s")
        if kind == "lost":
            raise httpx2.ReadError("the answer was lost")
        read_date(_response(200, {"Date": formatdate(self.clock.now, usegmt=True)}))
        return answer

    def _refuse(self, name: str, repo: str) -> None:
        until, status, only = self.refused
        if self.clock.now >= until or only not in ("", name):
            return
        self.troubled_at = self.clock.now
        if status == 404:  # of a private repo to a token that it does not know
            raise RepositoryNotFoundError(
                f"no repo {repo}", response=_response(404, {"X-Error-Code": "RepoNotFound"})
            )
        _status(status)(repo)

    def _draw(self, name: str, lies: bool) -> str:
        for fault in self.faults:
            if fault.times and fault.call == name and (lies or fault.kind not in LIES):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.troubled_at = self.clock.now
                return fault.kind
        return ""

    def _info(self, repo: str) -> SimpleNamespace:
        tree = tree_of(repo, self.head(repo))
        siblings = [
            SimpleNamespace(
                rfilename=f.path,
                size=f.size,
                blob_id=f.git_sha1,
                lfs=SimpleNamespace(sha256=f.sha256) if f.sha256 else None,
            )
            for f in tree.files.values()
        ]
        return SimpleNamespace(sha=tree.revision, private=True, siblings=siblings)

    def _commit(
        self,
        repo: str,
        add: dict[str, bytes],
        gone: list[str],
        title: str,
        lie: str,
        parent: str | None,
    ) -> str:
        if parent and parent != self.head(repo).revision:
            _status(412)(repo)
        if missing := [path for path in gone if path not in self.head(repo).files]:
            raise EntryNotFoundError(f"no file {missing[0]}", response=_response(404))
        if lie == "nothing":
            return "f" * 40
        victim = (
            min(add) if lie else ""
        )  # meta_..., the manifest or the model, whichever comes first
        if lie == "other bytes":
            add = add | {victim: bytes(len(add[victim]))}
        elif lie == "one file less":
            add = {path: data for path, data in add.items() if path != victim}
        return self._add(repo, add, gone, title, lie).revision

    def _add(
        self, repo: str, add: Mapping[str, bytes], gone: Any, title: str, lie: str = ""
    ) -> Commit:
        commits = self.repos.setdefault(repo, [])
        files = {
            p: d for p, d in (commits[-1].files if commits else {}).items() if p not in gone
        } | dict(add)
        commits.append(
            Commit(f"{len(commits) + 1:040x}", title, files, dict(add), tuple(gone), lie)
        )
        return commits[-1]


def tree_of(repo: str, commit: Commit) -> Tree:
    """A commit as Hub.tree shows it."""
    return Tree(
        repo,
        "model",
        commit.revision,
        True,
        {path: _pin(path, data) for path, data in commit.files.items()},
    )


@lru_cache(maxsize=4096)
def _pin(path: str, data: bytes) -> PinnedFile:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return PinnedFile(
        path,
        len(data),
        hashlib.sha256(data).hexdigest() if is_lfs(path, len(data), data[:512]) else None,
        git,
    )


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else Path(content).read_bytes()


def _response(status: int, headers: dict[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(
        status, headers=headers, request=httpx2.Request("GET", "https://hub.invalid/")
    )


def _status(status: int, **headers: str) -> Callable[[str], None]:
    def refuse(repo: str) -> None:
        raise HfHubHTTPError(
            f"HTTP {status} for {repo}",
            response=_response(status, {k.replace("_", "-"): v for k, v in headers.items()}),
        )

    return refuse


def _reset(repo: str) -> None:
    raise httpx2.ReadError("the connection was reset")


def _page(repo: str) -> None:
    raise ValueError("Expecting value: line 1 column 1 (char 0)")


TROUBLE: dict[str, Callable[[str], None]] = {
    "503": _status(503),
    "429": _status(429, Retry_After="7"),
    "409": _status(409),
    "forbidden": _status(403),
    "reset": _reset,
    "page": _page,
}
