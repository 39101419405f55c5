"""How big a model is: by its config, or from its tag. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanolan.architecture import GPTConfig

D20 = 560_988_160  # parameters; what the guide's times and dollars are of
VOCABULARY = 65_536


@dataclass(frozen=True)
class ModelSize:
    """What of a model's configuration its size depends on."""

    vocab_size: int
    n_layer: int
    n_embd: int
    kv_share: float = 1.0  # n_kv_head / n_head

    @property
    def n_params(self) -> int:
        """2 V C + L (10 C C + 2 C C kv_share): embedding, head, and per layer q, o, MLP and k, v."""
        C = self.n_embd
        return 2 * self.vocab_size * C + round(self.n_layer * (10 + 2 * self.kv_share) * C * C)


def size_of(config: GPTConfig) -> ModelSize:
    """The size of a model of this config."""
    return ModelSize(
        config.vocab_size, config.n_layer, config.n_embd, config.n_kv_head / config.n_head
    )


def parameters_of_tag(tag: str) -> int:
    """Parameters of nanochat's model of a tag such as d32 or d20-exp1, whose width is 64 x depth; a d20's for any other tag."""
    m = re.match(r"d([1-9][0-9]{0,2})(?![0-9])", tag)
    return ModelSize(VOCABULARY, int(m[1]), 64 * int(m[1])).n_params if m else D20
