"""Saves checkpoints atomically, with a manifest of sizes and hashes, and checks them.

Layout of a trainer's output folder (`out_dir`), one sub-folder per saved step:

    out_dir/step-000090/model_000090.pt, meta_000090.json, manifest.json

`save_whole` writes into a hidden temp folder, adds the manifest, fsyncs and renames: a kill at any moment leaves a
complete folder or none (after a plain torch.save, loaders would pick a partial file).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanolan.checkpoint.file_kind import mistaken_for
from nanolan.errors import BadAnswer
from nanolan.files import SHORT, entries_of, open_regular, read_regular

MANIFEST = "manifest.json"
VERSION = 1
KINDS = {"run_id": str, "phase": str, "step": int, "final": bool, "extra": dict}
FILE_KINDS = {"path": str, "size": int, "sha256": str, "git_sha1": str}
CHUNK = 1 << 20
MOST_BYTES = 4 << 20  # of a manifest; that of a d20 takes 1 kB


@dataclass(frozen=True)
class FileEntry:
    """One file: size in bytes, sha256 (the Hub reports it for LFS files) and git blob sha1 (for small files)."""

    path: str
    size: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class Manifest:
    """The files of one checkpoint, and the run, phase and step that they belong to."""

    run_id: str
    phase: str
    step: int
    files: tuple[FileEntry, ...]
    final: bool = True  # False: an intermediate state, not the phase's result
    extra: dict[str, Any] = field(default_factory=dict)  # e.g. loss_start, loss_end
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


def parse_manifest(text: str | bytes, where: str = MANIFEST) -> Manifest:
    """A Manifest from JSON text; BadAnswer names what is wrong with it."""
    if what := mistaken_for(text.encode() if isinstance(text, str) else text):
        raise BadAnswer(f"{where} is {what}")
    try:
        d = json.loads(text)
        if d["version"] != VERSION:
            raise BadAnswer(
                f"{where}: version {str(d['version'])[:40]!r}, this nanolan reads {VERSION}"
            )
        parts = [(d, KINDS), *((f, FILE_KINDS) for f in d["files"])]
        if wrong := [
            name
            for part, kinds in parts
            for name, kind in kinds.items()
            if type(part[name]) is not kind
        ]:
            raise BadAnswer(f"{where}: {wrong[0]} is not of its type")
        files = tuple(FileEntry(**{name: f[name] for name in FILE_KINDS}) for f in d["files"])
        names = {plain_name(f.path).lower() for f in files} - {MANIFEST}
        if not names or len(names) != len(files) or min(f.size for f in files) < 0:
            raise BadAnswer(
                f"{where}: lists no files, a duplicate name (ignoring case), its own name, or a negative size"
            )
        if not 0 <= d["step"] < 10**9:
            raise BadAnswer(f"{where}: invalid step number")
        return Manifest(d["run_id"], d["phase"], d["step"], files, d["final"], d["extra"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise BadAnswer(f"{where}: not a manifest ({type(e).__name__}: {str(e)[:200]})") from None


def plain_name(path: str) -> str:
    """Return `path` if it is a plain file name: no folder, no dot first or last, no drive; BadAnswer otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,198}[A-Za-z0-9_\-])?", path):
        raise BadAnswer(f"not a plain file name: {path[:80]!r}")
    return path


def hash_file(path: Path, plain: bool = False) -> FileEntry:
    """Size and both hashes of a file, in one pass. With `plain`, OSError unless it is a regular file."""
    with open_regular(path) if plain else open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := f.read(CHUNK):
            sha256.update(block)
            git.update(block)
    return FileEntry(path.name, size, sha256.hexdigest(), git.hexdigest())


