"""Puts a tiny checkpoint of a fork's own architecture on the local Hub, in place of nanolan's, for a rehearsal of that fork."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nanolan.checkpoint.safe_pickle import encoding_state
from nanolan.errors import UsageProblem
from nanolan.plan import OWN_PYTHON, Fork
from nanolan.settings.settings import ROOT
from nanolan.sim.hub.server import HubServer
from nanolan.trainers.choose import LOADER

TINY_BASE = ROOT / "nanolan/trainers/inside/tiny_base.py"
MAKE_S = 300.0


def seed_fork(hub: HubServer, repo: str, fork: Fork, input_folder: str, checkout: Path) -> None:
    """Replace `input_folder` in `repo`; UsageProblem with the fork's own error when it cannot make a checkpoint.

    A checkout without nanochat's loader is left with the checkpoint that is there."""
    if not (checkout / LOADER).is_file():
        return
    state = encoding_state(hub.read(repo, "tokenizer/tokenizer.pkl"), "tokenizer.pkl")
    vocabulary = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    python = sys.executable if fork.python == OWN_PYTHON else fork.python
    with tempfile.TemporaryDirectory(prefix="nanolan-seed-") as temp:
        done = subprocess.run(
            [python, str(TINY_BASE), temp, str(vocabulary)],
            cwd=checkout,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAKE_S,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UsageProblem(
                f"the checkout of trainer= cannot make a tiny model here, with {python}: {last[:300]}. "
                "Install it: uv sync, in its folder"
            )
        files = {f"{input_folder}/{p.name}": p.read_bytes() for p in Path(temp).iterdir()}
    hub.put(repo, files, message="a tiny checkpoint of the fork", delete=input_folder)
