"""Is the machine what was paid for? GPUs, their memory, nobody else on them, CUDA working, room on the disk.

Checked before anything is downloaded; may cost --probation-usd at most. A machine that fails is deleted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from nanolan.gpus import gpu_problem, query_gpus, usable_cuda_devices
from nanolan.plan import Plan

PATIENCE_S = {"cuda": 300.0, "cpu": 2.0}  # a driver may come up late; in a rehearsal nothing does
LEAST_MEMORY = 0.85  # of the offer's memory; makers' gigabytes are of different kinds
STATE_SIZE = 2.7  # a state with its optimizer / the model file (measured at d20: 5.2 of 2.08 GB, and some air)
STATES = 3  # two that are kept and one being written


def inspect_machine(
    plan: Plan,
    work: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """What is wrong with this machine, or "" as soon as all that was rented is usable."""
    if problem := disk_problem(plan, shutil.disk_usage(work).free, already_here(work)):
        return problem
    end = clock() + min(
        PATIENCE_S[plan.device], 3600 * plan.probation_cents / max(plan.offer.hourly_cents, 1)
    )
    while problem := look(plan):
        if clock() > end:
            break
        sleep(1)
    return problem


def look(plan: Plan) -> str:
    """What is wrong with the GPUs now, or ""."""
    names = query_gpus("name")
    if problem := gpu_problem(plan, names, None):
        return problem
    if problem := memory_problem(plan, query_gpus("memory.total")) or busy_problem(
        query_gpus("pid", "compute-apps")
    ):
        return problem
    return gpu_problem(plan, names, usable_cuda_devices()) if plan.device == "cuda" else ""


def memory_problem(plan: Plan, told: list[str]) -> str:
    """nvidia-smi's memory.total lines ("81559 MiB") against the offer's; what cannot be read is no problem."""
    least_mib = LEAST_MEMORY * 1024 * plan.offer.vram_gb
    small = [t for t in told if t.split(" ")[0].isdigit() and int(t.split(" ")[0]) < least_mib]
    return (
        f"GPUs of {plan.offer.vram_gb} GB were rented, nvidia-smi shows {small[0]}" if small else ""
    )


def busy_problem(pids: list[str]) -> str:
    """Nobody else may compute on the GPUs before we do; what is no process id ("[N/A]", "[Insufficient Permissions]") is nobody."""
    pids = [p for p in pids if p.isdigit()]
    return f"{len(pids)} other process{'es' * (len(pids) > 1)} compute on the GPUs" if pids else ""


def disk_problem(plan: Plan, free: int, here: int) -> str:
    """Room for what is still to be downloaded and for the states; `here` bytes of it are used already."""
    model = max((f.size for p in plan.inputs for f in p.files if "/model_" in f.path), default=0)
    need = (
        sum(p.size for p in (*plan.inputs, *plan.datasets))
        + int(STATES * STATE_SIZE * model)
        - here
    )
    return (
        f"{free / 1e9:.1f} GB of disk are free, {need / 1e9:.1f} GB are needed"
        if free < need
        else ""
    )


def already_here(work: Path) -> int:
    """Bytes that an earlier life of this program has put on the disk."""
    return sum(
        p.stat().st_size
        for part in ("model", "data", "trainer/out")
        for p in (work / part).rglob("*")
        if p.is_file()
    )
