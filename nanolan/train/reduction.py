"""Sums the gradients over the ranks while the backward pass still computes others (mid and sft on several ranks).

The parameters are divided into buckets: embedding and head, one each, whose sum every rank needs, and for each shape of
matrices those that one rank updates, whose sum only that rank needs. In the backward pass of a step's last micro-batch
a bucket is sent as soon as its last gradient is there. All ranks send in one order, whatever order theirs become ready
in, and each sends every bucket of every step, also when it has no rows or stops: so no rank waits for another in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanolan.train.optim import AdamW, Muon, Optimizer
from nanolan.train.processes import Processes, among_peers


@dataclass
class Bucket:
    """Gradients that are sent together: `owner` gets their sum, or every rank."""

    part: int  # of the optimizer
    params: Sequence[Tensor]
    owner: int | None
    rows: int  # matrices, with what fills up the last rank's; 0: the gradient as it is
    left: int = 0  # gradients that are not there yet
    sent: Tensor | None = None
    work: Any = None  # the collective under way

    def filled(self) -> Tensor:
        """The gradients in one tensor; zeros where there is none."""
        if not self.rows:
            [p] = self.params
            return torch.zeros_like(p) if p.grad is None else p.grad
        stack = self.params[0].new_zeros((self.rows, *self.params[0].shape))
        for i, p in enumerate(self.params):
            if p.grad is not None:
                stack[i].copy_(p.grad)
        return stack


@dataclass
class Reduction:
    """The sums of a model's gradients over all ranks, a step at a time: arm, backward pass, flush, take each part."""

    optimizer: Optimizer
    world: Processes
    buckets: list[Bucket] = field(default_factory=list)
    armed: bool = False
    next: int = 0  # the first bucket that is not sent

    def __post_init__(self) -> None:
        self.buckets = buckets_of(self.optimizer, self.world)
        for bucket in self.buckets:
            for p in bucket.params:
                p.register_post_accumulate_grad_hook(partial(self._ready, bucket))

    def arm(self) -> None:
        """The next backward pass is the last of the step."""
        self.armed = True
        for bucket in self.buckets[self.next :]:
            bucket.left = len(bucket.params)

    def disarm(self) -> None:
        """The pass failed and comes again: what is sent is whole and stays sent."""
        self.armed = False

    def _ready(self, bucket: Bucket, param: Tensor) -> None:
        """A gradient of a bucket is whole."""
        if not self.armed:
            return
        bucket.left -= 1
        while self.next < len(self.buckets) and self.buckets[self.next].left <= 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self.next]
        bucket.sent = bucket.filled()  # memory may run out here: then nothing has changed
        with among_peers():
            if bucket.owner is None:
                bucket.work = dist.all_reduce(bucket.sent, async_op=True)
            else:
                bucket.work = dist.reduce(bucket.sent, bucket.owner, async_op=True)
        self.next += 1
        for p in bucket.params:
            p.grad = None

    def flush(self) -> None:
        """Send what is left of this step. Every rank calls it once a step."""
        self.disarm()
        while self.next < len(self.buckets):
            self._send()
        for bucket in self.buckets:  # a repeated pass has made them again
            for p in bucket.params:
                p.grad = None

    @property
    def order(self) -> list[int]:
        """The optimizer's parts in the order in which their sums arrive."""
        return list(dict.fromkeys(bucket.part for bucket in self.buckets))

    def take(self, part: int) -> Tensor | None:
        """The sum of one part that this rank needs, None if it updates nothing there; waits for this part alone."""
        mine = None
        for bucket in self.buckets:
            if bucket.part == part and bucket.work:
                with among_peers():
                    bucket.work.wait()
                mine = bucket.sent if bucket.owner in (None, self.world.rank) else mine
                bucket.sent = bucket.work = None
        if not any(bucket.work for bucket in self.buckets):
            self.next = 0  # the step is over
        return mine

    def drop(self) -> None:
        """Wait for all that is sent, and forget it."""
        for part in self.order:
            self.take(part)


def buckets_of(optimizer: Optimizer, world: Processes) -> list[Bucket]:
    """The buckets, in the order of the backward pass: the head, the matrices from the last layer on, the embedding."""
    head, *rest = optimizer.parts
    embedding = [n for n, part in enumerate(rest, 1) if isinstance(part, AdamW)]
    order = [b for n, part in enumerate(rest, 1) if isinstance(part, Muon) for b in dealt(n, part)]
    order.sort(key=lambda b: -(b.owner or 0))
    ends = [(0, head), *((n, optimizer.parts[n]) for n in embedding)]
    whole = [Bucket(n, [part.param], None, 0) for n, part in ends if isinstance(part, AdamW)]
    return [*whole[:1], *order, *whole[1:]]


def dealt(number: int, part: Muon) -> list[Bucket]:
    """A part's matrices by the rank that updates them; the last ranks may have none."""
    n = part.per_rank
    slices = (part.params[i : i + n] for i in range(0, len(part.params), n))
    return [Bucket(number, params, owner, n) for owner, params in enumerate(slices)]
