"""Facts of the machine: GPUs, driver, versions, device nodes, disk, limits, the kernel's lines on GPUs."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanolan.box.machine_check import environment_here, query_gpus
from nanolan.gpu_check.machine import Machine

ASKED = ("name", "driver_version", "memory.total", "pstate", "power.limit", "clocks.max.sm",
         "ecc.errors.uncorrected.volatile.total", "pcie.link.gen.current")  # fmt: skip
VERSIONS = """
import json, torch
cuda = torch.cuda.is_available()
nccl = ".".join(map(str, torch.cuda.nccl.version())) if cuda else ""
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda or "", "nccl": nccl,
                  "cudnn": torch.backends.cudnn.version() or 0, "archs": torch.cuda.get_arch_list()}))
"""
XID = re.compile(r"NVRM: Xid.*")
WRITTEN_MB = 256  # to the disk, to time it
TOOL_S = 20.0


def facts(machine: Machine) -> dict[str, Any]:
    """Everything that can be read without using a GPU."""
    gpus = {name: query_gpus(name) for name in ASKED} if machine.device == "cuda" else {}
    return {
        **{name: found for name, found in gpus.items() if found},
        "fabric": _fabric() if gpus else [],
        **_versions(),
        "python": environment_here().python,
        "system": environment_here().system,
        "cpus": os.cpu_count(),
        "nodes": device_nodes(Path("/dev")),
        "disk_free_gb": round(shutil.disk_usage(machine.work).free / 1e9, 1),
        "disk_mb_s": disk_mb_s(machine.folder),
        "shm_free_gb": _free_gb(Path("/dev/shm")),  # noqa: S108
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked_memory": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "xid": xid_lines(),
    }


def _versions() -> dict[str, Any]:
    """PyTorch and its libraries, asked in a process that ends; {} when it fails."""
    found: dict[str, Any] = json.loads(_said([sys.executable, "-c", VERSIONS], 120.0) or "{}")
    return found


def _fabric() -> list[str]:
    """The lines of nvidia-smi on NVSwitch: its state and status, once each."""
    lines = _said(["nvidia-smi", "-q"]).splitlines()
    at = [i for i, line in enumerate(lines) if line.strip() == "Fabric"]
    return sorted({" ".join(line.split()) for i in at for line in lines[i + 1 : i + 3]})


def device_nodes(dev: Path) -> list[str]:
    """ "MODE GROUP NAME" of each NVIDIA device node."""
    found = []
    for path in sorted(p for p in dev.iterdir() if p.name.startswith("nvidia")):
        for node in [path] if not path.is_dir() else sorted(path.iterdir()):
            facts = node.lstat()
            found.append(f"{facts.st_mode & 0o777:o} {facts.st_gid} {node.relative_to(dev)}")
    return found


def disk_mb_s(folder: Path) -> float:
    """Megabytes a second of a file that is written and synced."""
    path, block = folder / "disk-speed", os.urandom(1 << 20)
    began = time.perf_counter()
    try:
        with path.open("wb") as f:
            for _ in range(WRITTEN_MB):
                f.write(block)
            f.flush()
            os.fsync(f.fileno())
        return round(WRITTEN_MB * (1 << 20) / 1e6 / (time.perf_counter() - began), 1)
    finally:
        path.unlink(missing_ok=True)


def xid_lines() -> list[str]:
    """The driver's errors in the kernel's log; none where it cannot be read."""
    return XID.findall(_said(["dmesg"]))


def _free_gb(path: Path) -> float | None:
    return round(shutil.disk_usage(path).free / 1e9, 1) if path.is_dir() else None


def _said(command: list[str], limit_s: float = TOOL_S) -> str:
    """What a program prints; "" when it fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
