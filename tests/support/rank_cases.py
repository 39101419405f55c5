"""What tests run on real ranks, by tests/support/ranks.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nanolan.model.checkpoint import write_tensors
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.state.saving import States

RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


def say(line: str) -> None:
    """A line in one write: the ranks share stdout."""
    os.write(1, f"{line}\n".encode())


def stepped(world: Processes, steps: int) -> tuple[GPT, Optimizer, list[float]]:
    """A small model after steps with gradients that differ on each rank, its optimizer, and the gradients' norms."""
    model = GPT.fresh(GPTConfig(16, 64, 3, 4, 2, 32))
    optimizer = make_optimizer(model, world, **RATES)
    generator, norms = torch.Generator().manual_seed(world.rank), []
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        norms.append(optimizer.step(1.0, 0.95))
    return model, optimizer, norms


def scattered_is_summed(world: Processes) -> None:
    """reduce_scatter gives the bits of all_reduce, on gloo; a rank's momentum is the same, too."""
    results = []
    for scatters in (False, True):
        model, optimizer, norms = stepped(replace(world, scatters=scatters), 3)
        results.append((dict(model.state_dict()), optimizer.state(world.rank), norms))
    for one, other in zip(results[0][:2], results[1][:2], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert results[0][2] == results[1][2]
    say(f"rank {world.rank} scatters: {world.scatters}, norms {results[0][2]}")


def one_rank_cannot_save(world: Processes, out: str) -> None:
    """The disk of rank 1 fails in the second of three saves."""
    model, optimizer, _ = stepped(world, 1)
    folder = Path(out)
    job = Job("mid", "ab12cd34", "r", "d", "cpu", *(folder for _ in range(3)), folder / "out", folder, folder)  # fmt: skip
    s = States(job, world, model, optimizer, write=failing(world))
    for step in (1, 2, 3):
        s.save(step, {}, [0.0] * step, beside=True)
        s.settle()
        say(f"rank {world.rank} step {step}: {s.kept()}")


def failing(world: Processes) -> Any:
    """Writes tensors, but for rank 1 in step 2."""

    def write(path: Path, state: Any, cancelled: Any) -> Any:
        if world.rank == 1 and "000002" in path.name:
            raise OSError(28, "No space left on device")
        return write_tensors(path, state, cancelled)

    return write
