"""The training data of each phase: mixtures as tables, and one small function per data set that makes conversations.

The parquet files lie at <data>/<repo>/<path> as on the Hub; the identity conversations are a JSONL file; the spelling
tasks are made here. A new task is a row in READERS (how a row of it becomes a conversation) or in MAKERS (how its
n-th conversation is made), and rows in the mixtures.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanolan.checkpoint.parquet import plain_path
from nanolan.errors import BadAnswer
from nanolan.model.conversation import (
    Conversation,
    calculator_parts,
    check,
    conversation,
    multiple_choice,
    read_block,
    spans_of,
)
from nanolan.phases import DATASETS, IDENTITY_FILE, check_data
from nanolan.train.data.spelling import count_letters, of_split, spell, words_of

IDENTITY = "identity"
LETTERS = "ABCD"
MADE_BLOCK = 2_000  # generated conversations per block
IDENTITY_BLOCK = 2_000  # of the identity file; only one block is in memory at a time
WORD_ROWS = 4_000  # rows of smol-smoltalk whose words are spelled
MOST_ROWS, MOST_BYTES = (
    1 << 22,
    2 << 30,
)  # of a parquet row group, which is read at once; those of the data sets have 1,000


@dataclass(frozen=True)
class Part:
    """One data set in a mixture: `limit` rows of it (of a seeded shuffle), each `times` times."""

    data: str
    split: str = "train"
    limit: int | None = None
    times: int = 1


TRAINING = {
    "mid": (
        Part("smol-smoltalk"),
        Part("mmlu"),
        Part("gsm8k"),
        Part(IDENTITY, times=2),
        Part("spell", limit=200_000),
        Part("count-letters", limit=80_000),
    ),
    "sft": (
        Part("arc-easy"),
        Part("arc-challenge"),
        Part("gsm8k"),
        Part("smol-smoltalk", limit=10_000),
        Part(IDENTITY),
        Part("spell", limit=300),
        Part("count-letters", limit=300),
    ),
}
# Small slices in nanochat's proportions: about half a million tokens for mid, a quarter for sft.
VALIDATION = {
    "mid": (
        Part("smol-smoltalk", "test", 960),
        Part("mmlu", "test", 208),
        Part("gsm8k", "test", 17),
    ),
    "sft": (Part("smol-smoltalk", "test", 512),),
}


def smoltalk(row: dict[str, Any]) -> Conversation:
    """Already a conversation."""
    return {"messages": row["messages"]}


def text(value: Any, name: str) -> str:
    """A field of a row that must be text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected text")
    return value


def gsm8k(row: dict[str, Any]) -> Conversation:
    """A word problem; the notes in the answer become calculator calls."""
    return conversation(
        text(row["question"], "question"), calculator_parts(text(row["answer"], "answer"))
    )


def choose_one(
    question: str, letters: Sequence[str], choices: Sequence[str], right: str
) -> Conversation:
    """A multiple choice question; its letters are kept beside the messages, for evaluation.

    ValueError when the answer is none of them, or a choice is no text.
    """
    if len(set(letters)) != len(choices) or len(choices) < 2:
        raise ValueError(f"{len(choices)} choices for the letters {', '.join(map(str, letters))}")
    if right not in letters:
        raise ValueError(
            f"the answer {reprlib.repr(right)} is none of the choices {', '.join(map(str, letters))}"
        )
    asked = multiple_choice(
        text(question, "question"), letters, [text(choice, "a choice") for choice in choices]
    )
    return {**conversation(asked, right), "letters": list(letters)}


def mmlu(row: dict[str, Any]) -> Conversation:
    """Four choices; rows of auxiliary_train may be wrapped in a field `train`."""
    row = row.get("train") or row
    answer = row["answer"]
    if type(answer) is not int or not 0 <= answer < len(LETTERS):
        raise ValueError(f"the answer {reprlib.repr(answer)} is none of 0 to {len(LETTERS) - 1}")
    return choose_one(row["question"], LETTERS, row["choices"], LETTERS[answer])


def arc(row: dict[str, Any]) -> Conversation:
    """Three to five choices with their own letters (or digits)."""
    choices = row["choices"]
    letters = [text(letter, "a label") for letter in choices["label"]]
    return choose_one(row["question"], letters, choices["text"], row["answerKey"])


READERS: dict[str, Callable[[dict[str, Any]], Conversation]] = {
    "smol-smoltalk": smoltalk,
    "gsm8k": gsm8k,
    "mmlu": mmlu,
    "arc-easy": arc,
    "arc-challenge": arc,
}


MAKERS: dict[str, Callable[[int, str, Sequence[str]], Conversation]] = {
    "spell": spell,
    "count-letters": count_letters,
}


@dataclass(frozen=True)
class Block:
    """Some rows of a part, the unit of work: a parquet row group, a JSONL file, a range of generated rows.

    `read` can be pickled: it is also called in other processes.
    """

    first: int  # index of its first row in the part
    rows: int
    read: Callable[[], Iterable[Conversation]]


