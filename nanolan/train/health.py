"""Is it still learning? A loss or gradient that is no number, or a loss that explodes, ends a phase.

Exploding: PATIENCE steps in a row over FLOOR nats and over FACTOR times the mean of the last RECENT steps that were
not so high themselves; until there are so many, nothing counts as high. Every rank sees the same numbers and so
decides the same.
"""
from __future__ import annotations

import math
from collections import deque

import torch

from nanolan.errors import RunFailed
from nanolan.train.model import GPT

RECENT = 20
FACTOR = 3.0
FLOOR = 1.0              # nats: three times next to nothing is still next to nothing
PATIENCE = 10


class Health:
    """Watches the losses of a phase."""

    def __init__(self) -> None:
        self.high = 0        # steps in a row
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def calm(self) -> bool:
        """Whether the state of now is one to go on from."""
        return self.high == 0

    @property
    def limit(self) -> float:
        """What a loss should not be over."""
        if len(self._recent) < RECENT:
            return math.inf
        return max(FLOOR, FACTOR * sum(self._recent) / RECENT)

    def see(self, loss: float) -> None:
        """Take note of a step's loss."""
        if loss > self.limit:
            self.high += 1
            return
        self.high = 0
        self._recent.append(loss)

    def exploded(self) -> str:
        """What has gone wrong by the losses seen, or ""."""
        return f"the loss was over {self.limit:.3g} for {self.high} steps" if self.high >= PATIENCE else ""


def finite(model: GPT) -> bool:
    """Whether every weight is a number."""
    with torch.no_grad():
        return bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all())


def check_number(what: str, value: float, step: int, steps: int, kept: str) -> None:
    """RunFailed unless `value` is a finite number."""
    if not math.isfinite(value):
        raise RunFailed(f"the {what} is {value} at step {step} of {steps}: stopped, {kept}")
