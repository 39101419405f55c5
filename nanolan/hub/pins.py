"""Pins what a run reads from the Hub: checkpoints and data sets, by revision, size and hash."""

from __future__ import annotations

import fnmatch

from nanolan.checkpoint.architecture import MODEL_FILE, newest_step
from nanolan.checkpoint.manifest import MANIFEST, Manifest, parse_manifest
from nanolan.errors import (
    BadAnswer,
    NotFound,
    PreflightFailed,
)
from nanolan.hub.client import Hub, Tree
from nanolan.hub.input_check import (
    InputFacts,
    inspect_checkpoint,
    inspect_datasets,
    model_in,
)
from nanolan.hub.proof import prove
from nanolan.phases import REVISIONS, kind_of
from nanolan.plan import Pinned
from nanolan.settings.settings import TABLE, Settings


def pin_checkpoint(
    hub: Hub, tree: Tree, folder: str, *, own: bool = True, named: bool = False
) -> tuple[Pinned, InputFacts]:
    """Pin and check the checkpoint in `folder`: by its manifest if it has one, else its newest step.

    `own`: nanolan's trainer has to read it, so its architecture is checked, too. `named`: by the user, with init=.
    """
    if folder and not tree.under(folder):
        raise PreflightFailed(f"{tree.repo} has no {folder}/. {how_to_get(tree, folder, named)}")
    pin = (
        _by_manifest(hub, tree, folder)
        if folder and f"{folder}/{MANIFEST}" in tree.files
        else _newest_by_hand(tree, folder)
    )
    return pin, inspect_checkpoint(hub, pin, *model_in(pin), own=own)


def how_to_get(tree: Tree, folder: str, named: bool) -> str:
    """What to type when a repo lacks a folder: the upload that makes it, or a folder of models that is there."""
    tag = folder.partition("/")[2]
    if not named:
        usual = tag in ("", TABLE["model_tag"]["default"])
        return f"Upload it: just upload {kind_of(folder)}" + ("" if usual else f" model-tag={tag}")
    models = sorted(
        {p.rpartition("/")[0] for p in tree.files if MODEL_FILE.fullmatch(p.split("/")[-1])}
    )
    if not models:
        return "No folder of it holds a model_SSSSSS.pt: give another repo, init=OWNER/REPO:FOLDER"
    return f"Models are in {', '.join(m or 'its root' for m in models[:3])}: init={tree.repo}:{models[0]}"


def read_manifest(hub: Hub, tree: Tree, folder: str) -> Manifest:
    """The manifest in a folder; NotFound if there is none."""
    return parse_manifest(
        hub.read(tree.repo, f"{folder}/{MANIFEST}", revision=tree.revision), f"{folder}/{MANIFEST}"
    )


def _by_manifest(hub: Hub, tree: Tree, folder: str) -> Pinned:
    manifest = read_manifest(hub, tree, folder)
    try:
        prove(tree, folder, manifest)
    except BadAnswer as e:
        raise PreflightFailed(
            f"{folder} is not complete: {e}. Upload it again, or: just verify --adopt {folder}"
        ) from None
    names = [f"{folder}/{f.path}" for f in manifest.files if not f.path.startswith("optim_")]
    if not any(MODEL_FILE.fullmatch(f.path) for f in manifest.files):
        raise PreflightFailed(
            f"the manifest of {tree.repo}/{folder} lists no model_SSSSSS.pt: it is not a nanochat checkpoint"
        )
    return tree.pin([*names, f"{folder}/{MANIFEST}"], proven=True)


def _newest_by_hand(tree: Tree, folder: str) -> Pinned:
    """Pin the newest step. A step with a model but no meta (its save was killed) is refused; the error names the step before it."""
    names = [p.removeprefix(f"{folder}/") for p in (tree.under(folder) if folder else tree.files)]
    newest = newest_step(
        names, f"{tree.repo}/{folder}", f"just hf repos delete-files {tree.repo} {folder}/"
    )
    if newest is None:
        raise PreflightFailed(
            f"{tree.repo}/{folder} holds no model_SSSSSS.pt: it is not a nanochat checkpoint"
        )
    return tree.pin(f"{folder}/{name}" if folder else name for name in newest)


def data_tree(hub: Hub, repo: str) -> Tree:
    """A data set repo at its known revision, or at its newest if the Hub no longer has that one."""
    try:
        return hub.tree(repo, "dataset", REVISIONS.get(repo))
    except NotFound:
        return hub.tree(repo, "dataset")


def pin_dataset(hub: Hub, repo: str, globs: list[str]) -> Pinned:
    """Pin the files of a data set repo that match, and check that they have the columns that training reads."""
    tree = data_tree(hub, repo)
    paths: set[str] = set()
    for glob in globs:
        hits = fnmatch.filter(tree.files, glob)
        if not hits:
            raise PreflightFailed(
                f"data set {tree.repo} has no {glob}: its layout changed; nothing was rented"
            )
        paths.update(hits)
    pinned = tree.pin(paths)
    inspect_datasets(hub, [pinned])
    return pinned


def what_is_lost(hub: Hub, pin: Pinned) -> str:
    """What the Hub no longer has of a pin, or ""; ApiProblem if the Hub cannot say."""
    try:
        tree = hub.tree(pin.repo, pin.kind, revision=pin.revision)
    except NotFound:
        return f"{pin.repo} has lost revision {pin.revision[:8]}"
    gone = [f.path for f in pin.files if tree.files.get(f.path) != f]
    return f"{pin.repo} at {pin.revision[:8]} has lost the pinned {gone[0]}" if gone else ""


READ_IDENTITY = {"mid", "sft"}  # phases


def reads_identity(settings: Settings) -> bool:
    """Whether a phase of these settings reads the identity conversations, if they exist."""
    return not settings.no_identity and bool(READ_IDENTITY & set(settings.phases))
