"""A proven checkpoint and its tokenizer, from the Hub to where nanochat's own tools find them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from nanolan.adopt import proven
from nanolan.basedir import place
from nanolan.errors import NotFound, PreflightFailed
from nanolan.hub import Hub, Tree
from nanolan.inputs import fetch
from nanolan.phases import PHASES

PATIENCE_S = 300.0


def newest_phase(tree: Tree, tag: str) -> str:
    """The latest phase in the chain of which the repo has a checkpoint; NotFound if there is none."""
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
        raise NotFound(f"{repo} has no whole tokenizer/ (tokenizer.pkl and token_bytes.pt)")
    names = [f"{folder}/{f.path}" for f in proof.manifest.files if not f.path.startswith("optim_")]
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=base, prefix=".pull-"
    ) as temp:  # the same disk: put in place by renaming
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
