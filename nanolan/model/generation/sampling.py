"""Sampling of the next token. Each row has its own random numbers, so the batch never changes its output.

A row's numbers come from (seed, key of the prompt, number of the sample) and are counted by the token's place
in the completion: the same row draws the same way alone, in any batch, and on any rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to sample. Temperature 0 takes the likeliest token; top_k None draws from the whole vocabulary."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = 50
    seed: int = 0


def uniforms(seed: int, key: int, sample: int, n: int) -> Tensor:
    """n random numbers in [0, 1) for one row."""
    return torch.from_numpy(np.random.default_rng((seed, key, sample)).random(n, np.float32))


def draw(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """A token (B,) for each row of logits (B, V), by the row's number in `uniform` (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    k = min(sampling.top_k or logits.size(-1), logits.size(-1))
    likeliest, tokens = logits.topk(k)
    reached = (likeliest / sampling.temperature).softmax(-1).cumsum(-1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(-1, keepdim=True).clamp(max=k - 1)
    return tokens.gather(1, place)[:, 0]
