"""Parts that run a program of nanolan/train/probe/ on all ranks, as the trainer's user."""

from __future__ import annotations

import json
import os
from typing import Any

from nanolan.box.phase_runner import torchrun, trainer_environment
from nanolan.box.probation import reason_of, run_limited
from nanolan.box.sandbox import trainer_folder
from nanolan.errors import RunFailed
from nanolan.files import write_atomic
from nanolan.gpu_check.machine import SMALL, Machine
from nanolan.settings.settings import ROOT

RESERVE_S = 3.0  # of a part's time: to end the ranks and say why


def probe(
    machine: Machine, name: str, setup: dict[str, Any], processes: int | None = None
) -> dict[str, Any]:
    """The figures of a probe; RunFailed when it fails or takes too long."""
    plan = machine.plan()
    given = machine.folder / f"{name}.json"
    write_atomic(given, json.dumps({"device": machine.device, **setup}).encode())
    result = trainer_folder(machine.folder) / f"{name}.json"
    ended = run_limited(
        torchrun(
            processes or machine.processes, "nanolan.train.probe", name, str(given), str(result)
        ),
        machine.run_id,
        machine.limit_s - RESERVE_S,
        cwd=ROOT,
        env=trainer_environment(plan, os.environ, None, machine.user),
        account=machine.user,
    )
    if ended.code is None:
        raise RunFailed(f"not done after {machine.limit_s - RESERVE_S:.0f} s")
    if ended.code:
        raise RunFailed(reason_of(ended))
    found: dict[str, Any] = json.loads(result.read_bytes())
    return found


def use_gpus(machine: Machine) -> dict[str, Any]:
    """CUDA, the compiler and NCCL, as the trainer's user: what the box tries before it downloads anything, and a compilation."""
    elements = {} if machine.device == "cuda" else {"elements": 1 << 10}
    user = "this program's user" if machine.account is None else str(machine.account)
    return {"user": user, **probe(machine, "collective", {"compile": True, **elements})}


def bandwidth(machine: Machine) -> dict[str, Any]:
    return probe(machine, "bandwidth", {"elements": machine.sizes["elements"]})


def attention(machine: Machine) -> dict[str, Any]:
    """On one GPU."""
    setup = machine.sizes["attention"] | {"flex": machine.device == "cuda"}
    return probe(machine, "attention", setup, 1)


def decode(machine: Machine) -> dict[str, Any]:
    """On one GPU."""
    setup = machine.sizes["decode"] | {"size": machine.sizes["model"], "small": SMALL}
    return probe(machine, "decode", setup, 1)


def rl_step(machine: Machine) -> dict[str, Any]:
    return probe(machine, "rl_step", machine.sizes["rl"] | {"size": machine.sizes["model"]})


def memory(machine: Machine) -> dict[str, Any]:
    size = {"size": machine.sizes["model"], "rows": machine.sizes["memory_rows"]}
    return probe(machine, "memory", size)
