"""The trial in a fork's own interpreter, with both miniature forks: it loads its own checkpoints, and names another's in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nanolan.phases import Phase
from nanolan.settings.settings import ROOT
from nanolan.trainers.adapter.base_folder import lay_out
from tests.support.adapter_jobs import Worlds
from tests.support.forks import environment

TRIAL = ROOT / "nanolan/trainers/inside/trial.py"
BASE = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints")
# (fork, whose checkpoint) -> words of the last line
LOADS = {
    ("2025", "2025"): "; loads the input, ",
    ("2026", "2026"): "; loads the input, ",
    ("2026", "2025"): "RuntimeError: Error(s) in loading state_dict for GPT: Missing key(s)",
    ("2025", "2026"): "TypeError: GPTConfig.__init__() got an unexpected keyword argument",
}


@pytest.mark.slow  # two models of two forks are made for it
@pytest.mark.parametrize(("fork", "checkpoint"), LOADS)
def test_only_a_checkpoint_of_its_own_generation_is_loaded(
    fork: str, checkpoint: str, worlds: Worlds, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    places = (worlds.base(checkpoint), worlds.folder / "tokenizer", worlds.folder / "data")
    lay_out(base, BASE, "d20", *places, task_data=False)
    modules = ["scripts.chat_sft", "scripts.chat_rl"]
    done = subprocess.run(
        [worlds.python, TRIAL, "0", "base", *modules],
        cwd=worlds.folder / fork,
        env=environment(base),
        capture_output=True,
        text=True,
    )
    last = done.stdout.splitlines()[-1]
    words = LOADS[fork, checkpoint]
    assert words in last and len(last) < 300, done.stdout + done.stderr
    assert done.returncode == (0 if fork == checkpoint else 1)
    if fork == checkpoint:
        count = int(last.split()[-2].replace(",", ""))
        assert last.startswith("PyTorch ") and count > 100_000


def test_gpus_that_are_not_there_are_named(worlds: Worlds, tmp_path: Path) -> None:
    done = subprocess.run(
        [worlds.python, TRIAL, "8", ""],
        cwd=worlds.folder / "2026",
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "sees 0 of 8 GPUs" in done.stdout
