"""Tokenised conversations on disk, made once by all ranks together and shared as memory maps.

Rank r renders every size-th block of rows into files of its own; then all ranks map all files. A token
that is trained is stored as its id, one that is not as ~id (negative): ids and mask in one array.
"""
from __future__ import annotations

import shutil
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nanolan.train.conversation import render
from nanolan.train.tasks import Source
from nanolan.train.tokenizer import Tokenizer
from nanolan.train.world import World


@dataclass(frozen=True)
class Store:
    """Conversations by number: rows of source 0 first, then source 1 ... whatever the number of ranks."""

    tokens: list[npt.NDArray[np.int32]]    # one array a rank
    shard: npt.NDArray[np.int64]           # conversation -> which array
    start: npt.NDArray[np.int64]           # conversation -> where in it
    length: npt.NDArray[np.int64]          # conversation -> tokens; 0: not chosen
    trained: npt.NDArray[np.int64]         # conversation -> tokens that are trained
    first: list[int]                       # source -> its first conversation

    def __getitem__(self, conversation: int) -> npt.NDArray[np.int32]:
        """The signed tokens of a conversation."""
        at = self.start[conversation]
        return self.tokens[self.shard[conversation]][at:at + self.length[conversation]]


def tokenise(sources: Sequence[Source], tokenizer: Tokenizer, max_tokens: int, world: World, scratch: Path) -> Store:
    """Render all sources, cut at `max_tokens`, into `scratch` (a folder for this call, removed again).

    Every rank calls this; all must see the same `scratch`.
    """
    first = np.cumsum([0, *(s.rows for s in sources)]).tolist()
    scratch.mkdir(parents=True, exist_ok=True)
    table, tokens = _render_share(sources, first, tokenizer, max_tokens, world)
    np.save(scratch / f"table-{world.rank}.npy", table)
    np.save(scratch / f"tokens-{world.rank}.npy", tokens)
    world.meet()                                    # every rank has written
    store = _open(scratch, world.size, first)
    world.meet()                                    # every rank has mapped: the names may go, the data stay
    if world.first:
        shutil.rmtree(scratch, ignore_errors=True)
    return store


def _render_share(sources: Sequence[Source], first: list[int], tokenizer: Tokenizer, max_tokens: int,
                  world: World) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """This rank's table (conversation, length, trained) and tokens."""
    table, tokens = array("q"), array("i")
    dealt = [(s, i, block) for i, s in enumerate(sources) for block in s.blocks][world.rank::world.size]
    for source, i, block in dealt:
        for row, c in source.take(block):
            ids, mask = render(c, tokenizer, max_tokens)
            tokens.extend([t if m else ~t for t, m in zip(ids, mask, strict=True)])
            table.extend((first[i] + row, len(ids), sum(mask)))
    return np.array(table, np.int64).reshape(-1, 3), np.array(tokens, np.int32)


def _open(scratch: Path, size: int, first: list[int]) -> Store:
    shard, start, length, trained = (np.zeros(first[-1], np.int64) for _ in range(4))
    tokens = []
    for rank in range(size):
        number, n, n_trained = np.load(scratch / f"table-{rank}.npy").T
        shard[number], length[number], trained[number] = rank, n, n_trained
        start[number] = np.cumsum(n) - n
        tokens.append(np.load(scratch / f"tokens-{rank}.npy", mmap_mode="r" if len(n) else None))
    return Store(tokens, shard, start, length, trained, first)
