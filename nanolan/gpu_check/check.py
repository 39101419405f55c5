"""The whole check: a folder of its own, the parts, gpu-check.json after each of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nanolan.cost.gpu_check import GpuCheck, Part
from nanolan.files import write_atomic
from nanolan.gpu_check.machine import Machine
from nanolan.gpu_check.runner import confined, run_parts
from nanolan.plan import new_run_id
from nanolan.times import iso, now_utc

PREFIX = "nanolan-gpu-check-"
SIZE = {"cuda": "d20", "cpu": "toy"}


def check_machine(
    device: str,
    gpu: str,
    gpus: int,
    names: Sequence[str],
    total_s: float,
    out: Path,
    folder: Path | None,
    told: Callable[[Part], None],
) -> GpuCheck:
    """Run the named parts and write `out`, also when it is interrupted: after each part with what is known."""
    began, started = iso(now_utc()), time.monotonic()
    done: list[Part] = []

    def check() -> GpuCheck:
        took_s = round(time.monotonic() - started, 1)
        return GpuCheck(began, device, gpu, gpus, SIZE[device], took_s, tuple(done))

    def note(part: Part) -> None:
        done.append(part)
        write_atomic(out, msgspec.json.format(msgspec.json.encode(check())) + b"\n")
        told(part)

    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as work:
        Path(work).chmod(0o755)  # the trainer's user reads what is there
        machine = confined(Machine(device, gpus, SIZE[device], work, new_run_id()))
        run_parts(machine, names, total_s=total_s, told=note)
    return check()
