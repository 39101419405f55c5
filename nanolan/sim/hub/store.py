"""The local Hub's storage: plain files that survive a restart and can be inspected.

    objects/<sha256>                    every file's bytes, content-addressed
    repos/<type>s--<owner>--<name>.json   commits, branches, tags, visibility
    xet/                                files stored by hf-xet, a folder per upload (only with Xet on)
    tmp/                                incomplete uploads; emptied at the start

All writes are atomic (temporary file, then rename): a kill never leaves half a file. One server per folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from nanolan.sim.hub.repo import Blob, Refusal, Repo, git_oid, is_lfs, lfs_blob
from nanolan.sim.hub.xet import XetStorage

CHUNK = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
SAMPLE = 512  # bytes that decide whether a file is text, as many as clients send


class Store:
    """Objects and repositories under one folder."""

    def __init__(self, root: Path, xet: bool = False) -> None:
        self.root = root
        self.objects, self.repos, self.temp = root / "objects", root / "repos", root / "tmp"
        shutil.rmtree(self.temp, ignore_errors=True)
        for folder in (self.objects, self.repos, self.temp):
            folder.mkdir(parents=True, exist_ok=True)
        self.xet = XetStorage(root / "xet", self.temp) if xet else None
        self.lock = threading.RLock()  # held over every read-change-write of a repository
        # as last read, and for which state of the file
        self._decoded: dict[Path, tuple[object, Repo]] = {}

    def size_of(self, sha256: str) -> int | None:
        """The size of the object in bytes; None if it is not stored."""
        path = self._object_path(sha256)
        if path.exists():
            return path.stat().st_size
        in_xet = self.xet and self.xet.find(sha256)
        return in_xet.size if in_xet else None

    def object(self, sha256: str) -> Path:
        """The path of an object (the file may not exist); first extracts it if only Xet storage has it."""
        path = self._object_path(sha256)
        if self.xet and not path.exists():
            file = self.xet.find(sha256)
            if file:
                with tempfile.TemporaryDirectory(dir=self.temp) as folder:
                    self.xet.extract(file, Path(folder, "file"))
                    self.put(read_chunks(Path(folder, "file")), sha256)
        return path

    def put(
        self, chunks: Iterable[bytes], sha256: str | None = None, size: int | None = None
    ) -> tuple[str, int]:
        """Store a stream, return (sha256, bytes); 400 if hash or size differ from those given. A broken stream leaves nothing."""
        fd, temp = tempfile.mkstemp(dir=self.temp)
        digest, n = hashlib.sha256(), 0
        try:
            with os.fdopen(fd, "wb") as f:
                for chunk in chunks:
                    digest.update(chunk)
                    n += f.write(chunk)
            got = digest.hexdigest()
            if sha256 not in (None, got) or size not in (None, n):
                raise Refusal(
                    400, f"uploaded object is {got} ({n} bytes), expected {sha256} ({size})"
                )
            Path(temp).replace(self.objects / got)
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
        return got, n

    def add(self, path: str, content: bytes | Path) -> Blob:
        """Store one file's content and return its Blob for `path` in a repository (LFS by the Hub's rule)."""
        if isinstance(content, bytes):
            sha256, size = self.put([content])
            sample = content[:SAMPLE]
        else:
            sha256, size = self.put(read_chunks(content))
            with open(content, "rb") as f:
                sample = f.read(SAMPLE)
        if is_lfs(path, size, sample):
            return lfs_blob(sha256, size)
        return Blob(git_oid(self.object(sha256).read_bytes()), size, sha256)

    def load(self, typ: str, repo_id: str) -> Repo | None:
        """The repository, or None."""
        try:
            return self._read(self._file(typ, repo_id))
        except FileNotFoundError:
            return None

    def spelled(self, typ: str, repo_id: str) -> str:
        """The repository's name as it was created; names are equal without regard to case. "" if there is none."""
        wanted = self._file(typ, repo_id).name.lower()
        same = (path for path in self.repos.glob("*.json") if path.name.lower() == wanted)
        found = next(same, None)
        return found.stem.removeprefix(f"{typ}s--").replace("--", "/") if found else ""

    def save(self, repo: Repo) -> None:
        """Replace the repository's file."""
        path = self._file(repo.typ, repo.id)
        temp = self.temp / path.name
        temp.write_bytes(msgspec.json.encode(repo))
        temp.replace(path)

    def delete(self, typ: str, repo_id: str) -> None:
        """Delete the repository; its objects stay."""
        self._file(typ, repo_id).unlink()

    def all(self) -> Iterator[Repo]:
        """Every repository, by name."""
        for path in sorted(self.repos.glob("*.json")):
            yield self._read(path)

    def _read(self, path: Path) -> Repo:
        """A copy of the repository that may be changed; its commits are shared, and stay as they are."""
        found = path.stat()
        state = found.st_ino, found.st_size, found.st_mtime_ns
        if path not in self._decoded or self._decoded[path][0] != state:
            self._decoded[path] = state, msgspec.json.decode(path.read_bytes(), type=Repo)
        repo = self._decoded[path][1]
        return replace(repo, refs=dict(repo.refs), tags=dict(repo.tags), commits=dict(repo.commits))

    def _object_path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise Refusal(400, f"not a sha256: {sha256[:80]!r}")
        return self.objects / sha256

    def _file(self, typ: str, repo_id: str) -> Path:
        # unambiguous: names never contain "--"
        return self.repos / f"{typ}s--{repo_id.replace('/', '--')}.json"


def read_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a chunk at a time."""
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            yield chunk
