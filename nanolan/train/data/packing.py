"""Packed rows of a split: the conversations of each row, and batches of rows as tensors."""

from __future__ import annotations

import hashlib
import random
import sys
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nanolan.errors import BadAnswer
from nanolan.model.gpt import IGNORE
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Part, open_mixture
from nanolan.train.data.tokenised import Store, tokenise
from nanolan.train.processes import Processes
from nanolan.train.recipe import Recipe


class NothingToTrain(BadAnswer):
    """No conversation of a mixture has an answer within a row; every rank finds the same."""


class Batch(NamedTuple):
    """Rows as tensors, each (B, T) int64."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: (
        torch.Tensor | None
    )  # position in its conversation, 0 where one begins; None: rows are not divided

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rows:
    """Rows of sequence_len + 1 tokens; each begins with a whole conversation and ends in padding, if any."""

    store: Store
    packed: list[list[int]]  # row -> conversations
    sequence_len: int
    train_all_tokens: bool
    own_attention: bool
    pad: int  # token of the padding; never a target

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def n_conversations(self) -> int:
        """Conversations in all rows, counting repeats."""
        return sum(len(row) for row in self.packed)

    def batch(self, numbers: Sequence[int], size: int | None = None) -> Batch:
        """These rows (repeating after the last), padded to `size` with untrained ones."""
        T = self.sequence_len
        row = np.full((size or len(numbers), T + 1), ~self.pad, np.int64)
        inside = np.zeros(row.shape, bool)
        positions = np.tile(np.arange(T + 1), (len(row), 1)) if self.own_attention else None
        for i, number in enumerate(numbers):
            conversations = [self.store[c] for c in self.packed[number % len(self)]]
            tokens = np.concatenate(conversations)
            row[i, : len(tokens)] = tokens
            inside[i, : len(tokens)] = True
            if positions is not None:
                for begin in np.cumsum([len(c) for c in conversations]):  # the padding is one more
                    positions[i, begin:] = np.arange(T + 1 - begin)
        trained = inside if self.train_all_tokens else row >= 0
        ids = np.where(row >= 0, row, ~row)
        targets = np.where(trained, ids, IGNORE)
        return Batch(
            torch.from_numpy(ids[:, :-1].copy()),
            torch.from_numpy(targets[:, 1:].copy()),
            None if positions is None else torch.from_numpy(positions[:, :-1].copy()),
        )

    def digest(self) -> str:
        """A fingerprint of the packed rows: equal for equal data, recipe and seed."""
        lengths, trained = self.store.length, self.store.trained
        order = np.array([c for row in self.packed for c in (*row, -1)], np.int64)
        return hashlib.sha256(b"".join(a.tobytes() for a in (lengths, trained, order))).hexdigest()[
            :16
        ]


def make_rows(
    parts: Sequence[Part],
    data_dir: Path,
    tokenizer: Tokenizer,
    recipe: Recipe,
    world: Processes,
    scratch: Path,
) -> Rows:
    """Read, tokenise, shuffle and pack a mixture; the same rows on every rank and for any number of ranks.

    Conversations with nothing to train inside a row (a question that fills it) are left out. BadAnswer
    when a data set is missing or nothing is left; a missing identity file is only a warning.
    """
    sources = open_mixture(parts, data_dir, recipe.seed, recipe.spelling_rows)
    if world.first:
        for note in (note for s in sources for note in s.notes):
            print(note, file=sys.stderr, flush=True)
    capacity = recipe.sequence_len + 1
    store = tokenise(sources, tokenizer, capacity, world, scratch)
    good = (store.length > 1) & (recipe.train_all_tokens | (store.trained > 0))
    order = [
        n
        for i, s in enumerate(sources)
        for _ in range(s.part.times)
        for n in range(store.first[i], store.first[i + 1])
        if good[n]
    ]
    if not order:
        raise NothingToTrain(f"no conversation to train in {data_dir}")
    left_out = int((store.length > 0).sum()) - int(good.sum())
    if left_out and world.first:
        print(
            f"{left_out} conversations have no answer within {recipe.sequence_len} tokens: left out",
            flush=True,
        )
    random.Random(recipe.seed).shuffle(order)  # noqa: S311
    packed = [[order[i] for i in row] for row in pack(store.length[order].tolist(), capacity)]
    return Rows(
        store,
        packed,
        recipe.sequence_len,
        recipe.train_all_tokens,
        recipe.own_attention,
        tokenizer.bos,
    )


LOOK_AHEAD = 100  # conversations to choose from; small, so that the order stays nearly shuffled


def pack(lengths: Sequence[int], capacity: int, look_ahead: int = LOOK_AHEAD) -> list[list[int]]:
    """Rows of indices into `lengths` whose lengths add up to at most `capacity`; each index exactly once.

    A row begins with the conversation that has waited longest, then takes the longest that still fits.
    Every length must be between 1 and `capacity`.
    """
    rows: list[list[int]] = []
    waiting: list[tuple[int, int]] = []  # (length, index), sorted
    order = iter(range(len(lengths)))
    while True:
        for i in order:
            insort(waiting, (lengths[i], i))
            if len(waiting) >= look_ahead:
                break
        if not waiting:
            return rows
        first = min(waiting, key=lambda item: item[1])
        waiting.remove(first)
        row, room = [first[1]], capacity - first[0]
        while (at := bisect_right(waiting, (room, len(lengths)))) > 0:
            length, i = waiting.pop(at - 1)
            row.append(i)
            room -= length
        rows.append(row)
