"""JOB.json: the box program's instructions to the trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolan.errors import UsageProblem

PHASES = ("mid", "sft", "rl")
DEVICES = ("cuda", "cpu")
SCOPES = ("quick", "full")


@dataclass(frozen=True)
class Job:
    """One phase on one machine; paths as given."""

    phase: str
    run_id: str
    run_name: str
    model_tag: str
    device: str
    init_dir: Path  # model_*.pt + meta_*.json; the newest step is used
    tokenizer_dir: Path
    data_dir: Path
    out_dir: Path  # step-NNNNNN/ folders with a manifest
    metrics: Path  # appended
    heartbeat: Path  # replaced at each step
    batch: int | None = None  # rows of a micro-batch; None: from the GPU's memory
    wandb: Mapping[str, str] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    identity: bool | None = (
        None  # True: mid needs the identity file; False: it is left out; None: used if there
    )
    save_minutes: float = 10.0  # between saved states
    resume: bool = True  # resume from the newest state of this run and phase in out_dir
    model_only: bool = False  # use the weights of a state that does not fit instead of failing
    evaluate: str | None = (
        None  # quick or full: judge the phase's final checkpoint in out_dir instead of training
    )
    humaneval: bool = False  # with evaluate: also run code that the model wrote
    results: Path | None = None  # with evaluate: where the results go, as JSON


# key -> (type, may it be absent or null)
KEYS: dict[str, tuple[type, bool]] = {
    "phase": (str, False),
    "run_id": (str, False),
    "run_name": (str, False),
    "model_tag": (str, False),
    "device": (str, False),
    "init_dir": (Path, False),
    "tokenizer_dir": (Path, False),
    "data_dir": (Path, False),
    "out_dir": (Path, False),
    "metrics": (Path, False),
    "heartbeat": (Path, False),
    "batch": (int, True),
    "wandb": (dict, True),
    "recipe": (dict, True),
    "identity": (bool, True),
    "save_minutes": (float, True),
    "resume": (bool, True),
    "model_only": (bool, True),
    "evaluate": (str, True),
    "humaneval": (bool, True),
    "results": (Path, True),
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
    values = {
        key: _value(d.get(key), kind, optional, f"{path}: {key}")
        for key, (kind, optional) in KEYS.items()
    }
    for key, known in (("phase", PHASES), ("device", DEVICES), ("evaluate", (None, *SCOPES))):
        if values[key] not in known:
            raise UsageProblem(
                f"{path}: {key} is {values[key]!r}, expected {' or '.join(map(str, known))}"
            )
    if bool(values["evaluate"]) != bool(values["results"]):
        raise UsageProblem(f"{path}: evaluate and results belong together")
    if values["batch"] is not None and values["batch"] < 1:
        raise UsageProblem(f"{path}: batch is {values['batch']}, expected at least 1")
    if values["save_minutes"] is not None and not values["save_minutes"] >= 0:
        raise UsageProblem(
            f"{path}: save_minutes is {values['save_minutes']}, expected a number of minutes"
        )
    return Job(**{key: value for key, value in values.items() if value is not None})


def _value(value: Any, kind: type, optional: bool, where: str) -> Any:
    if value is None and optional:
        return None
    if type(value) not in {Path: (str,), float: (int, float)}.get(kind, (kind,)):
        raise UsageProblem(
            f"{where} is {value!r}, expected {'a path' if kind is Path else kind.__name__}"
        )
    return kind(value)
