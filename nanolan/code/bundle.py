"""The exact code of a run as a git bundle: one commit without history, made from a snapshot of the checkout
(nanolan/code/snapshot.py). The user's index, branches and HEAD are not changed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from nanolan.code.git import AUTHOR, Checkout, run_git
from nanolan.code.secret_scan import Scanner
from nanolan.code.snapshot import MOST_BYTES, Snapshot, take_snapshot
from nanolan.errors import PreflightFailed
from nanolan.plan import Code

BRANCH = "nanolan"


def make_bundle(root: Path, target: Path, run_id: str, scanner: Scanner | None = None) -> Code:
    """Write the bundle of the checkout at `root` to `target`; PreflightFailed if it is not a git checkout or contains a secret."""
    return bundle_and_snapshot(root, target, run_id, scanner)[0]


def bundle_and_snapshot(
    root: Path, target: Path, run_id: str, scanner: Scanner | None = None
) -> tuple[Code, Snapshot]:
    """`make_bundle`, and the snapshot, which lists what is sent and what is left out."""
    with tempfile.TemporaryDirectory(prefix="nanolan-bundle-") as temp:
        snapshot, git_env = take_snapshot(root, Path(temp), scanner or Scanner())
        head = snapshot.checkout.head
        message = f"nanolan run {run_id}: {head}{' with changes' if snapshot.dirty else ''}"
        commit = _line(
            run_git(root, "commit-tree", snapshot.tree, "-m", message, env=AUTHOR | git_env)
        )
        alone = _repository(root, Path(temp), snapshot.checkout)
        ref = f"refs/nanolan/{run_id}/{BRANCH}"  # a bundle needs a ref
        run_git(root, "update-ref", ref, commit, env=alone)
        run_git(root, "bundle", "create", "--quiet", str(target), ref, env=alone)
    data = target.read_bytes()
    if len(data) > MOST_BYTES:
        raise PreflightFailed(
            f"the code bundle has {len(data) / 1e6:,.0f} MB, more than {MOST_BYTES >> 20} MB; nothing was rented"
        )
    return Code(head, hashlib.sha256(data).hexdigest(), len(data), snapshot.dirty), snapshot


def _repository(root: Path, temp: Path, checkout: Checkout) -> dict[str, str]:
    """A temporary repository with the new objects, which reads the user's objects: the bundle's ref is set in it."""
    (temp / "refs").mkdir()
    (temp / "HEAD").write_text(f"ref: refs/heads/{BRANCH}\n")
    (temp / "objects/info").mkdir(exist_ok=True)
    (temp / "objects/info/alternates").write_bytes(os.fsencode(checkout.objects.resolve()) + b"\n")
    return {"GIT_DIR": str(temp)}


def _line(raw: bytes) -> str:
    return raw.decode().strip()
