"""Downloads a proven checkpoint and its tokenizer to the folders where nanochat's tools look for them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import structs

from nanolan.checkpoint.manifest import Manifest, hash_file
from nanolan.errors import NotFound, PreflightFailed
from nanolan.files import entries_of
from nanolan.hub.client import Hub, Tree
from nanolan.hub.download import fetch, is_downloaded
from nanolan.hub.layout import proven
from nanolan.phases import PHASES
from nanolan.settings.paths import typed

PATIENCE_S = 300.0
BASE, BASE_DIR = "base", PHASES["mid"].input_dir


def newest_phase(tree: Tree, tag: str) -> str:
    """The latest phase that has a checkpoint in the repo; NotFound if none has."""
    for phase in reversed(PHASES.values()):
        if tree.under(f"{phase.output_dir}/{tag}"):
            return phase.name
    raise NotFound(
        f"{tree.repo} has no trained checkpoint of {tag} yet. Train one: just launch phase=sft"
    )


def folder_of(phase: str, tag: str) -> str:
    """The folder in HF_REPO of a phase's result, or of the base checkpoint."""
    return f"{BASE_DIR if phase == BASE else PHASES[phase].output_dir}/{tag}"


def pull(
    hub: Hub,
    repo: str,
    phase: str,
    tag: str,
    base: Path,
    say: Callable[[str], None],
) -> Path:
    """Download the proven checkpoint of `phase` (or "base") and the tokenizer under `base`; returns the checkpoint's folder.

    What `base` holds already, by size and hash, is not downloaded again; an interrupted download continues.
    """
    if hub.token is None:
        raise PreflightFailed("HF_TOKEN is not set")
    folder = folder_of(phase, tag)
    tree = hub.tree(repo)
    proof = proven(hub, tree, folder)
    tokenizer = [
        p for p in ("tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt") if p in tree.files
    ]
    if len(tokenizer) < 2:
        raise NotFound(f"{repo} has no complete tokenizer/ (tokenizer.pkl and token_bytes.pt)")
    names = {f.path for f in proof.manifest.files if not f.path.startswith("optim_")}
    has_model = (base / folder).exists() and holds(base / folder, proof.manifest, names)
    if has_model:
        say(f"{base / folder} holds this checkpoint already")
    wanted = tree.pin([*(f"{folder}/{n}" for n in names if not has_model), *tokenizer])
    wanted = structs.replace(
        wanted, files=tuple(f for f in wanted.files if not is_downloaded(base / f.path, f))
    )
    base.mkdir(parents=True, exist_ok=True)
    # on the same disk, so that the files can be renamed into place; kept when interrupted
    temp = base / f".pull-{tree.revision[:12]}"
    if wanted.files:
        fetch(
            wanted,
            temp,
            hub.endpoint,
            hub.token,
            give_up=lambda: "",
            say=say,
            patience_s=PATIENCE_S,
            what=f"{phase} {tag}",
        )
    if not has_model:
        keep_held(proof.manifest, names, base / folder, temp / folder)
        place(proof.manifest, temp / folder, base / folder, say)
    for path in tokenizer:
        if (temp / path).is_file():
            (base / path).parent.mkdir(exist_ok=True)
            (temp / path).replace(base / path)
    shutil.rmtree(temp, ignore_errors=True)
    return base / folder


def keep_held(manifest: Manifest, names: set[str], held: Path, target: Path) -> None:
    """Link or copy the files that `held` has already to `target`, which was given the others."""
    target.mkdir(parents=True, exist_ok=True)
    for f in manifest.files:
        if f.path in names and not (target / f.path).is_file() and (held / f.path).is_file():
            shutil.copyfile(held / f.path, target / f.path)


def base_dir(environ: Mapping[str, str]) -> Path:
    """NANOCHAT_BASE_DIR, or nanochat's default."""
    return typed(environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache/nanochat", environ)


def place(manifest: Manifest, source: Path, target: Path, say: Callable[[str], None]) -> None:
    """Rename the manifest's files from `source`, on the same disk, into `target`; other content of `target` is moved aside."""
    names = {f.path for f in manifest.files if not f.path.startswith("optim_")}
    if target.exists():
        if holds(target, manifest, names):
            say(f"{target} holds this checkpoint already")
            return
        aside = target.with_name(f"before-{manifest.run_id}-{time.time_ns()}-{target.name}")
        target.replace(aside)
        say(f"moved the old content of {target} to {aside}")
    temp = target.with_name(f".placing-{time.time_ns()}")
    temp.mkdir(parents=True)
    for name in names:
        (source / name).replace(temp / name)
    temp.replace(target)


def holds(folder: Path, manifest: Manifest, names: set[str]) -> bool:
    """Whether a folder holds these files of the manifest, and no other model."""
    same = all(
        (folder / f.path).is_file() and hash_file(folder / f.path) == f
        for f in manifest.files
        if f.path in names
    )
    return same and {p.name for p in entries_of(folder, "model_*.pt")} <= names
