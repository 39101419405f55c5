"""Checkpoints on the Hub that were uploaded by hand: check one against its manifest, or write one for it."""
from __future__ import annotations

import re

from nanolan.errors import PreflightFailed
from nanolan.hub import Hub, Tree
from nanolan.manifest import MANIFEST, FileEntry, Manifest, hash_bytes, parse_manifest
from nanolan.phases import FOLDERS
from nanolan.plan import PinnedFile, iso, now_utc
from nanolan.preflight import pin_checkpoint
from nanolan.proof import Proof, prove

BY_HAND = "00000000"    # the run id of what no run made


def verify(hub: Hub, repo: str, folder: str, tree: Tree | None = None) -> Proof:
    """A Proof that `folder` holds what its manifest says; PreflightFailed says what to do when there is none."""
    tree = tree or hub.tree(repo)
    if f"{folder}/{MANIFEST}" not in tree.files:
        raise PreflightFailed(f"{repo}/{folder} has no manifest: unproven. If it is what you mean to train from: "
                              f"just verify --adopt {folder}")
    manifest = parse_manifest(hub.read(repo, f"{folder}/{MANIFEST}", revision=tree.revision), f"{folder}/{MANIFEST}")
    return prove(tree, folder, manifest)


def adopt(hub: Hub, repo: str, folder: str) -> Proof:
    """Write the manifest of the newest step in `folder`, as it is on the Hub now, after the size check; then prove it."""
    tree = hub.tree(repo)
    if f"{folder}/{MANIFEST}" in tree.files:
        tree = _without_manifest(tree, f"{folder}/{MANIFEST}")
    pinned = pin_checkpoint(hub, tree, folder)
    entries = tuple(_entry(hub, tree, f) for f in pinned.files)
    step = int(re.sub(r"\D", "", next(e.path for e in entries if e.path.startswith("model_"))))
    manifest = Manifest(BY_HAND, FOLDERS.get(folder.split("/")[0], "base"), step, entries, extra={"adopted": iso(now_utc())})
    hub.commit(repo, {f"{folder}/{MANIFEST}": manifest.to_json().encode()}, f"adopt {folder} step {step}")
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
