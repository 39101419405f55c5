"""A model, a tokenizer and data for the trainer, made here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from nanolan.files import entries_of
from nanolan.gpu_check.machine import SMALL, Machine
from nanolan.phases import IDENTITY_FILE
from nanolan.sim.seed import identity_conversations, write_data

ROWS = {
    "smol-smoltalk": (2000, 10),
    "mmlu": (300, 10),
    "gsm8k": (300, 10),
    "arc-easy": (120, 10),
    "arc-challenge": (80, 10),
    "humaneval": (0, 1),
    "mmlu-all": (300, 10),
}


def make_inputs(machine: Machine) -> dict[str, Any]:
    """Write work/model (of the size to train), work/small and work/data; {"model_gb"}."""
    from nanolan.train.probe.inputs import write  # imports torch

    work = machine.folder
    write(work / "model", machine.sizes["model"])
    write(work / "small", SMALL)
    write_texts(work / "data")
    return {"model_gb": round(size_of(work / "model") / 1e9, 2)}


def write_texts(data: Path) -> None:
    """The data sets in their real schemas, with generated texts."""
    write_data(data, ROWS)
    lines = (json.dumps(c) + "\n" for c in identity_conversations(Random(1)))
    (data / IDENTITY_FILE).write_text("".join(lines))


def size_of(folder: Path) -> int:
    """Bytes of the files directly in folders of a folder."""
    return sum(
        p.stat().st_size for inner in entries_of(folder, "*") for p in entries_of(inner, "*")
    )
