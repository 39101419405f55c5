"""Tokenised conversations on disk, made once by all ranks together and shared as memory maps.

Rank r renders every size-th block of rows into files of its own (by several processes, where that pays); then all
ranks map all files. A token that is trained is stored as its id, one that is not as ~id (negative): ids and mask in
one array.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.conversation import render
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Source
from nanolan.train.processes import World, follow


@dataclass(frozen=True)
class Store:
    """Conversations by number: rows of source 0 first, then source 1 ... whatever the number of ranks."""

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
    world: World,
    scratch: Path,
    workers: int | None = None,
) -> Store:
    """Render all sources, cut at `max_tokens`, into `scratch` (a folder for this call, removed again).

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
    world.meet()  # every rank has mapped: the names may go, the data stay
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
        )  # nothing cannot be mapped
    return Store(tokens, shard, start, length, trained, first)


POOL_ROWS = 10_000  # of a rank: about 2 s for one core, and less is not worth a pool


MOST_WORKERS = 32  # of a rank: more only wait for it to write what they made


class Rendered(NamedTuple):
    """The chosen conversations of a block: (row, length, trained tokens) each, and the signed tokens of all."""

    table: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rendering:
    """What there is to render, as every worker knows it, and how."""

    sources: Sequence[Source]
    tokenizer: Tokenizer
    max_tokens: int

    def blocks(self) -> list[tuple[int, int]]:
        """(source, block) of all, in order."""
        return [(i, j) for i, source in enumerate(self.sources) for j in range(len(source.blocks))]

    def rows(self, blocks: Sequence[tuple[int, int]]) -> int:
        """Rows that are read for these blocks."""
        return sum(self.sources[i].blocks[j].rows for i, j in blocks)

    def block(self, place: tuple[int, int]) -> Rendered:
        """One block; a token that is trained is stored as its id, one that is not as ~id."""
        source = self.sources[place[0]]
        table, tokens = array("q"), array("i")
        for row, c in source.take(source.blocks[place[1]]):
            try:
                ids, mask = render(c, self.tokenizer, self.max_tokens)
            except BadAnswer as e:
                raise BadAnswer(f"{source.part.data} {source.part.split}, row {row}: {e}") from None
            tokens.extend([t if m else ~t for t, m in zip(ids, mask, strict=True)])
            table.extend((row, len(ids), sum(mask)))
        return Rendered(np.array(table, np.int64).reshape(-1, 3), np.array(tokens, np.int32))


def workers_for(rows: int, ranks: int) -> int:
    """Processes that render `rows` rows for one of `ranks` ranks on this machine; 1: the rank itself."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(MOST_WORKERS, cores // ranks)) if rows >= POOL_ROWS else 1


def render_blocks(
    rendering: Rendering, blocks: Sequence[tuple[int, int]], workers: int
) -> Iterator[Rendered]:
    """These blocks in their order; what goes wrong in a worker is raised here."""
    if workers == 1:
        yield from map(rendering.block, blocks)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (rendering, os.getpid())
    )
    try:
        yield from pool.map(_block, blocks)
    except BrokenProcessPool:
        raise RunFailed(
            "a process that tokenises was killed, perhaps for want of memory: nothing is lost, "
            "the phase can start again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_rendering: Rendering  # of a worker


def _begin(rendering: Rendering, rank: int) -> None:
    global _rendering
    follow(rank)
    _rendering = rendering


def _block(place: tuple[int, int]) -> Rendered:
    return _rendering.block(place)
