"""One step's gradients by micro-batches, and the validation slice: everything that runs the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanolan.errors import RunFailed
from nanolan.model.gpt import GPT, IGNORE
from nanolan.train.rows import Batch, Rows
from nanolan.train.world import World

Loss = Callable[..., Tensor]  # ids, targets, and positions if there are any, (B, T) -> summed nats


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 on CUDA, fp32 on the CPU."""
    return (
        torch.autocast("cuda", torch.bfloat16)
        if device.type == "cuda"
        else contextlib.nullcontext()
    )


def even_micro_batch(per_rank: int, fits: int) -> int:
    """Rows of a micro-batch: at most `fits`, so that `per_rank` rows make equal ones with the least filling."""
    return -(-per_rank // -(-per_rank // fits))


@dataclass
class Stepper:
    """Turns a rank's rows of a step into gradients; halves the micro-batch once if CUDA has no memory left."""

    loss_sum: Loss
    params: list[torch.nn.Parameter]
    micro: int
    device: torch.device
    halved: bool = False

    def gradients(
        self, batch: Batch, n_trained: float, stopped: Callable[[], bool] = lambda: False
    ) -> float:
        """Add up the gradients of loss / n_trained, n_trained counted over all ranks; this rank's summed loss.

        Ends between two micro-batches when `stopped()`; then the step is not worth anything, see `drop`.
        """
        loss = self._try(batch, n_trained, stopped)
        if loss is None:
            if self.halved or self.micro == 1:
                raise RunFailed(
                    f"CUDA is out of memory at {self.micro} row(s) a micro-batch; try a smaller --batch"
                )
            self.micro, self.halved = self.micro // 2, True
            print(
                f"CUDA is out of memory: going on with {self.micro} row(s) a micro-batch",
                flush=True,
            )
            return self.gradients(batch, n_trained, stopped)
        return loss

    def _try(self, batch: Batch, n_trained: float, stopped: Callable[[], bool]) -> float | None:
        """None when memory ran out: out of the except block nothing holds the step's memory any more."""
        try:
            losses = [torch.zeros((), device=self.device)]
            for part in zip(*(t.split(self.micro) for t in batch if t is not None), strict=True):
                if stopped():
                    break
                with autocast(self.device):
                    loss = self.loss_sum(*(t.to(self.device) for t in part))
                (loss / n_trained).backward()
                losses.append(loss.detach())
            return float(torch.stack(losses).sum())
        except torch.OutOfMemoryError:
            pass
        self.drop()
        torch.cuda.empty_cache()
        return None

    def drop(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None


@torch.no_grad()
def validate(
    model: GPT, rows: Rows, n_rows: int, micro: int, world: World, sizes: Tensor | None
) -> float | None:
    """Mean nats per trained token over the first `n_rows` rows, or bits per byte where token `sizes` are given.

    Special tokens (size 0) do not count in bits per byte. None when there is nothing to measure.
    """
    nats = weight = 0.0
    n_rows = min(n_rows, len(rows))
    mine = range(world.rank, n_rows, world.size)
    for at in range(0, len(mine), micro):
        batch = rows.batch(mine[at : at + micro], micro)
        targets = batch.targets
        if sizes is not None:
            targets = targets.masked_fill(
                (targets < 0) | (sizes[targets.clamp(min=0)] == 0), IGNORE
            )
        counted = targets[targets >= 0]
        weight += len(counted) if sizes is None else math.log(2) * int(sizes[counted].sum())
        with autocast(world.device):
            nats += float(model.loss_sum(*batch._replace(targets=targets).to(world.device)))
    nats, weight = world.totals(nats, weight)
    return nats / weight if weight else None
