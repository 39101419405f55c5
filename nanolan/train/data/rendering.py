"""Tokenises blocks of conversations on all cores, in worker processes that the ranks of a run share.

Workers are spawned (a fork would copy a rank's CUDA), import no torch, and die with their rank, however it ends.
Few rows are rendered in the calling process: a worker takes half a second to start."""

from __future__ import annotations

import multiprocessing
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.conversation import render
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.mixtures import Source
from nanolan.train.stop import follow

POOL_ROWS = 10_000  # of a rank: about 2 s for one core; a pool does not pay below that
MOST_WORKERS = 32  # of a rank: more would only wait for it to write their results

_rendering: Rendering  # of a worker


class Rendered(NamedTuple):
    """The chosen conversations of a block: (row, length, trained tokens) each, and the signed tokens of all."""

    table: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rendering:
    """The inputs of rendering, known to every worker."""

    sources: Sequence[Source]
    tokenizer: Tokenizer
    max_tokens: int

    def blocks(self) -> list[tuple[int, int]]:
        """(source, block) of all, in order."""
        return [(i, j) for i, source in enumerate(self.sources) for j in range(len(source.blocks))]

    def rows(self, blocks: Sequence[tuple[int, int]]) -> int:
        """The number of rows in these blocks."""
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
    """These blocks in order; raises the errors of the workers."""
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


def _begin(rendering: Rendering, rank: int) -> None:
    global _rendering
    follow(rank)
    _rendering = rendering


def _block(place: tuple[int, int]) -> Rendered:
    return _rendering.block(place)
