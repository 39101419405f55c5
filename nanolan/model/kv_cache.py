"""Keys and values of the rows in generation, in static memory, addressed by position.

A row's slot is the token's position, whatever the other rows' lengths: nothing is padded on the left, masks are
`slot <= position`, and a row is set back (after a calculator call) by writing its position alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanolan.model.gpt import GPT, Attend, causal


class Cache:
    """k and v of every layer, (rows, K, slots, D); rows 0..n-1 are in use."""

    def __init__(self, model: GPT, rows: int, slots: int) -> None:
        p, config = model.lm_head.weight, model.config
        shape = (rows, config.n_kv_head, slots, config.n_embd // config.n_head)
        self.model, self.n = model, 0
        # zeros, not empty: a masked slot has weight 0, but 0 * nan is nan
        self.k = [torch.zeros(shape, dtype=p.dtype, device=p.device) for _ in range(config.n_layer)]
        self.v = [torch.zeros_like(k) for k in self.k]

    def admit(self, ids: Tensor, lengths: Tensor, prompt_of: Tensor) -> Tensor:
        """Add new rows: row i is prompt_of[i] of the right-padded prompts `ids` (P, T) with `lengths` (P,).

        Returns the last hidden state of each prompt, (P, C).
        """
        positions = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        hidden = self.model.trunk_at(ids, positions, self._filling(prompt_of))
        self.n += len(prompt_of)
        return hidden[torch.arange(len(ids), device=ids.device), lengths - 1]

    def _filling(self, prompt_of: Tensor) -> Iterator[Attend]:
        for k_all, v_all in zip(self.k, self.v, strict=True):

            def attend(
                q: Tensor, k: Tensor, v: Tensor, k_all: Tensor = k_all, v_all: Tensor = v_all
            ) -> Tensor:
                new, T = slice(self.n, self.n + len(prompt_of)), k.size(2)
                k_all[new, :, :T], v_all[new, :, :T] = k[prompt_of], v[prompt_of]
                return causal(q, k, v)

            yield attend

    def advance(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Add a token at its position to each row in use, both (n,); hidden states (n, C). `longest` > positions."""
        seen = torch.arange(longest, device=positions.device) <= positions[:, None]
        return self.model.trunk_at(
            tokens[:, None], positions[:, None], self._growing(positions, longest, seen)
        )[:, 0]

    def _growing(self, positions: Tensor, longest: int, seen: Tensor) -> Iterator[Attend]:
        rows = torch.arange(self.n, device=positions.device)
        mask = seen[:, None, None]  # (n, 1, 1, longest)
        for k_all, v_all in zip(self.k, self.v, strict=True):

            def attend(
                q: Tensor, k: Tensor, v: Tensor, k_all: Tensor = k_all, v_all: Tensor = v_all
            ) -> Tensor:
                k_all[rows, :, positions], v_all[rows, :, positions] = k[:, :, 0], v[:, :, 0]
                past = k_all[: self.n, :, :longest], v_all[: self.n, :, :longest]
                return F.scaled_dot_product_attention(
                    q, *past, attn_mask=mask, enable_gqa=k.size(1) < q.size(1)
                )

            yield attend

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keep only these rows; returns their new order. Moves only as many rows as there are gaps."""
        kept = set(rows)
        gaps = [i for i in range(len(rows)) if i not in kept]
        movers = [i for i in rows if i >= len(rows)]
        if gaps:
            for t in (*self.k, *self.v):
                t[gaps] = t[movers]
        filled = dict(zip(gaps, movers, strict=True))
        self.n = len(rows)
        return [filled.get(i, i) for i in range(len(rows))]
