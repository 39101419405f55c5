"""What an evaluation found (the trainer's evaluation.json), and how it gets into a checkpoint's meta. Pure but for one read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.files import read_regular
from nanolan.plan import MOST, UNREADABLE

MOST_BYTES = 4 << 20


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file; {} when there are none."""
    try:
        return dict(json.loads(read_regular(path, MOST_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def score_numbers(results: dict[str, Any]) -> dict[str, float]:
    """The accuracies and ChatCORE alone."""
    return {k: v for k, v in numbers(results).items() if k != "step"}


def meta_name(manifest: Manifest) -> str:
    """The meta file of a checkpoint."""
    return f"meta_{manifest.step:06d}.json"


def hide_secrets(
    meta: bytes, manifest: Manifest, hide: Callable[[str], str]
) -> tuple[Manifest, bytes]:
    """The manifest and meta of a checkpoint with no secret in the meta's words; both as they were if there is none."""
    text = meta.decode(errors="replace")
    if hide(text) == text:
        return manifest, meta
    try:
        data = (json.dumps(_hidden(json.loads(text), hide), indent=2) + "\n").encode()
    except (ValueError, RecursionError):  # no JSON, and sent all the same: nothing is lost
        data = hide(text).encode()
    return _with_meta(manifest, data), data


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_hidden(v, hide) for v in value]
    if isinstance(value, dict):
        return {hide(k): _hidden(v, hide) for k, v in value.items()}
    return value


def _with_meta(manifest: Manifest, meta: bytes) -> Manifest:
    name = meta_name(manifest)
    return replace(
        manifest,
        files=tuple(hash_bytes(name, meta) if f.path == name else f for f in manifest.files),
    )


def with_results(
    meta: bytes, manifest: Manifest, results: dict[str, Any]
) -> tuple[Manifest, bytes]:
    """The manifest and meta of a checkpoint that was evaluated: score_numbers under nanochat's own keys where it has such, and all
    of it under `evaluation`."""
    d = json.loads(meta)
    d |= {key: results[key] for key in d if d[key] is None and key in results} | {
        "evaluation": results
    }
    data = (json.dumps(d, indent=2) + "\n").encode()
    return _with_meta(manifest, data), data


NAME = re.compile(r"[\w@.-]{1,60}", re.ASCII)


def numbers(told: Mapping[str, Any]) -> dict[str, float]:
    """The numbers under plain names: NaN, say, could be written into a receipt, and nobody could read it."""
    return {
        k: float(v)
        for k, v in told.items()
        if type(v) in (int, float) and abs(v) < MOST and NAME.fullmatch(k)
    }


SUFFIX = ".samples.json"  # beside the results of the same evaluation


MOST_SAMPLE_BYTES = 4 << 20


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
        return read_samples(b"[" + read_regular(path, MOST_SAMPLE_BYTES) + b"]")
    except OSError:
        return ()


def read_samples(data: bytes) -> tuple[PhaseSamples, ...]:
    """A samples.json; nothing of one that cannot be read, which is good to have and no more."""
    try:
        return msgspec.json.decode(data, type=tuple[PhaseSamples, ...])
    except UNREADABLE:
        return ()
