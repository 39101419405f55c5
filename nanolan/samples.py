"""What the model answers: a few questions of the evaluation and some about itself, as the trainer noted them beside its results."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

SUFFIX = ".samples.json"     # beside the results of the same evaluation


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
    return tuple(found for path in files if path.is_file() for found in read_samples(b"[" + path.read_bytes() + b"]"))


def read_samples(data: bytes) -> tuple[PhaseSamples, ...]:
    """A samples.json; nothing of one that cannot be read, which is good to have and no more."""
    try:
        return msgspec.json.decode(data, type=tuple[PhaseSamples, ...])
    except (msgspec.DecodeError, RecursionError):
        return ()
