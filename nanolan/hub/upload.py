"""Uploads by hand: finds what is on the Hub already, sends the rest in one commit, and proves it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from nanolan.checkpoint.architecture import check_vocabulary
from nanolan.checkpoint.manifest import MANIFEST
from nanolan.errors import AuthProblem, BadAnswer, NotFound, PreflightFailed, UsageProblem
from nanolan.hub.client import Hub, Tree
from nanolan.hub.input_check import TOKEN_BYTES, TOKENIZER, inspect_tokenizer
from nanolan.hub.layout import proven
from nanolan.hub.proof import matches, prove
from nanolan.hub.transfer import Job, run_transfer
from nanolan.hub.upload_set import UploadSet
from nanolan.net.bar import transfer_bar
from nanolan.redact import Secret

PATIENCE_S = 900.0  # how long to retry while the Hub fails
STEP_FILE = r"(?:model|meta|optim)_(\d{6,})\D.*"
OTHER_FOLDER = "; or upload to another folder: output-tag=NAME"

Say = Callable[[str], None]


def stage(upload_set: UploadSet, source: Path, folder: Path) -> tuple[str, ...]:
    """Fill an empty folder with links to the files and with the manifest; returns the names. `source`: the user's path."""
    for e in upload_set.entries:
        (folder / e.path).symlink_to(
            (source if upload_set.kind == "data" else upload_set.folder / e.path).resolve()
        )
    if upload_set.manifest:
        (folder / MANIFEST).write_text(upload_set.manifest.to_json())
    return tuple(sorted(p.name for p in folder.iterdir()))


def repo_to_write(hub: Hub, repo: str, say: Say) -> Tree:
    """The files of the repo now; a missing repo is created, private."""
    try:
        tree = hub.tree(repo)
    except NotFound:
        try:
            hub.create(repo)
        except AuthProblem as e:
            raise AuthProblem(
                f"{repo} does not exist and HF_TOKEN may not create it ({e}). Create it by hand, private: "
                "https://huggingface.co/new"
            ) from None
        tree = hub.tree(repo)
        say(f"created {repo}, private")
    hub.check_write(repo)
    if not tree.private:
        say(f"note: {repo} is PUBLIC: everybody can read what you upload")
    return tree


def tokenizer_mismatch(hub: Hub, tree: Tree, upload_sets: Sequence[UploadSet]) -> str:
    """Why a checkpoint does not fit the repo's tokenizer; "" if all fit, or if a tokenizer is uploaded too."""
    files = [tree.files[p] for p in (TOKENIZER, TOKEN_BYTES) if p in tree.files]
    checkpoints = [p for p in upload_sets if p.config]
    if (
        not checkpoints
        or not files
        or files[0].path != TOKENIZER
        or any(p.tokens for p in upload_sets)
    ):
        return ""
    try:
        tokens = inspect_tokenizer(hub, tree, files).tokens
        for p in checkpoints:
            check_vocabulary(p.config, tokens or 0, p.target)  # type: ignore[arg-type]
    except BadAnswer as e:
        return f"no run can start with the tokenizer in {tree.repo}: {e}"
    return ""


def is_uploaded(hub: Hub, tree: Tree, upload_set: UploadSet) -> bool:
    """Whether the repo holds these files already; a checkpoint must also be proven by a manifest (by hand, or of its run)."""
    if any(
        (have := tree.files.get(upload_set.path(e.path))) is None or not matches(have, e)
        for e in upload_set.entries
    ):
        return False
    if upload_set.manifest is None:
        return True
    try:
        return proven(
            hub, tree, upload_set.target
        ).manifest.step == upload_set.manifest.step and not conflicts(tree, upload_set)
    except (PreflightFailed, BadAnswer):
        return False


def conflicts(tree: Tree, upload_set: UploadSet) -> list[str]:
    """Files in the target folder that have other content, or are of other steps."""
    differ = [
        p
        for e in upload_set.entries
        if (p := upload_set.path(e.path)) in tree.files and not matches(tree.files[p], e)
    ]
    if upload_set.manifest is None:
        return differ
    steps = {
        p: m[1]
        for p in tree.under(upload_set.target)
        if (m := re.fullmatch(STEP_FILE, p.removeprefix(f"{upload_set.target}/")))
    }
    return sorted(
        {*differ, *(p for p, step in steps.items() if int(step) != upload_set.manifest.step)}
    )


def send(
    hub: Hub,
    tree: Tree,
    upload_set: UploadSet,
    source: Path,
    *,
    replace: bool,
    say: Say,
    transfer: Callable[..., None] = run_transfer,
) -> Tree:
    """Upload in one commit and prove it; returns the new tree. UsageProblem if it would overwrite other content."""
    if (present := conflicts(tree, upload_set)) and not replace:
        raise UsageProblem(
            f"{tree.repo} holds other content: {', '.join(present[:3])}{' ...' * (len(present) > 3)}; nothing was "
            "sent. To replace it (the Hub's history keeps the old): --replace"
            + OTHER_FOLDER
            * bool(upload_set.manifest)
        )
    with tempfile.TemporaryDirectory(prefix="nanolan-upload-") as temp:
        names = stage(upload_set, source, Path(temp))
        job = Job(
            "upload",
            hub.endpoint,
            tree.repo,
            "model",
            "main",
            temp,
            names,
            upload_set.target,
            f"upload {upload_set.kind}: {upload_set.text}",
            keep=not replace,
        )
        sent = [0]
        with transfer_bar(upload_set.kind, upload_set.size, lambda: sent[-1], say):
            transfer(
                job,
                hub.token or Secret(""),
                give_up=lambda: "",
                say=say,
                on_sent=sent.append,
                patience_s=PATIENCE_S,
            )
    after = hub.tree(tree.repo)
    if upload_set.manifest:
        prove(after, upload_set.target, upload_set.manifest, upload_set.written)
    elif not is_uploaded(hub, after, upload_set):
        raise BadAnswer(
            f"{tree.repo}: {upload_set.kind} on the Hub differs from what was sent. Run the same command again; it continues"
        )
    return after
