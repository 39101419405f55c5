"""Keys and values of the rows in generation, in static memory, addressed by position.

A row's slot is the token's position, whatever the other rows' lengths: nothing is padded on the left, masks are
`slot <= position`, and a row is set back (after a calculator call) by writing its position alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from nanolan.model.gpt import GPT, Attend, causal


class Cache:
    """`kv` (layers, 2, rows, K, slots, D)."""

    def __init__(self, model: GPT, rows: int, slots: int) -> None:
        p, config = model.lm_head.weight, model.config
        shape = (rows, config.n_kv_head, slots, config.n_embd // config.n_head)
        self.model = model
        # zeros, not empty: a masked slot has weight 0, but 0 * nan is nan
        self.kv = torch.zeros((config.n_layer, 2, *shape), dtype=p.dtype, device=p.device)

    def fill(self, ids: Tensor, prompt_of: Tensor, rows: Tensor) -> Tensor:
        """Put the right-padded prompts `ids` (P, T) into rows (m,): rows[i] gets prompt_of[i]. Hidden states (P, T, C)."""
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        return self.model.trunk_at(ids, positions, self._filling(prompt_of, rows))

    def _filling(self, prompt_of: Tensor, rows: Tensor) -> Iterator[Attend]:
        for keys, values in self.kv:

            def attend(
                q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                T = k.size(2)
                keys[rows, :, :T], values[rows, :, :T] = k[prompt_of], v[prompt_of]
                return causal(q, k, v)

            yield attend

    def advance(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Add a token at its position to each of the first n rows, both (n,); hidden states (n, C).

        Rows attend to slots below `longest`; it must be greater than the positions that count.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        later = torch.arange(longest, device=tokens.device) > positions[:, None]
        mask = self.kv.new_zeros(later.shape).masked_fill_(later, -torch.inf)[:, None, None]
        return self.model.trunk_at(
            tokens[:, None], positions[:, None], self._growing(rows, positions, mask)
        )[:, 0]

    def _growing(self, rows: Tensor, positions: Tensor, mask: Tensor) -> Iterator[Attend]:
        """`mask` (n, 1, 1, longest) is added to the scores."""
        n, longest = len(rows), mask.size(-1)
        for keys, values in self.kv:

            def attend(
                q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                keys[rows, :, positions], values[rows, :, positions] = k[:, :, 0], v[:, :, 0]
                past = keys[:n, :, :longest], values[:n, :, :longest]
                return F.scaled_dot_product_attention(
                    q, *past, attn_mask=mask, enable_gqa=k.size(1) < q.size(1)
                )

            yield attend

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of a row over those of another."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]
