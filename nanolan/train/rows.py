"""Packed rows of a split: which conversations lie in which row, and batches of rows as tensors."""
from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nanolan.errors import BadAnswer
from nanolan.train.model import IGNORE
from nanolan.train.pack import pack
from nanolan.train.recipe import Recipe
from nanolan.train.store import Store, tokenise
from nanolan.train.tasks import Part, open_part
from nanolan.train.tokenizer import Tokenizer
from nanolan.train.world import World


@dataclass(frozen=True)
class Rows:
    """Rows of sequence_len + 1 tokens; each begins with a whole conversation and ends in padding, if any."""

    store: Store
    packed: list[list[int]]        # row -> conversations
    sequence_len: int
    train_all_tokens: bool
    pad: int                       # token of the padding; never a target

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def n_conversations(self) -> int:
        """Conversations in all rows, repeats counted."""
        return sum(len(row) for row in self.packed)

    def batch(self, numbers: Sequence[int], size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and targets (size, T) int64 of these rows (round and round), filled up with untrained rows."""
        T = self.sequence_len
        row = np.full((size or len(numbers), T + 1), ~self.pad, np.int64)
        inside = np.zeros(row.shape, bool)
        for i, number in enumerate(numbers):
            tokens = np.concatenate([self.store[c] for c in self.packed[number % len(self)]])
            row[i, :len(tokens)] = tokens
            inside[i, :len(tokens)] = True
        trained = inside if self.train_all_tokens else row >= 0
        ids = np.where(row >= 0, row, ~row)
        targets = np.where(trained, ids, IGNORE)
        return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets[:, 1:].copy())


def make_rows(parts: Sequence[Part], data_dir: Path, tokenizer: Tokenizer, recipe: Recipe, world: World,
              scratch: Path) -> Rows:
    """Read, tokenise, shuffle and pack a mixture; the same rows on every rank and for any number of ranks.

    Conversations with nothing to train inside a row (a question that fills it) are left out. BadAnswer
    when a data set is missing or nothing is left; a missing identity file is only a warning.
    """
    opened = [(part, open_part(part, data_dir, recipe.seed)) for part in parts]
    for part, source in opened:
        if source is None and world.first:
            print(f"warning: no {part.data} file in {data_dir}: trained without it", file=sys.stderr, flush=True)
    sources = [source for _, source in opened if source]
    capacity = recipe.sequence_len + 1
    store = tokenise(sources, tokenizer, capacity, world, scratch)
    good = (store.length > 1) & (recipe.train_all_tokens | (store.trained > 0))
    order = [n for i, s in enumerate(sources) for _ in range(s.part.times)
             for n in range(store.first[i], store.first[i + 1]) if good[n]]
    if not order:
        raise BadAnswer(f"no conversation to train in {data_dir}")
    left_out = int((store.length > 0).sum()) - int(good.sum())
    if left_out and world.first:
        print(f"{left_out} conversations have no answer within {recipe.sequence_len} tokens: left out", flush=True)
    random.Random(recipe.seed).shuffle(order)  # noqa: S311
    packed = [[order[i] for i in row] for row in pack(store.length[order].tolist(), capacity)]
    return Rows(store, packed, recipe.sequence_len, recipe.train_all_tokens, tokenizer.bos)
