"""Puts a tiny checkpoint of a fork's own architecture on the local Hub, in place of nanolan's, for a rehearsal of that fork."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nanolan.checkpoint.safe_pickle import encoding_state
from nanolan.errors import UsageProblem
from nanolan.phases import DATASETS
from nanolan.plan import OWN_PYTHON, Fork
from nanolan.settings.settings import ROOT
from nanolan.sim.hub.server import HubServer
from nanolan.sim.seed import ROWS, write_data
from nanolan.trainers.adapter.base_folder import SPLITS
from nanolan.trainers.rows import LOADER

TINY_BASE = ROOT / "nanolan/trainers/inside/tiny_base.py"
MAKE_S = 300.0
# nanochat's scripts take the first 5,200 questions of mmlu's test and 420 of gsm8k's, and 10,000 conversations of smol-smoltalk
MORE_ROWS = ROWS | {
    "smol-smoltalk": (10200, 60),
    "mmlu": (300, 5300),
    "mmlu-all": (300, 5300),
    "gsm8k": (300, 430),
}


def seed_data(hub: HubServer) -> None:
    """The data sets in the sizes that nanochat's scripts rely on, each with the card by which the `datasets` library reads it."""
    with tempfile.TemporaryDirectory(prefix="nanolan-seed-") as temp:
        write_data(Path(temp), MORE_ROWS)
        for repo in sorted({d.repo for d in DATASETS.values()}):
            folder = Path(temp) / repo
            files: dict[str, bytes | Path] = {
                p.relative_to(folder).as_posix(): p for p in folder.rglob("*.parquet")
            }
            files["README.md"] = card_of(repo).encode()
            hub.put(repo, files, typ="dataset", private=False)


def card_of(repo: str) -> str:
    """README.md of a data set, with its subsets and splits."""
    configs: dict[str, dict[str, str]] = {}
    for name, (subset, train, test) in SPLITS.items():
        row = DATASETS[name]
        for split, pattern in ((train, row.train), (test, row.test)):
            if row.repo == repo and split and pattern:
                configs.setdefault(subset, {})[split] = pattern
    if repo == DATASETS["mmlu"].repo:  # a subset of its own, too, as the real one has
        configs["auxiliary_train"] = {"train": DATASETS["mmlu"].train}
    lines = ["---", "configs:"]
    for subset, splits in configs.items():
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", ""])


def _way_out(error: str) -> str:
    if error.startswith(("ModuleNotFoundError", "ImportError")):
        return "Install it: uv sync, in its folder"
    return "Only a rehearsal makes one: just dry-run and just launch do without"


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
                f"the checkout of trainer= cannot make a tiny model here, with {python}: {last[:300]}. {_way_out(last)}"
            )
        files = {f"{input_folder}/{p.name}": p.read_bytes() for p in Path(temp).iterdir()}
    there = any(path.startswith(f"{input_folder}/") for path in hub.files(repo))
    hub.put(
        repo,
        files,
        message="a tiny checkpoint of the fork",
        delete=input_folder if there else "",
    )
