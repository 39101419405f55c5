"""Is it still learning? A loss or gradient that is no number, or a loss that explodes, ends a phase.

Exploding: PATIENCE steps in a row over FLOOR nats and over FACTOR times the mean of the last RECENT steps that were
not so high themselves; until there are so many, nothing counts as high. Every rank sees the same numbers and so
decides the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import Tokenizer

RECENT = 20
FACTOR = 3.0
FLOOR = 1.0  # nats: three times next to nothing is still next to nothing
PATIENCE = 10
TRAINED, LOST = 0.6, 0.8  # of ln(vocabulary), the loss of guessing


class Health:
    """Watches the losses of a phase."""

    def __init__(self) -> None:
        self.high = 0  # steps in a row
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
        return (
            f"the loss was over {self.limit:.3g} for {self.high} steps"
            if self.high >= PATIENCE
            else ""
        )


def expected_loss(meta: Mapping[str, Any], tokenizer: Tokenizer) -> float | None:
    """Nats a token that a meta file says the model has reached; None when it does not say."""
    loss, bpb = (meta.get(name) for name in ("val_loss", "val_bpb"))
    if isinstance(loss, float):
        return loss
    if not isinstance(bpb, float):
        return None
    return bpb * math.log(2) * float(tokenizer.token_bytes().float().mean())


def check_start(loss: float, expected: float | None, vocab_size: int) -> None:
    """BadAnswer when the first step's loss is that of guessing although the meta tells of a trained model.

    Both bounds are generous: new data and formats double a loss, and do not bring it near that of guessing.
    """
    guessing = math.log(vocab_size)
    if expected is not None and expected < TRAINED * guessing and loss > LOST * guessing:
        raise BadAnswer(
            f"the first step's loss is {loss:.2f}, as of a model that guesses ({guessing:.2f}), but its meta says that "
            f"it was trained to about {expected:.2f}: its weights are damaged, or the tokenizer is another model's"
        )


def finite(model: GPT) -> bool:
    """Whether every weight is a number."""
    with torch.no_grad():
        return bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all())


def check_number(what: str, value: float, step: int, steps: int, kept: str) -> None:
    """RunFailed unless `value` is a finite number."""
    if not math.isfinite(value):
        raise RunFailed(f"the {what} is {value} at step {step} of {steps}: stopped, {kept}")
