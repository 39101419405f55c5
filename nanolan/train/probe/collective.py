"""Do all ranks compute, and reach each other? A sum and a gather over all of them, checked number by number."""

from __future__ import annotations

import time
from typing import Any

import torch

from nanolan.errors import RunFailed
from nanolan.train.processes import Processes

ELEMENTS = 1 << 24  # 64 MiB of fp32: enough for every link and both protocols of NCCL
WARM_UP = 1 << 10


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """{"ranks", "first_s", "sum_s"}: seconds of the first collective, which connects the ranks, and of a large one.

    With "compile" in the setup also {"compile_s"}: seconds of rank 0 to compile a
    small function. RunFailed for a wrong number.
    """
    began = time.perf_counter()
    check_sum(world, WARM_UP)
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    check_sum(world, int(setup.get("elements", ELEMENTS)))
    sum_s = time.perf_counter() - began
    check_gather(world)
    compiles = setup.get("compile") and world.first
    compiled = {"compile_s": round(compile_s(world), 2)} if compiles else {}
    return {
        "ranks": world.size,
        "first_s": round(first_s, 3),
        "sum_s": round(sum_s, 4),
        **compiled,
    }


def check_sum(world: Processes, elements: int) -> None:
    """Rank r contributes r + 1 everywhere; RunFailed unless all ranks get the sum, which fp32 holds exactly."""
    t = torch.full((elements,), float(world.rank + 1), device=world.device)
    world.sum_(t)
    low, high = (float(x) for x in torch.aminmax(t))  # waits for the GPU
    expected = world.size * (world.size + 1) / 2
    if (low, high) != (expected, expected):
        raise RunFailed(
            f"rank {world.rank}: a sum over all ranks is {low:g} to {high:g}, not {expected:g}"
        )


def check_gather(world: Processes) -> None:
    """RunFailed unless every rank's part arrives at its place."""
    part = torch.full((1,), world.rank, dtype=torch.bfloat16, device=world.device)
    found = world.gather(part).tolist()
    if found != list(range(world.size)):
        raise RunFailed(f"rank {world.rank}: gathered {found} from {world.size} ranks")


def compile_s(world: Processes) -> float:
    """Seconds to compile a small function; RunFailed when it computes something else."""
    began = time.perf_counter()
    x = torch.arange(1024, dtype=torch.float32, device=world.device)
    y = torch.compile(lambda t: (t * 2 + 1).relu().sum())(x)
    if float(y) != float((x * 2 + 1).relu().sum()):
        raise RunFailed(f"rank {world.rank}: a compiled function computes {float(y):g}")
    return time.perf_counter() - began
