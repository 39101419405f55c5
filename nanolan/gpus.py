"""Whether a rented machine has the GPUs that were paid for: nvidia-smi's count, and what torch can really use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from nanolan.plan import Plan

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
    """By nvidia-smi (the rehearsal's own in a rehearsal) a field of each GPU, or of its "compute-apps"; [] when it fails.

    A row is known by the GPU's id in front: what else is printed are warnings, and the exit code may be that of one.
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
