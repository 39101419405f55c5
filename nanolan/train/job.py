"""JOB.json: what the box program asks of the trainer."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolan.errors import UsageProblem

PHASES = ("mid", "sft")
DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class Job:
    """One phase on one machine; paths as given."""

    phase: str
    run_id: str
    run_name: str
    model_tag: str
    device: str
    init_dir: Path            # model_*.pt + meta_*.json, the newest step counts
    tokenizer_dir: Path
    data_dir: Path
    out_dir: Path             # step-NNNNNN/ folders with a manifest
    metrics: Path             # appended
    heartbeat: Path           # replaced at each step
    batch: int | None = None  # rows of a micro-batch; None: from the GPU's memory
    wandb: Mapping[str, str] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


# key -> (type, may it be absent or null)
KEYS: dict[str, tuple[type, bool]] = {
    "phase": (str, False), "run_id": (str, False), "run_name": (str, False), "model_tag": (str, False),
    "device": (str, False), "init_dir": (Path, False), "tokenizer_dir": (Path, False), "data_dir": (Path, False),
    "out_dir": (Path, False), "metrics": (Path, False), "heartbeat": (Path, False),
    "batch": (int, True), "wandb": (dict, True), "recipe": (dict, True),
}


def read_job(path: Path) -> Job:
    """The Job in a JSON file; UsageProblem names the key that is wrong."""
    try:
        d = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise UsageProblem(f"{path}: not a readable job ({e})") from None
    if not isinstance(d, dict):
        raise UsageProblem(f"{path}: not a JSON object")
    if unknown := sorted(set(d) - set(KEYS)):
        raise UsageProblem(f"{path}: unknown key {unknown[0]!r}")
    values = {key: _value(d.get(key), kind, optional, f"{path}: {key}") for key, (kind, optional) in KEYS.items()}
    for key, known in (("phase", PHASES), ("device", DEVICES)):
        if values[key] not in known:
            raise UsageProblem(f"{path}: {key} is {values[key]!r}, expected {' or '.join(known)}")
    if values["batch"] is not None and values["batch"] < 1:
        raise UsageProblem(f"{path}: batch is {values['batch']}, expected at least 1")
    return Job(**{key: value for key, value in values.items() if value is not None})


def _value(value: Any, kind: type, optional: bool, where: str) -> Any:
    if value is None and optional:
        return None
    if type(value) is not (str if kind is Path else kind):
        raise UsageProblem(f"{where} is {value!r}, expected {'a path' if kind is Path else kind.__name__}")
    return kind(value)