@dataclass(frozen=True)
class Source:
    """A part with its files: its blocks and the chosen rows."""

    part: Part
    blocks: tuple[Block, ...]
    chosen: frozenset[int] | None = None  # None: all
    notes: tuple[str, ...] = ()  # notes for the user

    @property
    def rows(self) -> int:
        """Rows of the data set, chosen or not."""
        return sum(b.rows for b in self.blocks)

    @property
    def taken(self) -> int:
        """Its conversations in the mixture, counting repeats."""
        return self.part.times * (self.rows if self.chosen is None else len(self.chosen))

    def take(self, block: Block) -> Iterator[tuple[int, Conversation]]:
        """(row, conversation) of the chosen rows of a block."""
        for row, c in enumerate(block.read(), block.first):
            if self.chosen is None or row in self.chosen:
                yield row, c


def open_mixture(
    parts: Sequence[Part], data_dir: Path, seed: int, made_rows: int | None
) -> list[Source]:
    """The Sources of a mixture; BadAnswer for a missing data set, a note for a missing identity file.

    `made_rows` conversations are made, shared out as the table has them; None: as many as the table says, but at most
    one for two that are read, so that a small data set is not drowned in spelling.
    """
    sources = [open_part(part, data_dir, seed) for part in parts if part.data not in MAKERS]
    made = [(part, part.limit or 0) for part in parts if part.data in MAKERS]
    if total := sum(limit for _, limit in made):
        most = min(total, sum(s.taken for s in sources) // 2)
        wanted = most if made_rows is None else made_rows
        words = words_of(_texts(data_dir)) if wanted else ()
        sources += [
            _made(part, limit * wanted // total, of_split(words, part.split))
            for part, limit in made
        ]
    return sources


def _made(part: Part, rows: int, words: Sequence[str]) -> Source:
    parts = [range(first, min(first + MADE_BLOCK, rows)) for first in range(0, rows, MADE_BLOCK)]
    return Source(
        part,
        tuple(
            Block(p.start, len(p), partial(make_rows, part.data, part.split, p, words))
            for p in parts
        ),
    )


def _texts(data_dir: Path) -> Iterator[str]:
    """The text of the first rows of smol-smoltalk; nothing when it is missing."""
    data = DATASETS["smol-smoltalk"]
    for path in sorted((data_dir / data.repo).glob(data.train))[:1]:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=WORD_ROWS, columns=["messages"]):
            yield from (m["content"] for row in batch.to_pylist() for m in row["messages"])
            return


def open_part(part: Part, data_dir: Path, seed: int) -> Source:
    """A part that is read; BadAnswer for a missing data set, no rows and a note for a missing identity file."""
    if part.data == IDENTITY:
        return _open_identity(part, data_dir / IDENTITY_FILE)
    source = Source(part, tuple(_parquet_blocks(part, data_dir)))
    if part.limit is None or part.limit >= source.rows:
        return source
    # numpy's permutation under this seed picks the same rows as the shuffle of the datasets library
    chosen = np.random.default_rng(seed).permutation(source.rows)[: part.limit]
    return Source(part, source.blocks, frozenset(chosen.tolist()))


def _open_identity(part: Part, path: Path) -> Source:
    if not path.exists():
        return Source(
            part, (), notes=(f"warning: no {IDENTITY} file ({path}): trained without it",)
        )
    blocks = [
        Block(n * IDENTITY_BLOCK, len(spans), partial(read_block, path, spans))
        for n, spans in enumerate(spans_of(path, IDENTITY_BLOCK))
    ]
    return Source(part, tuple(blocks))


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
        check_data(part.data, columns_of(meta.schema), meta.num_rows, str(path))
        for g in range(meta.num_row_groups):
            group = meta.row_group(g)
            n = group.num_rows
            if not 0 <= n <= MOST_ROWS or group.total_byte_size > MOST_BYTES:
                raise BadAnswer(
                    f"{path}: a row group of {n:,} rows and {group.total_byte_size:,} bytes is not read"
                )
            yield Block(first, n, partial(read_rows, part.data, path, g, first))
            first += n


def columns_of(schema: pq.ParquetSchema) -> dict[str, str]:
    """The plain path and type of each column."""
    found = [schema.column(i) for i in range(len(schema))]
    return {plain_path(c.path): c.physical_type for c in found}


def make_rows(
    data: str, split: str, numbers: Iterable[int], words: Sequence[str]
) -> Iterator[Conversation]:
    """The generated conversations with these numbers."""
    return (MAKERS[data](n, split, words) for n in numbers)


def read_rows(data: str, path: Path, row_group: int, first: int) -> Iterator[Conversation]:
    """The checked conversation of every row of a row group; BadAnswer names the file and row."""
    try:
        rows = pq.ParquetFile(path).read_row_group(row_group, use_threads=False).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as e:  # ValueError: text that is not UTF-8
        raise BadAnswer(f"{path}: damaged ({e})") from None
    for row, record in enumerate(rows, first):
        where = f"{path}, row {row}"
        try:
            c = READERS[data](record)
        except (LookupError, TypeError, ValueError, AttributeError) as e:
            raise BadAnswer(f"{where}: not a row of {data} ({type(e).__name__}: {e})") from None
        yield check(c, where)
