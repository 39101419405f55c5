"""Checkpoints on the Hub that were uploaded by hand: check one against its manifest, or write one for it."""

from __future__ import annotations

import re

from nanolan.errors import PreflightFailed
from nanolan.hub import Hub, Tree
from nanolan.inside import (
    TOKENIZER,
    Inside,
    check_together,
    look_at_checkpoint,
    look_at_tokenizer,
    model_in,
)
from nanolan.manifest import MANIFEST, FileEntry, Manifest, hash_bytes
from nanolan.phases import FOLDERS
from nanolan.plan import Pinned, PinnedFile, iso, now_utc
from nanolan.preflight import pin_checkpoint, read_manifest
from nanolan.proof import Proof, prove

BY_HAND = "00000000"  # the run id of what no run made


def verify(hub: Hub, repo: str, folder: str) -> Proof:
    """A Proof that `folder` holds what its manifest says; BadAnswer when that could not be trained from."""
    tree = hub.tree(repo)
    proof = proven(hub, tree, folder)
    _check_content(
        hub,
        tree,
        folder,
        look_at_checkpoint(hub, tree, *model_in(_pin(tree, folder, proof.manifest))),
    )
    return proof


def _pin(tree: Tree, folder: str, manifest: Manifest) -> Pinned:
    return tree.pin(f"{folder}/{f.path}" for f in manifest.files)


def _check_content(hub: Hub, tree: Tree, folder: str, checkpoint: Inside) -> None:
    """BadAnswer unless the repo's tokenizer, if it has one, fits the checkpoint."""
    if TOKENIZER in tree.files:
        tokenizer = look_at_tokenizer(hub, tree, tree.under("tokenizer").values())
        check_together(checkpoint, tokenizer, folder)


def proven(hub: Hub, tree: Tree, folder: str) -> Proof:
    """A Proof that `folder` holds what its manifest says; PreflightFailed says what to do when there is none."""
    repo = tree.repo
    if f"{folder}/{MANIFEST}" not in tree.files:
        raise PreflightFailed(
            f"{repo}/{folder} has no manifest: unproven. If it is what you mean to train from: "
            f"just verify --adopt {folder}"
        )
    manifest = read_manifest(hub, tree, folder)
    return prove(tree, folder, manifest)


def adopt(hub: Hub, repo: str, folder: str) -> Proof:
    """Write the manifest of the newest step in `folder`, as it is on the Hub now, after the size check; then prove it."""
    tree = hub.tree(repo)
    if f"{folder}/{MANIFEST}" in tree.files:
        tree = _without_manifest(tree, f"{folder}/{MANIFEST}")
    pinned, inside = pin_checkpoint(hub, tree, folder)
    _check_content(hub, tree, folder, inside)
    entries = tuple(_entry(hub, tree, f) for f in pinned.files)
    step = int(re.sub(r"\D", "", next(e.path for e in entries if e.path.startswith("model_"))))
    manifest = Manifest(
        BY_HAND,
        FOLDERS.get(folder.split("/")[0], "base"),
        step,
        entries,
        extra={"adopted": iso(now_utc())},
    )
    hub.commit(
        repo, {f"{folder}/{MANIFEST}": manifest.to_json().encode()}, f"adopt {folder} step {step}"
    )
    return prove(hub.tree(repo), folder, manifest)


def _entry(hub: Hub, tree: Tree, f: PinnedFile) -> FileEntry:
    """The Hub knows the sha256 of LFS files; small ones are read and hashed."""
    name = f.path.rsplit("/", 1)[-1]
    if f.sha256:
        return FileEntry(name, f.size, f.sha256, "")
    return hash_bytes(name, hub.read(tree.repo, f.path, revision=tree.revision))


def _without_manifest(tree: Tree, path: str) -> Tree:
    from dataclasses import replace

    return replace(tree, files={p: f for p, f in tree.files.items() if p != path})
