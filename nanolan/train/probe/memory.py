"""Memory runs out on one rank: it halves its micro-batch and goes on, and the others wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanolan.errors import RunFailed
from nanolan.model.gpt import GPT
from nanolan.train.data.packing import Batch
from nanolan.train.probe.inputs import SEED, config_of
from nanolan.train.probe.timing import seconds
from nanolan.train.processes import Processes
from nanolan.train.step import Stepper

KEPT = 0.8  # of the memory that the micro-batch needs


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """{"rows", "after", "recover_s"}: rows of the micro-batch before and after on rank 0, seconds of the step that ran out.

    RunFailed when memory did not run out. On the CPU, where nothing runs out, the loss function says so.
    """
    config, rows = config_of(setup["size"]), int(setup["rows"])
    model = GPT.fresh(config, SEED).to(world.device)
    ids = torch.randint(
        0, 256, (rows, config.sequence_len + 1), generator=torch.Generator().manual_seed(0)
    )
    batch = Batch(ids[:, :-1], ids[:, 1:], None)
    stepper = Stepper(_loss(model, rows, world), list(model.parameters()), rows, world.device)
    if world.device.type == "cuda":
        limit_memory(stepper, batch, world)
    took_s = seconds(lambda: stepper.gradients(batch, batch.targets.numel()), world.device)
    if world.first and not stepper.halved:
        raise RunFailed(f"{rows} rows fit although memory for {KEPT:.0%} of them was left")
    for p in stepper.params:
        if p.grad is not None:
            world.sum_(p.grad)
    if world.totals(stepper.halved)[0] != 1:
        raise RunFailed("memory ran out on another rank than the first")
    return {"rows": rows, "after": stepper.micro, "recover_s": round(took_s, 3)}


def limit_memory(stepper: Stepper, batch: Batch, world: Processes) -> None:
    """Let rank 0 have a share of what the step needs; the others keep all."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stepper.gradients(batch, batch.targets.numel())
    needed = torch.cuda.max_memory_allocated() - before
    stepper.drop()
    torch.cuda.empty_cache()
    if world.first:
        share = (torch.cuda.memory_allocated() + KEPT * needed) / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(share)


def _loss(model: GPT, rows: int, world: Processes) -> Any:
    """The model's loss; on rank 0 of a CPU it has no memory for all `rows`."""

    def loss_sum(ids: Tensor, targets: Tensor) -> Tensor:
        if world.device.type == "cpu" and world.first and len(ids) == rows:
            raise torch.OutOfMemoryError("a rehearsal")
        return model.loss_sum(ids, targets)

    return loss_sum
