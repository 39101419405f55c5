"""Seconds of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(act: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with all the work that it starts."""
    wait_for(device)
    began = time.perf_counter()
    act()
    wait_for(device)
    return time.perf_counter() - began


def usual_seconds(act: Callable[[], object], device: torch.device, calls: int) -> float:
    """The median of several calls."""
    return median(seconds(act, device) for _ in range(calls))
