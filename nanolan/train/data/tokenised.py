"""Tokenised conversations on disk, made once by all ranks together and shared as memory maps.

Rank r renders every size-th block of rows into files of its own (by several processes, where that pays); then all
ranks map all files. A token that is trained is stored as its id, one that is not as ~id (negative): ids and mask in
one array.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Source
from nanolan.train.data.rendering import Rendering, render_blocks, workers_for
from nanolan.train.processes import Processes


@dataclass(frozen=True)
class Store:
    """Conversations by number: rows of source 0 first, then source 1 ... for any number of ranks."""

    tokens: list[npt.NDArray[np.int32]]  # one array a rank
    shard: npt.NDArray[np.int64]  # conversation -> which array
    start: npt.NDArray[np.int64]  # conversation -> where in it
    length: npt.NDArray[np.int64]  # conversation -> tokens; 0: not chosen
    trained: npt.NDArray[np.int64]  # conversation -> tokens that are trained
    first: list[int]  # source -> its first conversation

    def __getitem__(self, conversation: int) -> npt.NDArray[np.int32]:
        """The signed tokens of a conversation."""
        at = self.start[conversation]
        return self.tokens[self.shard[conversation]][at : at + self.length[conversation]]


def tokenise(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    max_tokens: int,
    world: Processes,
    scratch: Path,
    workers: int | None = None,
) -> Store:
    """Render all sources, cut at `max_tokens`, into `scratch` (a folder for this call, removed afterwards).

    Every rank calls this; all must see the same `scratch`. `workers` (of each rank) change nothing but the time.
    """
    first = np.cumsum([0, *(s.rows for s in sources)]).tolist()
    scratch.mkdir(parents=True, exist_ok=True)
    rendering = Rendering(sources, tokenizer, max_tokens)
    mine = rendering.blocks()[world.rank :: world.size]
    _write_share(
        rendering,
        mine,
        workers or workers_for(rendering.rows(mine), world.size),
        first,
        scratch,
        world.rank,
    )
    world.meet()  # every rank has written
    store = _open(scratch, world.size, first)
    world.meet()  # every rank has mapped: the files may be removed, the data stay mapped
    if world.first:
        shutil.rmtree(scratch, ignore_errors=True)
    return store


def _write_share(
    rendering: Rendering,
    mine: Sequence[tuple[int, int]],
    workers: int,
    first: list[int],
    scratch: Path,
    rank: int,
) -> None:
    """A rank's tokens, and its table of (conversation, length, trained)."""
    tables = [np.empty((0, 3), np.int64)]
    with open(scratch / f"tokens-{rank}.bin", "wb") as f:
        for (i, _), made in zip(mine, render_blocks(rendering, mine, workers), strict=True):
            tables.append(made.table + np.array([first[i], 0, 0]))
            f.write(made.tokens.tobytes())
    np.save(scratch / f"table-{rank}.npy", np.concatenate(tables))


def _open(scratch: Path, size: int, first: list[int]) -> Store:
    shard, start, length, trained = (np.zeros(first[-1], np.int64) for _ in range(4))
    tokens: list[npt.NDArray[np.int32]] = []
    for rank in range(size):
        number, n, n_trained = np.load(scratch / f"table-{rank}.npy").T
        shard[number], length[number], trained[number] = rank, n, n_trained
        start[number] = np.cumsum(n) - n
        path = scratch / f"tokens-{rank}.bin"
        tokens.append(
            np.memmap(path, np.int32, "r") if len(n) else np.empty(0, np.int32)
        )  # an empty file cannot be mapped
    return Store(tokens, shard, start, length, trained, first)
