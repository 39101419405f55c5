"""NANOCHAT_BASE_DIR: where nanochat's own tools look for checkpoints, tokenizer and data.

nanochat takes the largest step of a folder; so a folder that holds another checkpoint is moved aside, never
mixed and never lost. The name it gets does not begin with "d", or nanochat could take it for a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nanolan.manifest import Manifest, hash_file
from nanolan.paths import typed


def base_dir(environ: Mapping[str, str]) -> Path:
    """NANOCHAT_BASE_DIR, or nanochat's own default."""
    return typed(environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache/nanochat", environ)


def place(manifest: Manifest, source: Path, target: Path, say: Callable[[str], None]) -> None:
    """Rename the manifest's files from `source`, on the same disk, into the folder `target`, which then holds nothing else."""
    names = {f.path for f in manifest.files if not f.path.startswith("optim_")}
    if target.exists():
        if holds(target, manifest, names):
            say(f"{target} holds it already")
            return
        aside = target.with_name(f"before-{manifest.run_id}-{time.time_ns()}-{target.name}")
        target.replace(aside)
        say(f"what was in {target} is now in {aside}")
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
    return same and {p.name for p in folder.glob("model_*.pt")} <= names
