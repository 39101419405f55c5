"""Uploads by hand: what is at the Hub already, sending the rest in one commit, and proof that it arrived."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from nanolan.checkpoint.architecture import check_vocabulary
from nanolan.checkpoint.manifest import MANIFEST
from nanolan.errors import AuthProblem, BadAnswer, NotFound, PreflightFailed, UsageProblem
from nanolan.hub.client import Hub, Tree
from nanolan.hub.input_check import TOKEN_BYTES, TOKENIZER, look_at_tokenizer
from nanolan.hub.layout import proven
from nanolan.hub.proof import matches, prove
from nanolan.hub.transfer import Job, run_transfer
from nanolan.hub.upload_set import UploadSet
from nanolan.redact import Secret

PATIENCE_S = 900.0  # with a Hub that fails, before the command ends and can be typed again
STEP_FILE = r"(?:model|meta|optim)_(\d{6,})\D.*"
FOLDER = "; or give it another folder: output-tag=NAME"

Say = Callable[[str], None]


def stage(parcel: UploadSet, source: Path, folder: Path) -> tuple[str, ...]:
    """Put links to the parcel's files, and its manifest, into an empty folder; their names. `source` is what was named."""
    for e in parcel.entries:
        (folder / e.path).symlink_to(
            (source if parcel.kind == "data" else parcel.folder / e.path).resolve()
        )
    if parcel.manifest:
        (folder / MANIFEST).write_text(parcel.manifest.to_json())
    return tuple(sorted(p.name for p in folder.iterdir()))


def repo_to_write(hub: Hub, repo: str, say: Say) -> Tree:
    """The repo as it is now; a private one is made if there is none."""
    try:
        tree = hub.tree(repo)
    except NotFound:
        try:
            hub.create(repo)
        except AuthProblem as e:
            raise AuthProblem(
                f"{repo} is not there and HF_TOKEN may not create it ({e}). Create it by hand, private: "
                "https://huggingface.co/new"
            ) from None
        tree = hub.tree(repo)
        say(f"created {repo}, private")
    hub.check_write(repo)
    if not tree.private:
        say(f"note: {repo} is PUBLIC: everybody will see what you upload")
    return tree


def misfit(hub: Hub, tree: Tree, parcels: Sequence[UploadSet]) -> str:
    """What does not fit the tokenizer that the repo holds, in words; "" when all fits or another one is on its way."""
    files = [tree.files[p] for p in (TOKENIZER, TOKEN_BYTES) if p in tree.files]
    checkpoints = [p for p in parcels if p.config]
    if not checkpoints or not files or files[0].path != TOKENIZER or any(p.tokens for p in parcels):
        return ""
    try:
        tokens = look_at_tokenizer(hub, tree, files).tokens
        for p in checkpoints:
            check_vocabulary(p.config, tokens or 0, p.target)  # type: ignore[arg-type]
    except BadAnswer as e:
        return f"with the tokenizer of {tree.repo} no run can start: {e}"
    return ""


def is_there(hub: Hub, tree: Tree, parcel: UploadSet) -> bool:
    """Whether the repo holds the parcel already; a checkpoint with a manifest that proves it (ours, or its run's)."""
    if any(
        (have := tree.files.get(parcel.path(e.path))) is None or not matches(have, e)
        for e in parcel.entries
    ):
        return False
    if parcel.manifest is None:
        return True
    try:
        return proven(
            hub, tree, parcel.target
        ).manifest.step == parcel.manifest.step and not others(tree, parcel)
    except (PreflightFailed, BadAnswer):
        return False


def others(tree: Tree, parcel: UploadSet) -> list[str]:
    """Files in the parcel's place with other content, or of other steps."""
    differ = [
        p
        for e in parcel.entries
        if (p := parcel.path(e.path)) in tree.files and not matches(tree.files[p], e)
    ]
    if parcel.manifest is None:
        return differ
    steps = {
        p: m[1]
        for p in tree.under(parcel.target)
        if (m := re.fullmatch(STEP_FILE, p.removeprefix(f"{parcel.target}/")))
    }
    return sorted({*differ, *(p for p, step in steps.items() if int(step) != parcel.manifest.step)})


def send(
    hub: Hub,
    tree: Tree,
    parcel: UploadSet,
    source: Path,
    *,
    replace: bool,
    bars: bool,
    say: Say,
    transfer: Callable[..., None] = run_transfer,
) -> Tree:
    """Upload the parcel in one commit and prove it; the repo after it. UsageProblem when it would overwrite other content."""
    if (there := others(tree, parcel)) and not replace:
        raise UsageProblem(
            f"{tree.repo} holds other content: {', '.join(there[:3])}{' ...' * (len(there) > 3)}; nothing was "
            "sent. Replace it (the Hub's history keeps the old): --replace"
            + FOLDER
            * bool(parcel.manifest)
        )
    with tempfile.TemporaryDirectory(prefix="nanolan-upload-") as temp:
        names = stage(parcel, source, Path(temp))
        job = Job(
            "upload",
            hub.endpoint,
            tree.repo,
            "model",
            "main",
            temp,
            names,
            parcel.target,
            f"upload {parcel.kind}: {parcel.text}",
            keep=not replace,
            bars=bars,
        )
        transfer(job, hub.token or Secret(""), give_up=lambda: "", say=say, patience_s=PATIENCE_S)
    after = hub.tree(tree.repo)
    if parcel.manifest:
        prove(after, parcel.target, parcel.manifest, parcel.written)
    elif not is_there(hub, after, parcel):
        raise BadAnswer(
            f"{tree.repo}: {parcel.kind} is not there as it was sent. Try again; the same command goes on"
        )
    return after
