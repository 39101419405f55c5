"""One step's gradients by micro-batches, and the validation slice: everything that runs the model."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.gpt import GPT, IGNORE
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.packing import Batch, Rows
from nanolan.train.processes import Processes
from nanolan.train.reduction import Reduction

# ids, targets, and positions if there are any, (B, T), on the CPU or the model's device -> summed nats
Loss = Callable[..., Tensor]


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 on CUDA, fp32 on the CPU."""
    return (
        torch.autocast("cuda", torch.bfloat16)
        if device.type == "cuda"
        else contextlib.nullcontext()
    )


def even_micro_batch(per_rank: int, fits: int) -> int:
    """Rows of a micro-batch: at most `fits`, so that `per_rank` rows divide into equal ones with the least padding."""
    return -(-per_rank // -(-per_rank // fits))


@dataclass
class Stepper:
    """Turns a rank's rows of a step into gradients; halves the micro-batch once if CUDA has no memory left."""

    loss_sum: Loss
    params: list[torch.nn.Parameter]
    micro: int
    device: torch.device
    halved: bool = False
    reduction: Reduction | None = None  # of several ranks, beside the backward pass

    def padded(self, rows: int) -> int:
        """Rows to compute for so many: whole micro-batches on CUDA, where each other shape is compiled anew (it takes
        longer than the padding); elsewhere no more than these."""
        return -(-rows // self.micro) * self.micro if self.device.type == "cuda" else rows

    def gradients(
        self, batch: Batch, n_trained: float, stopped: Callable[[], bool] = lambda: False
    ) -> float:
        """Add up the gradients of loss / n_trained, n_trained counted over all ranks; this rank's summed loss.

        Ends between two micro-batches when `stopped()`; then the step is not worth anything, see `drop`. A batch without
        rows leaves no gradients: there are more ranks than rows.
        """
        loss = self._computed(batch, n_trained, stopped) if len(batch.ids) else 0.0
        if self.reduction:
            self.reduction.flush()
        return loss

    def _computed(self, batch: Batch, n_trained: float, stopped: Callable[[], bool]) -> float:
        loss = self._try(batch, n_trained, stopped)
        if loss is not None:
            return loss
        if self.halved or self.micro == 1:
            raise RunFailed(
                f"CUDA is out of memory at {self.micro} row(s) a micro-batch; try a smaller --batch"
            )
        self.micro, self.halved = self.micro // 2, True
        print(
            f"CUDA is out of memory: going on with {self.micro} row(s) a micro-batch",
            flush=True,
        )
        return self._computed(batch, n_trained, stopped)

    def _try(self, batch: Batch, n_trained: float, stopped: Callable[[], bool]) -> float | None:
        """None when memory ran out; outside the except block nothing keeps the step's memory alive."""
        try:
            losses = [torch.zeros((), device=self.device)]
            parts = [*zip(*(t.split(self.micro) for t in batch if t is not None), strict=True)]
            for i, part in enumerate(parts, 1):
                if stopped():
                    break
                if self.reduction and i == len(parts):
                    self.reduction.arm()
                with autocast(self.device):
                    loss = self.loss_sum(*part)
                (loss / n_trained).backward()
                losses.append(loss.detach())
            return float(torch.stack(losses).sum())
        except torch.OutOfMemoryError:
            pass
        if self.reduction:
            self.reduction.disarm()
        self._clear()
        torch.cuda.empty_cache()
        return None

    def drop(self) -> None:
        """Forget the step."""
        if self.reduction:
            self.reduction.drop()
        self._clear()

    def _clear(self) -> None:
        for p in self.params:
            p.grad = None


@torch.no_grad()
def validate(
    model: GPT, rows: Rows, n_rows: int, micro: int, world: Processes, sizes: Tensor | None
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


RECENT = 20


FACTOR = 3.0


FLOOR = 1.0  # nats: three times a tiny loss is still a tiny loss


PATIENCE = 10


TRAINED, LOST = 0.6, 0.8  # of ln(vocabulary), the loss of guessing


class Health:
    """Watches the losses of a phase."""

    def __init__(self) -> None:
        self.high = 0  # steps in a row
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def calm(self) -> bool:
        """Whether the current state is worth saving."""
        return self.high == 0

    @property
    def limit(self) -> float:
        """The loss above which training counts as diverging."""
        if len(self._recent) < RECENT:
            return math.inf
        return max(FLOOR, FACTOR * sum(self._recent) / RECENT)

    def see(self, loss: float) -> None:
        """Record a step's loss."""
        if loss > self.limit:
            self.high += 1
            return
        self.high = 0
        self._recent.append(loss)

    def exploded(self) -> str:
        """The problem that the losses show, or ""."""
        return (
            f"the loss was over {self.limit:.3g} for {self.high} steps"
            if self.high >= PATIENCE
            else ""
        )


def expected_loss(meta: Mapping[str, Any], tokenizer: Tokenizer) -> float | None:
    """Nats a token that a meta file says the model has reached; None if it does not say."""
    loss, bpb = (meta.get(name) for name in ("val_loss", "val_bpb"))
    if isinstance(loss, float):
        return loss
    if not isinstance(bpb, float):
        return None
    return bpb * math.log(2) * float(tokenizer.token_bytes().float().mean())


def check_start(loss: float, expected: float | None, vocab_size: int) -> None:
    """BadAnswer when the first step's loss is that of guessing although the meta describes a trained model.

    Both bounds are generous: new data and formats double a loss, and do not bring it near that of guessing.
    """
    guessing = math.log(vocab_size)
    if expected is not None and expected < TRAINED * guessing and loss > LOST * guessing:
        raise BadAnswer(
            f"the first step's loss is {loss:.2f}, as of a model that guesses ({guessing:.2f}), but its meta says that "
            f"it was trained to about {expected:.2f}: its weights are damaged, or the tokenizer is another model's"
        )


@torch.no_grad()
def finite(model: GPT) -> bool:
    """Whether every weight is finite."""
    # a sum with a weight that is not finite is not finite either, and takes a fifth of the time
    if bool(torch.stack([p.sum(dtype=torch.float32) for p in model.parameters()]).isfinite().all()):
        return True
    return bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all())


def check_number(what: str, value: float, step: int, steps: int, kept: Callable[[], str]) -> None:
    """RunFailed unless `value`, the same on all ranks, is a finite number; `kept()` says what is saved."""
    if not math.isfinite(value):
        raise RunFailed(f"the {what} is {value} at step {step} of {steps}: stopped, {kept()}")
