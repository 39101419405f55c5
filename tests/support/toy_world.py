"""Sums so small that a tiny model gets some right after seconds of sft: what the tests of rl run on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from nanolan.train.data.tiny_model import write_tiny
from tests.support.tiny_world import write_data, write_parquet

SFT = {
    "max_steps": 80,
    "sequence_len": 128,
    "tokens_per_step": 2048,
    "init_lr_frac": 0.5,
    "val_rows": 0,
    "spelling_rows": 0,
}
RL = {
    "max_steps": 60,
    "sequence_len": 128,
    "questions_per_step": 8,
    "samples": 8,
    "max_new_tokens": 24,
    "init_lr_frac": 0.3,
    "eval_questions": 40,
    "eval_samples": 4,
}


def sums(n: int, seed: int, most: int = 5) -> list[dict[str, Any]]:
    """Rows of GSM8K about sums of numbers from 1 to `most`."""
    rng = random.Random(seed)
    pairs = [(rng.randint(1, most), rng.randint(1, most)) for _ in range(n)]
    return [
        {
            "question": f"Ann has {a} eggs and buys {b}. How many?",
            "answer": f"<<{a}+{b}={a + b}>>{a + b} eggs.\n#### {a + b}",
        }
        for a, b in pairs
    ]


def write_toy(folder: Path) -> Path:
    """Base checkpoint, tokenizer and data: mostly sums, and a little of everything else that sft wants."""
    texts = write_data(folder / "data", 4)
    rows = sums(300, 1)
    write_parquet(folder / "data", "gsm8k", "train", rows, 100)
    write_parquet(folder / "data", "gsm8k", "test", sums(40, 2), 100)
    write_tiny(folder, texts + [row["question"] + row["answer"] for row in rows], sequence_len=128)
    return folder
