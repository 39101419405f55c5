"""Check the machine before anything is downloaded: number of GPUs, their memory, other processes on them, CUDA, disk space.

The check costs --probation-usd at most. A machine that fails it is deleted.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nanolan.plan import Plan
from nanolan.run.environment import Environment

PATIENCE_S = {"cuda": 300.0, "cpu": 2.0}  # a driver may come up late; in a rehearsal nothing does
LEAST_MEMORY = 0.85  # of the offer's memory; gigabytes are 10^9 or 2^30 bytes, by vendor
STATE_SIZE = 2.7  # a state with its optimizer / the model file (measured at d20: 5.2 of 2.08 GB, and a reserve)
STATES = 3  # two that are kept and one being written


def inspect_machine(
    plan: Plan,
    work: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """What is wrong with this machine, or "". Waits for a driver that comes up late, within the probation's money."""
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
    if plan.device != "cuda" or plan.fork:  # a fork's own PyTorch counts them (nanolan/box/fork.py)
        return ""
    return gpu_problem(plan, names, usable_cuda_devices())


def memory_problem(plan: Plan, lines: list[str]) -> str:
    """nvidia-smi's memory.total lines ("81559 MiB") against the offer's; a line that cannot be read counts as enough."""
    least_mib = LEAST_MEMORY * 1024 * plan.offer.vram_gb
    small = [
        line for line in lines if (mib := line.split(" ")[0]).isdigit() and int(mib) < least_mib
    ]
    return (
        f"GPUs of {plan.offer.vram_gb} GB were rented, nvidia-smi shows {small[0]}" if small else ""
    )


def busy_problem(pids: list[str]) -> str:
    """Other processes on the GPUs; a line that is no process id ("[N/A]", "[Insufficient Permissions]") does not count."""
    pids = [p for p in pids if p.isdigit()]
    return f"{len(pids)} other process{'es' * (len(pids) > 1)} compute on the GPUs" if pids else ""


def disk_problem(plan: Plan, free: int, here: int) -> str:
    """Whether the disk holds what is still to be downloaded and the states; `here` bytes of it are used already."""
    model = max(
        (f.size for p in plan.inputs for f in p.files if "model_" in f.path.rpartition("/")[2]),
        default=0,
    )
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
    """Bytes on the disk from an earlier start of this program."""
    return sum(
        p.stat().st_size
        for part in ("model", "data", "trainer/out")
        for p in (work / part).rglob("*")
        if p.is_file()
    )


ROW = re.compile(r"^GPU-[^,]+,[ \t]*(.*\S)[ \t]*$", re.M)


PROBE = (
    "import torch\nfor i in range(torch.cuda.device_count()): torch.ones(2, device=f'cuda:{i}').sum().item()\n"
    "print(torch.cuda.device_count())"
)


def gpu_problem(plan: Plan, names: list[str], usable: int | None) -> str:
    """What is wrong with the GPUs seen, or ""; `usable` counts CUDA devices that torch can use."""
    if len(names) != plan.offer.num_gpus:
        return f"{plan.offer.num_gpus} GPUs were rented, nvidia-smi shows {len(names)}"
    if usable is not None and usable != plan.processes:
        return f"{plan.processes} CUDA devices are needed, torch can use {usable}"
    return ""


def query_gpus(field: str, what: str = "gpu") -> list[str]:
    """A field of each GPU, or of its "compute-apps", from nvidia-smi (in a rehearsal, from its stand-in); [] when it fails.

    A row starts with the GPU's id. Other lines are warnings, and a warning can set the exit code.
    """
    own = Path(os.environ.get("BOX_ROOT", "") + "/usr/bin/nvidia-smi")
    uuid = "uuid" if what == "gpu" else "gpu_uuid"
    command = [
        str(own) if own.is_file() else "nvidia-smi",
        f"--query-{what}={uuid},{field}",
        "--format=csv,noheader",
    ]
    try:
        out = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return ROW.findall(out.stdout)


def usable_cuda_devices() -> int:
    """CUDA devices on which torch can compute, counted in a process that ends before training starts; 0 when it fails."""
    try:
        out = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=240
        )
    except subprocess.TimeoutExpired:
        return 0
    return int(out.stdout) if out.returncode == 0 else 0


PACKAGES = (
    "torch",
    "numpy",
    "tiktoken",
    "pyarrow",
    "safetensors",
    "huggingface_hub",
    "msgspec",
    "wandb",
)


@cache
def environment_here() -> Environment:
    """Versions and hardware of this machine, read once; what is unknown is left out."""
    drivers = query_gpus("driver_version")
    return Environment(
        platform.python_version(),
        platform.platform(),
        os.cpu_count(),
        _packages(),
        drivers[0].strip() if drivers else "",
        tuple(name.strip() for name in query_gpus("name")),
    )


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
