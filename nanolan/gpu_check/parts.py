"""The parts in their order: what each measures, its time limit, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanolan.gpu_check import probes, steps
from nanolan.gpu_check.facts import facts
from nanolan.gpu_check.inputs import make_inputs
from nanolan.gpu_check.machine import Machine

INPUTS = "inputs"


@dataclass(frozen=True)
class PartKind:
    """A row of PARTS."""

    what: str
    limit_s: float
    measure: Callable[[Machine], dict[str, Any]]
    inputs: bool = False  # whether it trains the model that the part `inputs` makes
    rest: bool = False  # whether it takes all the time that is left, up to limit_s


PARTS = {
    "facts": PartKind("the machine, without using a GPU", 60, facts),
    "user": PartKind("CUDA, compiler and NCCL as the trainer's user", 90, probes.use_gpus),
    "nccl": PartKind("speed between the GPUs, equal bits", 60, probes.bandwidth),
    "attention": PartKind("each implementation: first call, steady", 60, probes.attention),
    INPUTS: PartKind("a model and data to train", 90, make_inputs),
    "mid": PartKind("steps of mid", 120, steps.mid, True),
    "sft": PartKind("steps of sft", 120, steps.sft, True),
    "agreement": PartKind("first losses against a CPU's", 90, steps.agreement, True),
    "decode": PartKind("decoding by number of rows", 75, probes.decode),
    "rl": PartKind("a step of rl by its parts", 75, probes.rl_step),
    "oom": PartKind("one rank without memory goes on", 45, probes.memory),
    "save": PartKind("saves, and SIGTERM to the end", 90, steps.save, True),
    "soak": PartKind("steps for the rest of the time, Xid", 300, steps.soak, True, True),
}
