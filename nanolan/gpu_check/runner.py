"""Runs the parts one after the other, each in a process with a time limit, the whole before a deadline."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nanolan.box.phase_runner import MARK
from nanolan.box.probation import Ended, reason_of, run_limited
from nanolan.box.sandbox import confine
from nanolan.cost.gpu_check import FAILED, LEFT_OUT, OK, Part
from nanolan.errors import UsageProblem, quoted
from nanolan.files import write_atomic
from nanolan.gpu_check.machine import Machine
from nanolan.gpu_check.parts import INPUTS, PARTS, PartKind
from nanolan.settings.settings import ROOT

TOTAL_S = 600.0
LEAST_S = 10.0  # a part with less time is left out
OVER_S = 5.0  # what a part's process may take longer than the part
SLACK, SHORT = 3.0, 0.3  # of a part's time on the CPU, whatever that is; of the soak's
TOLD = "gpu-check: "

Run = Callable[[str, Machine, float], Ended]


def chosen_parts(names: Sequence[str], kinds: Mapping[str, PartKind] = PARTS) -> list[str]:
    """The parts to run, in their order: all, or the named ones and the inputs that they need; UsageProblem for another name."""
    if unknown := [name for name in names if name not in kinds]:
        raise UsageProblem(f"no part called {quoted(unknown[0])}; there is {', '.join(kinds)}")
    wanted = set(names or kinds)
    if INPUTS in kinds and any(kinds[name].inputs for name in wanted):
        wanted.add(INPUTS)
    return [name for name in kinds if name in wanted]


def run_parts(
    machine: Machine,
    names: Sequence[str],
    *,
    total_s: float = TOTAL_S,
    kinds: Mapping[str, PartKind] = PARTS,
    run: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
    told: Callable[[Part], None] = lambda part: None,
) -> list[Part]:
    """Run the named parts; a part that fails, hangs or has no time left is a row, and the others go on."""
    end = clock() + total_s
    done: list[Part] = []
    run = run or run_part
    for name in names:
        kind, left_s = kinds[name], end - clock()
        limit_s = min(time_of(kind, machine.device), left_s - OVER_S)
        states = {part.name: part.state for part in done}
        if kind.inputs and states.get(INPUTS, OK) != OK:
            part = Part(name, LEFT_OUT, reason="there is nothing to train")
        elif limit_s < LEAST_S:
            part = Part(name, LEFT_OUT, reason=f"no time: {total_s:.0f} s are over")
        else:
            began = clock()
            ended = run(name, replace(machine, limit_s=limit_s), limit_s + OVER_S)
            part = part_of(name, ended, machine.folder, limit_s, clock() - began)
        done.append(part)
        told(part)
    return done


def time_of(kind: PartKind, device: str) -> float:
    """Seconds of a part. A rehearsal needs longer for the same, and no long soak."""
    return kind.limit_s * (1.0 if device == "cuda" else SHORT if kind.rest else SLACK)


def run_part(
    name: str, machine: Machine, limit_s: float, module: str = "nanolan.gpu_check"
) -> Ended:
    """One part in a process of its own; its result lies in work/result-NAME.json."""
    setup = machine.folder / "machine.json"
    write_atomic(setup, msgspec.json.encode(machine))
    result = result_of(machine.folder, name)
    result.unlink(missing_ok=True)
    return run_limited(
        [sys.executable, "-m", module, name, str(setup), str(result)],
        machine.run_id,
        limit_s,
        cwd=ROOT,
        env={**os.environ, MARK: machine.run_id},
    )


def result_of(work: Path, name: str) -> Path:
    return work / f"result-{name}.json"


def part_of(name: str, ended: Ended, work: Path, limit_s: float, seconds: float) -> Part:
    """The row of a part that was run."""
    seconds = round(seconds, 1)
    if ended.code is None:
        return Part(name, FAILED, seconds, reason=f"hung: ended after {limit_s:.0f} s")
    if ended.code:
        own = [line for line in ended.output.splitlines() if line.startswith(TOLD)]
        why = own[-1].removeprefix(TOLD) if own else reason_of(ended)
        return Part(name, FAILED, seconds, reason=why[:300])
    try:
        return Part(name, OK, seconds, json.loads(result_of(work, name).read_bytes()))
    except (OSError, ValueError) as e:
        return Part(name, FAILED, seconds, reason=f"left no figures ({type(e).__name__})")


def confined(machine: Machine) -> Machine:
    """The machine with the trainer's own user, where there can be one."""
    for name in ("model", "data"):
        (machine.folder / name).mkdir(parents=True, exist_ok=True)
    account, _ = confine(machine.folder)
    if account is None:
        return machine
    return replace(machine, account=account.uid, groups=account.groups)
