"""Downloads a proven checkpoint and its tokenizer to the folders where nanochat's tools look for them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nanolan.checkpoint.manifest import Manifest, hash_file
from nanolan.errors import NotFound, PreflightFailed
from nanolan.files import entries_of
from nanolan.hub.client import Hub, Tree
from nanolan.hub.download import fetch
from nanolan.hub.layout import proven
from nanolan.phases import PHASES
from nanolan.settings.paths import typed

PATIENCE_S = 300.0


def newest_phase(tree: Tree, tag: str) -> str:
    """The latest phase that has a checkpoint in the repo; NotFound if none has."""
    for phase in reversed(PHASES.values()):
        if tree.under(f"{phase.output_dir}/{tag}"):
            return phase.name
    raise NotFound(
        f"{tree.repo} has no trained checkpoint of {tag} yet. Train one: just launch phase=sft"
    )


def pull(hub: Hub, repo: str, phase: str, tag: str, base: Path, say: Callable[[str], None]) -> Path:
    """Download the proven checkpoint of `phase` and the tokenizer under `base`; returns the checkpoint's folder."""
    if hub.token is None:
        raise PreflightFailed("HF_TOKEN is not set")
    folder = f"{PHASES[phase].output_dir}/{tag}"
    tree = hub.tree(repo)
    proof = proven(hub, tree, folder)
    tokenizer = [
        p for p in ("tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt") if p in tree.files
    ]
    if len(tokenizer) < 2:
        raise NotFound(f"{repo} has no complete tokenizer/ (tokenizer.pkl and token_bytes.pt)")
    names = [f"{folder}/{f.path}" for f in proof.manifest.files if not f.path.startswith("optim_")]
    base.mkdir(parents=True, exist_ok=True)
    # on the same disk, so that the files can be renamed into place
    with tempfile.TemporaryDirectory(dir=base, prefix=".pull-") as temp:
        fetch(
            tree.pin([*names, *tokenizer]),
            Path(temp),
            hub.endpoint,
            hub.token,
            give_up=lambda: "",
            say=say,
            patience_s=PATIENCE_S,
        )
        place(proof.manifest, Path(temp) / folder, base / folder, say)
        for path in tokenizer:
            (base / path).parent.mkdir(exist_ok=True)
            (Path(temp) / path).replace(base / path)
    return base / folder


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
