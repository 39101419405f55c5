"""Copies of a rank's tensors in host memory, and how much of it is free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor

CGROUP = Path("/sys/fs/cgroup")


class HostCopy:
    """Copies of tensors in host memory. With `keep`, the memory is used again by the next copy: it need not be mapped again."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._kept: dict[str, Tensor] = {}

    def missing_bytes(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes that `take` would allocate."""
        return sum(t.nbytes for key, t in tensors.items() if self._usable(key, t) is None)

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of `tensors`, complete when this returns; valid until the next call. The caller holds the only reference
        unless they are kept."""
        copies = {}
        for key, t in tensors.items():
            kept = self._usable(key, t)
            copies[key] = new_memory(t) if kept is None else kept
            copies[key].copy_(t)
        self._kept = dict(copies) if self._keep else {}
        return copies

    def _usable(self, key: str, t: Tensor) -> Tensor | None:
        kept = self._kept.get(key)
        return kept if kept is not None and (kept.shape, kept.dtype) == (t.shape, t.dtype) else None


def new_memory(t: Tensor) -> Tensor:
    """Memory on the host for a copy of `t`; its content is not defined."""
    memory = torch.empty(t.shape, dtype=t.dtype)
    if (
        t.is_cuda
    ):  # mapped here by all threads: a copy from a GPU would map it page by page, 0.6 s/GB
        memory.zero_()
    return memory


def available_bytes(cgroup: Path = CGROUP) -> int:
    """Memory that this machine, or the container that this process is in, can still give without swapping."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text())  # ValueError for "max": no limit
        used = int((cgroup / "memory.current").read_text())
        cache = re.search(r"^inactive_file (\d+)$", (cgroup / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):
        return free
    return min(free, limit - used + (int(cache[1]) if cache else 0))
