"""A checkpoint that counts: written whole or not at all, with a manifest that proves it.

Layout of a trainer's output folder (`out_dir`), one sub-folder a saved step:

    out_dir/step-000090/model_000090.pt, meta_000090.json, manifest.json

`save_whole` writes into a hidden temp folder, adds the manifest, fsyncs and renames: a kill at any
moment leaves the folder whole or absent, never half (a bare torch.save leaves a file that loaders pick).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
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
MOST_BYTES = 4 << 20  # of a manifest; one of a d20 takes 1 kB


@dataclass(frozen=True)
class FileEntry:
    """One file: bytes, sha256 (what the Hub shows for LFS files) and git blob sha1 (for small files)."""

    path: str
    size: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class Manifest:
    """What a phase made: the files of one step, and which run and phase they belong to."""

    run_id: str
    phase: str
    step: int
    files: tuple[FileEntry, ...]
    final: bool = True  # False: a state saved on the way, not the phase's result
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
                f"{where}: lists no files, one twice (but for its case), itself, or one of less than nothing"
            )
        if not 0 <= d["step"] < 10**9:
            raise BadAnswer(f"{where}: not the number of a step")
        return Manifest(d["run_id"], d["phase"], d["step"], files, d["final"], d["extra"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise BadAnswer(f"{where}: not a manifest ({type(e).__name__}: {str(e)[:200]})") from None


def plain_name(path: str) -> str:
    """`path` if it is a plain file name: no folder, no dot first or last, no drive; BadAnswer otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,198}[A-Za-z0-9_\-])?", path):
        raise BadAnswer(f"not a plain file name: {path[:80]!r}")
    return path


def hash_file(path: Path, plain: bool = False) -> FileEntry:
    """Size and both hashes of a file, in one pass; OSError if it must be a `plain` one and is a link or worse."""
    with open_regular(path) if plain else open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while block := f.read(CHUNK):
            sha256.update(block)
            git.update(block)
    return FileEntry(path.name, size, sha256.hexdigest(), git.hexdigest())


def hash_bytes(name: str, data: bytes) -> FileEntry:
    """The same of bytes in memory."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return FileEntry(name, len(data), hashlib.sha256(data).hexdigest(), git.hexdigest())


def save_whole(
    out_dir: Path,
    step: int,
    write: Callable[[Path], None],
    *,
    run_id: str,
    phase: str,
    final: bool = True,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Call `write(folder)` to write the files of `step`; return out_dir/step-NNNNNN, whole and durable."""
    out_dir.mkdir(parents=True, exist_ok=True)
    target, temp, old = (
        out_dir / name
        for name in (f"step-{step:06d}", f".saving-{step:06d}", f".saving-{step:06d}-old")
    )
    # of a save that was killed: one process at a time writes here
    for left in entries_of(out_dir, ".saving-*"):
        shutil.rmtree(left)
    temp.mkdir()
    try:
        write(temp)
        files = tuple(hash_file(p) for p in sorted(temp.iterdir()))
        manifest = Manifest(run_id, phase, step, files, final, extra or {})
        (temp / MANIFEST).write_text(manifest.to_json())
        for p in [*temp.iterdir(), temp]:
            _fsync(p)
        if target.exists():  # the same step again: removed when the new one is in its place; a kill just here loses both
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
    """The files of a saved step under a second name, for as long as it is wanted: whoever saved it may remove it."""
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    try:
        for p in folder.iterdir():
            os.link(p, at / p.name, follow_symlinks=False)
        yield at
    finally:
        shutil.rmtree(at, ignore_errors=True)


def read_whole(folder: Path) -> Manifest:
    """The manifest of a saved step, after every file's size and sha256 matched it; BadAnswer if not, OSError when the machine is
    SHORT of what it takes to look."""
    try:
        manifest = parse_manifest(
            read_regular(folder / MANIFEST, MOST_BYTES), str(folder / MANIFEST)
        )
        for want in manifest.files:
            if hash_file(folder / want.path, plain=True) != want:
                raise BadAnswer(
                    f"{folder / want.path} does not match its manifest: damaged or half written"
                )
    except OSError as e:
        if e.errno in SHORT:
            raise
        raise BadAnswer(f"{folder}: not a whole checkpoint ({e.strerror}: {e.filename})") from None
    return manifest


def whole_steps(out_dir: Path) -> Iterator[tuple[Path, Manifest]]:
    """Every whole saved step of `out_dir`, newest first; damaged ones are passed over."""
    for folder in sorted(entries_of(out_dir, "step-*"), key=_step_of, reverse=True):
        try:
            yield folder, read_whole(folder)
        except BadAnswer:
            continue


def _step_of(folder: Path) -> int:
    """By number: a step of seven digits comes after 999999."""
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def newest_whole(
    out_dir: Path, phase: str | None = None, *, final: bool | None = None
) -> tuple[Path, Manifest] | None:
    """The newest whole step (of `phase`, and final or not, if given), or None."""
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
