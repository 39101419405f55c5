"""The exact code that a run uses, as a git bundle: one commit without history, of what git tracks or would track.

Never in it: ignored files, `.env*` (but .env.example), keys. The user's index, branches and HEAD stay as they are.
"""
from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from nanolan.errors import PreflightFailed
from nanolan.plan import Code

NEVER = (".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh_keys/**")
BRANCH = "nanolan"


def make_bundle(root: Path, target: Path, run_id: str) -> Code:
    """Write the bundle of the checkout at `root` to `target`; PreflightFailed when it is no git checkout."""
    head = _git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as temp:
        env = {"GIT_INDEX_FILE": f"{temp}/index"}
        _git(root, "read-tree", "HEAD", env=env)
        _git(root, "add", "--all", ".", env=env)
        _git(root, "rm", "-r", "--cached", "--quiet", "--ignore-unmatch", "--",
             *(f":(glob,icase)**/{n}" for n in NEVER), ":(exclude,glob,icase)**/.env.example", env=env)
        tree = _git(root, "write-tree", env=env)
    dirty = tree != _git(root, "rev-parse", "HEAD^{tree}")
    commit = _git(root, "commit-tree", tree, "-m", f"nanolan run {run_id}: {head}{' with changes' if dirty else ''}",
                  env=_author())
    ref = f"refs/nanolan/{run_id}/{BRANCH}"   # a bundle needs a ref; ours is gone again at once
    _git(root, "update-ref", ref, commit)
    try:
        _git(root, "bundle", "create", "--quiet", str(target), ref)
    finally:
        _git(root, "update-ref", "-d", ref)
    data = target.read_bytes()
    return Code(head, hashlib.sha256(data).hexdigest(), len(data), dirty)


def _author() -> dict[str, str]:
    """A fixed author: the same code gives the same commit, and nobody needs a git identity."""
    who = {"NAME": "nanolan", "EMAIL": "nanolan@localhost", "DATE": "2026-01-01T00:00:00Z"}
    return {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()}


def _git(root: Path, *args: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=root, env={**os.environ, **(env or {})}, capture_output=True, text=True,
                              errors="replace")
    except FileNotFoundError:
        raise PreflightFailed("git is missing; install it (the code that runs is sent as a git bundle)") from None
    if done.returncode:
        raise PreflightFailed(f"git {args[0]} failed in {root}: {done.stderr.strip()[:300]}. "
                              "nanolan must be a git clone with at least one commit; nothing was rented")
    return done.stdout.strip()
