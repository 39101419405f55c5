"""Models that say what a test wants: real GPTs whose next token depends on the last one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import Tokenizer


def noisy(config: GPTConfig, seed: int = 1) -> GPT:
    """A model with random weights everywhere, so that every token and position matters."""
    model = GPT.fresh(config)
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=generator), alpha=0.2)
    return model


def chain(
    tokenizer: Tokenizer, following: Mapping[int, int | Sequence[int]], sequence_len: int = 64
) -> GPT:
    """A model in which each token is followed by the given one, or by any of several with equal chance.

    An untrained model's blocks add nothing, so the logits are head @ embedding of the last token.
    """
    n = 8 * -(-len(following) // 8)
    model = GPT.fresh(GPTConfig(sequence_len, tokenizer.vocab_size, 1, 2, 2, n))
    model.transformer["wte"].weight.data.zero_()
    model.lm_head.weight.data.fill_(-1.0)
    for i, (token, after) in enumerate(following.items()):
        model.transformer["wte"].weight.data[token, i] = 1.0
        model.lm_head.weight.data[[after] if isinstance(after, int) else list(after), i] = 3.0
    return model


def script(tokens: Sequence[int]) -> dict[int, int]:
    """Each token followed by the one after it; all but the last must differ."""
    assert len(set(tokens[:-1])) == len(tokens) - 1
    return dict(zip(tokens, tokens[1:], strict=False))
