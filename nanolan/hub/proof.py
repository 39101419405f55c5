"""Proves an upload: `prove` compares every size and hash of a manifest with what the Hub reports at a revision.

A `Warrant` is the reason to delete an instance: the work is proven, or it says why not. nanolan/box/self_delete.py requires one
before it deletes, and refuses one that does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanolan.checkpoint.manifest import MANIFEST, FileEntry, Manifest
from nanolan.errors import BadAnswer, NotFound
from nanolan.hub.client import TAIL, Hub, Tree
from nanolan.plan import PinnedFile


@dataclass(frozen=True)
class Proof:
    """Every file of a manifest is on the Hub at `revision`, with its size and hash."""

    repo: str
    folder: str
    revision: str
    manifest: Manifest


@dataclass(frozen=True)
class Proven:
    """The result of every phase of the plan is proven."""

    proofs: tuple[Proof, ...]

    def __str__(self) -> str:
        saved = ", ".join(f"{p.folder} step {p.manifest.step}" for p in self.proofs)
        return f"everything is proven on the Hub: {saved}"


@dataclass(frozen=True)
class NothingToSave:
    """There is no complete checkpoint that is not on the Hub already; `reason` says why the run ended."""

    reason: str

    def __str__(self) -> str:
        return f"nothing is left to save ({self.reason})"


@dataclass(frozen=True)
class MoneyStop:
    """The money or time for saving is used up; `lost` names the complete work here that could not be saved."""

    reason: str
    lost: str

    def __str__(self) -> str:
        return f"the money or time for saving is used up, {self.lost} is lost"


@dataclass(frozen=True)
class UserStop:
    """The user asked to stop."""

    reason: str = "asked for by the user"

    def __str__(self) -> str:
        return f"stopped, {self.reason}"


Warrant = Proven | NothingToSave | MoneyStop | UserStop


def prove(tree: Tree, folder: str, manifest: Manifest, written: FileEntry | None = None) -> Proof:
    """Prove that `tree` holds every file of the manifest under `folder`; BadAnswer names the first file that differs.

    `written` is the manifest's own file: pass it after sending the manifest, not after reading it from the Hub.
    """
    for want in (*manifest.files, *([written] if written else ())):
        path = f"{folder}/{want.path}"
        have = tree.files.get(path)
        if have is None:
            raise BadAnswer(f"{tree.repo}: {path} is missing")
        if not matches(have, want):
            raise BadAnswer(
                f"{tree.repo}: {path} differs from its manifest "
                f"({have.size} bytes, should be {want.size}, or other content)"
            )
    if f"{folder}/{MANIFEST}" not in tree.files:
        raise BadAnswer(f"{tree.repo}: {folder}/{MANIFEST} is missing")
    return Proof(tree.repo, folder, tree.revision, manifest)


def check_served(hub: Hub, proof: Proof, folder: Path, tree: Tree) -> None:
    """BadAnswer unless the Hub sends the last bytes of each large file as they are in `folder`: a list is not the content.

    Of a server that sends no parts nothing is required; NanolanError if it does not answer."""
    for want in proof.manifest.files:
        path = f"{proof.folder}/{want.path}"
        if not tree.files[path].sha256 or not want.size:  # small ones are in the commit itself
            continue
        try:
            sent = hub.tail(proof.repo, path, want.size, proof.revision)
        except NotFound as e:
            raise BadAnswer(
                f"{proof.repo}: {path} is listed, but its content is not there: {e}"
            ) from None
        if sent is not None and sent != tail_of(folder / want.path):
            raise BadAnswer(f"{proof.repo}: {path} is sent with other content than was uploaded")


def tail_of(path: Path) -> bytes:
    """The last bytes of a file, at most TAIL."""
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - TAIL))
        return f.read(TAIL)


def matches(have: PinnedFile, want: FileEntry) -> bool:
    """Whether the size and hash that the Hub reports (LFS sha256, or git blob sha1) equal those of the manifest."""
    known, wanted = (have.sha256, want.sha256) if have.sha256 else (have.git_sha1, want.git_sha1)
    return bool(wanted) and known == wanted and have.size == want.size
