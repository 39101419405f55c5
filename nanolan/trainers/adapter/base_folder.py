"""Makes a fork's base folder (NANOCHAT_BASE_DIR) for one phase: one checkpoint of one step, the tokenizer, the data.

Forks pick the largest model and the newest step of what they find; with a fresh folder per phase there is nothing to pick.
Everything is linked, so it takes no room.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nanolan.checkpoint.architecture import newest_step
from nanolan.errors import BadAnswer
from nanolan.files import entries_of, write_atomic
from nanolan.phases import DATASETS, IDENTITY_FILE, Phase

# Data set -> (subset, split of its training files, split of its test files), as forks of 2026 name them
SPLITS = {
    "smol-smoltalk": ("default", "train", "test"),
    "mmlu": ("all", "", "test"),
    "mmlu-all": ("all", "auxiliary_train", "test"),
    "gsm8k": ("main", "train", "test"),
    "arc-easy": ("ARC-Easy", "train", "test"),
    "arc-challenge": ("ARC-Challenge", "train", "test"),
    "humaneval": ("openai_humaneval", "", "test"),
}


def lay_out(
    base: Path, phase: Phase, tag: str, start: Path, tokenizer: Path, data: Path, *, task_data: bool
) -> None:
    """A fresh base folder that holds the checkpoint of `start` as input of `phase`, and what the fork reads besides."""
    remove(base)
    link_checkpoint(start, base / phase.input_dir / tag)
    (base / "tokenizer").symlink_to(tokenizer.absolute())
    if (data / IDENTITY_FILE).is_file():
        (base / IDENTITY_FILE).symlink_to((data / IDENTITY_FILE).absolute())
    if task_data:
        lay_out_data(base / "task_data", data)


def remove(folder: Path) -> None:
    """Remove what stands at a path: a folder, or a link or file in its place."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def link_checkpoint(start: Path, target: Path) -> None:
    """Link model and meta of the newest step in `start`; without its optimizer, whose shards fit one number of GPUs."""
    found = newest_step([p.name for p in entries_of(start, "*")], str(start), "")
    if found is None:
        raise BadAnswer(f"{start} holds no model_SSSSSS.pt")
    target.mkdir(parents=True)
    for name in found:
        (target / name).symlink_to((start / name).absolute())


def write_words(base: Path) -> None:
    """The word list that nanochat's spelling tasks of 2025 download from the web, for rehearsals, which have no network."""
    letters = "abcdefghijklmnopqrst"
    words = (f"{a}{b}{c}" for a in letters for b in letters for c in "aeiou")
    (base / "words_alpha.txt").write_text("\n".join(words) + "\n")


def lay_out_data(target: Path, data: Path) -> None:
    """The pinned parquet files where forks of 2026 look: OWNER--REPO/SUBSET/SPLIT/NNNNN.parquet, and a manifest that names them."""
    for name, (subset, train, test) in SPLITS.items():
        row = DATASETS[name]
        for split, pattern in ((train, row.train), (test, row.test)):
            if not (split and pattern):
                continue
            pattern_path = data / row.repo / pattern
            if files := entries_of(pattern_path.parent, pattern_path.name):
                _lay_out_split(target / row.repo.replace("/", "--") / subset / split, files)


def _lay_out_split(folder: Path, files: list[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{n:05d}.parquet" for n in range(len(files))]
    for name, file in zip(names, files, strict=True):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(file.absolute())
    write_atomic(folder / "manifest.json", json.dumps(names).encode())
