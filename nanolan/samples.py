"""What the model answers: a few questions of the evaluation and some about itself, as the trainer noted them beside its results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from nanolan.plainfile import read_plain
from nanolan.plan import UNREADABLE

SUFFIX = ".samples.json"  # beside the results of the same evaluation
MOST_BYTES = 4 << 20


class Sample(msgspec.Struct, frozen=True):
    """One question, the model's greedy answer, and what was expected, where there is a right answer."""

    task: str
    question: str
    answer: str
    expected: str | None = None
    right: bool | None = None


class PhaseSamples(msgspec.Struct, frozen=True):
    """The samples of one phase's checkpoint."""

    phase: str
    step: int
    samples: tuple[Sample, ...]


def beside(results: Path) -> Path:
    """Where the samples of the evaluation in `results` lie."""
    return results.with_name(results.stem + SUFFIX)


def gather(files: Iterable[Path]) -> tuple[PhaseSamples, ...]:
    """The samples in these files, without those that are not there or cannot be read."""
    return tuple(found for path in files for found in _of(path))


def _of(path: Path) -> tuple[PhaseSamples, ...]:
    try:
        return read_samples(b"[" + read_plain(path, MOST_BYTES) + b"]")
    except OSError:
        return ()


def read_samples(data: bytes) -> tuple[PhaseSamples, ...]:
    """A samples.json; nothing of one that cannot be read, which is good to have and no more."""
    try:
        return msgspec.json.decode(data, type=tuple[PhaseSamples, ...])
    except UNREADABLE:
        return ()
