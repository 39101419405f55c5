"""What a phase trains on: mixtures as tables, and one small function per data set that makes conversations.

The parquet files lie at <data>/<repo>/<path> as on the Hub; the identity conversations are a JSONL file.
A new task is a row in READERS (how a row of it becomes a conversation) and rows in the mixtures.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanolan.datasets import DATASETS, IDENTITY_FILE
from nanolan.errors import BadAnswer
from nanolan.train.conversation import Conversation, calculator_parts, check, conversation, multiple_choice, read_jsonl

IDENTITY = "identity"
LETTERS = "ABCD"


@dataclass(frozen=True)
class Part:
    """One data set in a mixture: `limit` rows of it (of a seeded shuffle), each `times` times."""

    data: str
    split: str = "train"
    limit: int | None = None
    times: int = 1


TRAINING = {
    "mid": (Part("smol-smoltalk"), Part("mmlu"), Part("gsm8k"), Part(IDENTITY, times=2)),
    "sft": (Part("arc-easy"), Part("arc-challenge"), Part("gsm8k"), Part("smol-smoltalk", limit=10_000),
            Part(IDENTITY)),
}
# Small slices in nanochat's proportions: about half a million tokens for mid, a quarter for sft.
VALIDATION = {
    "mid": (Part("smol-smoltalk", "test", 960), Part("mmlu", "test", 208), Part("gsm8k", "test", 17)),
    "sft": (Part("smol-smoltalk", "test", 512),),
}


def smoltalk(row: dict[str, Any]) -> Conversation:
    """Already a conversation."""
    return {"messages": row["messages"]}


def gsm8k(row: dict[str, Any]) -> Conversation:
    """A word problem; the notes in the answer become calculator calls."""
    return conversation(row["question"], calculator_parts(row["answer"]))


def mmlu(row: dict[str, Any]) -> Conversation:
    """Four choices; rows of auxiliary_train may be wrapped in a field `train`."""
    row = row.get("train") or row
    return conversation(multiple_choice(row["question"], LETTERS, row["choices"]), LETTERS[row["answer"]])


def arc(row: dict[str, Any]) -> Conversation:
    """Three to five choices with letters (or digits) of their own."""
    choices = row["choices"]
    return conversation(multiple_choice(row["question"], choices["label"], choices["text"]), row["answerKey"])


READERS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "smol-smoltalk": smoltalk, "gsm8k": gsm8k, "mmlu": mmlu, "arc-easy": arc, "arc-challenge": arc,
}


@dataclass(frozen=True)
class Block:
    """Some rows of a part, the unit that is dealt to ranks: a parquet row group, or a whole JSONL file."""

    data: str
    path: Path
    row_group: int
    first: int            # index of its first row in the part
    rows: int


@dataclass(frozen=True)
class Source:
    """A part whose files are there: its blocks and which of its rows are taken."""

    part: Part
    blocks: tuple[Block, ...]
    chosen: frozenset[int] | None      # None: all

    @property
    def rows(self) -> int:
        """Rows of the data set, chosen or not."""
        return sum(b.rows for b in self.blocks)

    def take(self, block: Block) -> Iterator[tuple[int, Conversation]]:
        """(row, conversation) of the chosen rows of a block."""
        for row, c in read_block(block):
            if self.chosen is None or row in self.chosen:
                yield row, c


def open_part(part: Part, data_dir: Path, seed: int) -> Source | None:
    """The part's Source, or None for a missing identity file; BadAnswer for a missing data set."""
    if part.data == IDENTITY:
        path = data_dir / IDENTITY_FILE
        if not path.exists():
            return None
        return Source(part, (Block(IDENTITY, path, 0, 0, sum(1 for _ in read_jsonl(path))),), None)
    source = Source(part, tuple(_parquet_blocks(part, data_dir)), None)
    if part.limit is None or part.limit >= source.rows:
        return source
    # numpy's permutation under this seed picks the same rows as the shuffle of the datasets library
    chosen = np.random.default_rng(seed).permutation(source.rows)[:part.limit]
    return Source(part, source.blocks, frozenset(chosen.tolist()))


def _parquet_blocks(part: Part, data_dir: Path) -> Iterator[Block]:
    data = DATASETS[part.data]
    pattern = data.train if part.split == "train" else data.test
    paths = sorted((data_dir / data.repo).glob(pattern))
    if not paths:
        raise BadAnswer(f"data set {data.repo} is missing: no {pattern} in {data_dir / data.repo}")
    first = 0
    for path in paths:
        try:
            meta = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as e:
            raise BadAnswer(f"{path}: not a parquet file ({e})") from None
        for g in range(meta.num_row_groups):
            n = meta.row_group(g).num_rows
            yield Block(part.data, path, g, first, n)
            first += n


def read_block(block: Block) -> Iterator[tuple[int, Conversation]]:
    """(row, checked conversation) of every row of a block; BadAnswer names the file and row."""
    if block.data == IDENTITY:
        yield from enumerate(read_jsonl(block.path))
        return
    try:
        rows = pq.ParquetFile(block.path).read_row_group(block.row_group).to_pylist()
    except (OSError, pa.ArrowException) as e:
        raise BadAnswer(f"{block.path}: damaged ({e})") from None
    for row, record in enumerate(rows, block.first):
        where = f"{block.path}, row {row}"
        try:
            c = READERS[block.data](record)
        except (KeyError, IndexError, TypeError, ValueError) as e:
            raise BadAnswer(f"{where}: not a row of {block.data} ({type(e).__name__}: {e})") from None
        yield row, check(c, where)
