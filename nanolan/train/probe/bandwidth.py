"""How fast the ranks exchange gradients and updates, and whether all get the same bits."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from nanolan.errors import RunFailed
from nanolan.train.probe.timing import seconds, usual_seconds
from nanolan.train.processes import Processes

CALLS = 5


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """{"first_s", "sum_gb_s", "gather_gb_s", "mb"}: gigabytes a second of a rank's link, as NCCL counts its bus.

    "mb" is the size of the fp32 tensor that is summed; half as many bytes are gathered in bf16. RunFailed when two ranks differ.
    """
    elements = int(setup["elements"])
    generator = torch.Generator().manual_seed(world.rank)
    t = torch.randn(elements, generator=generator).to(world.device)
    first_s = seconds(lambda: world.sum_(t[:1024].clone()), world.device)
    check_bits(t.clone(), world)
    sum_s = usual_seconds(lambda: world.sum_(t), world.device, CALLS)
    part = t[: max(1, elements // world.size)].bfloat16()
    gather_s = usual_seconds(lambda: world.gather(part), world.device, CALLS)
    share = (
        world.size - 1
    ) / world.size  # of the bytes that cross a rank's link, once for a gather
    return {
        "first_s": round(first_s, 3),
        "mb": round(elements * 4 / 1e6, 1),
        "sum_gb_s": round(2 * share * elements * 4 / sum_s / 1e9, 3),
        "gather_gb_s": round(share * part.numel() * world.size * 2 / gather_s / 1e9, 3),
    }


def check_bits(t: torch.Tensor, world: Processes) -> None:
    """RunFailed unless the sum has the same bits on all ranks: the models of the ranks stay equal by that."""
    world.sum_(t)
    digest = hashlib.sha256(t.cpu().numpy().tobytes()).digest()[:6]
    mine = float(int.from_bytes(digest, "big"))  # 48 bits: exact in float64
    first = world.totals(mine if world.first else 0.0)[0]
    different = int(world.totals(mine != first)[0])
    if different:
        raise RunFailed(f"a sum has other bits on {different} of {world.size} ranks than on rank 0")