def hash_bytes(name: str, data: bytes) -> FileEntry:
    """Size and both hashes of bytes in memory."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest(), git.hexdigest())


class Cancelled(Exception):
    """A write was given up on request."""


class HashedFile:
    """A new file, written from its beginning to its end and hashed in the same pass; synced to disk when closed.

    git's hash begins with the size: if the `size` given beforehand was wrong, `entry` reads the file once more.
    Raises Cancelled from the next write on once `cancelled()` is true.
    """

    def __init__(
        self, path: Path, size: int, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._path, self._expected, self._cancelled = path, size, cancelled
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._size = 0
        self.problem: Exception | None = None  # of the first write that failed
        self._file = open(path, "xb")  # noqa: SIM115

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        try:
            for at in range(0, len(view), CHUNK):
                self._block(view[at : at + CHUNK])
        except (OSError, Cancelled) as e:
            self.problem = self.problem or e
            raise
        return len(view)

    def _block(self, block: memoryview) -> None:
        """Hash a block twice while the CPU's cache has it, and write it."""
        if self._cancelled():
            raise Cancelled(self._path.name)
        self._sha256.update(block)
        self._git.update(block)
        self._file.write(block)
        self._size += len(block)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Write what is buffered and sync it; OSError when the disk does not take it."""
        if self._file.closed:
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def entry(self) -> FileEntry:
        """Size and both hashes of the closed file."""
        if self._size != self._expected:
            return hash_file(self._path)
        return FileEntry(
            self._path.name, self._size, self._sha256.hexdigest(), self._git.hexdigest()
        )


def save_whole(
    out_dir: Path,
    step: int,
    write: Callable[[Path], Iterable[FileEntry] | None],
    *,
    run_id: str,
    phase: str,
    final: bool = True,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Call `write(folder)` to write the files of `step`; returns out_dir/step-NNNNNN, complete and synced to disk.

    Files whose entries `write` returns are not read again to be hashed.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    target, temp, old = (
        out_dir / name
        for name in (f"step-{step:06d}", f".saving-{step:06d}", f".saving-{step:06d}-old")
    )
    # left by a killed save; only one process writes here
    for left in entries_of(out_dir, ".saving-*"):
        shutil.rmtree(left)
    temp.mkdir()
    try:
        known = {f.path: f for f in write(temp) or ()}
        files = tuple(known.get(p.name) or hash_file(p) for p in sorted(temp.iterdir()))
        manifest = Manifest(run_id, phase, step, files, final, extra or {})
        (temp / MANIFEST).write_text(manifest.to_json())
        for p in [*temp.iterdir(), temp]:
            _fsync(p)
        # the same step again: the old one is removed after the rename; a kill between the two renames loses both
        if target.exists():
            target.replace(old)
        temp.replace(target)
        _fsync(out_dir)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return target


@contextmanager
def borrow(folder: Path, at: Path) -> Iterator[Path]:
    """Hard links to the files of a saved step, until the context ends: the trainer may remove the step meanwhile."""
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    try:
        for p in folder.iterdir():
            os.link(p, at / p.name, follow_symlinks=False)
        yield at
    finally:
        shutil.rmtree(at, ignore_errors=True)


def read_whole(folder: Path) -> Manifest:
    """The manifest of a saved step, after checking every file; BadAnswer if one differs, OSError if a resource is SHORT."""
    try:
        manifest = parse_manifest(
            read_regular(folder / MANIFEST, MOST_BYTES), str(folder / MANIFEST)
        )
        for want in manifest.files:
            if hash_file(folder / want.path, plain=True) != want:
                raise BadAnswer(
                    f"{folder / want.path} does not match its manifest: damaged or partly written"
                )
    except OSError as e:
        if e.errno in SHORT:
            raise
        raise BadAnswer(
            f"{folder}: not a complete checkpoint ({e.strerror}: {e.filename})"
        ) from None
    return manifest


def whole_steps(
    out_dir: Path, damaged: Callable[[Path, BadAnswer], object] = lambda folder, problem: None
) -> Iterator[tuple[Path, Manifest]]:
    """Every complete saved step of `out_dir`, newest first; damaged ones are skipped, and `damaged` is called."""
    for folder in sorted(entries_of(out_dir, "step-*"), key=_step_of, reverse=True):
        try:
            manifest = read_whole(folder)
        except BadAnswer as e:
            damaged(folder, e)
            continue
        yield folder, manifest


def _step_of(folder: Path) -> int:
    """The step number in the folder's name: sorts seven digits after 999999."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def newest_whole(
    out_dir: Path, phase: str | None = None, *, final: bool | None = None
) -> tuple[Path, Manifest] | None:
    """The newest complete step (of `phase`, and final or not, if given), or None."""
    for folder, m in whole_steps(out_dir):
        if phase in (None, m.phase) and final in (None, m.final):
            return folder, m
    return None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
