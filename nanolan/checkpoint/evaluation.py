"""Reads evaluation results (the trainer's evaluation.json) and samples, and adds results to a checkpoint's meta."""

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
    """The results in a file; {} if it is missing or unreadable."""
    try:
        return dict(json.loads(read_regular(path, MOST_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def score_numbers(results: dict[str, Any]) -> dict[str, float]:
    """Only the accuracies and ChatCORE."""
    return {k: v for k, v in numbers(results).items() if k != "step"}


def meta_name(manifest: Manifest) -> str:
    """The meta file of a checkpoint."""
    return f"meta_{manifest.step:06d}.json"


def hide_secrets(
    meta: bytes, manifest: Manifest, hide: Callable[[str], str]
) -> tuple[Manifest, bytes]:
    """The manifest and meta of a checkpoint with secrets in the meta's text masked; unchanged if there are none."""
    text = meta.decode(errors="replace")
    if hide(text) == text:
        return manifest, meta
    try:
        data = (json.dumps(_hidden(json.loads(text), hide), indent=2) + "\n").encode()
    except (ValueError, RecursionError):  # not JSON: still uploaded, so that nothing is lost
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
    """Add evaluation results to the meta of a checkpoint, and update its manifest: results fill nanochat's own empty keys, and all
    of them go under `evaluation`."""
    values = json.loads(meta)
    filled = {key: results[key] for key in values if values[key] is None and key in results}
    values |= filled | {"evaluation": results}
    data = (json.dumps(values, indent=2) + "\n").encode()
    return _with_meta(manifest, data), data


def evaluation_in(meta: bytes) -> dict[str, float]:
    """The scores that `with_results` has put into a meta; {} if there are none, or it cannot be read."""
    try:
        found = json.loads(meta)["evaluation"]
        return score_numbers(dict(found))
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


NAME = re.compile(r"[\w@.-]{1,60}", re.ASCII)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers with plain names. NaN, for example, would make a receipt unreadable."""
    return {
        k: float(v)
        for k, v in values.items()
        if type(v) in (int, float) and abs(v) < MOST and NAME.fullmatch(k)
    }


SUFFIX = ".samples.json"  # in the folder of the same evaluation's results
MOST_SAMPLE_BYTES = 4 << 20


class Sample(msgspec.Struct, frozen=True):
    """One question, the model's greedy answer, and the right answer, if there is one."""

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
    """The samples file that belongs to a results file."""
    return results.with_name(results.stem + SUFFIX)


def gather(files: Iterable[Path]) -> tuple[PhaseSamples, ...]:
    """The samples in these files; missing or unreadable ones are skipped."""
    return tuple(found for path in files for found in _of(path))


def _of(path: Path) -> tuple[PhaseSamples, ...]:
    try:
        return read_samples(b"[" + read_regular(path, MOST_SAMPLE_BYTES) + b"]")
    except OSError:
        return ()


def read_samples(data: bytes) -> tuple[PhaseSamples, ...]:
    """The content of a samples.json; empty if it is unreadable."""
    try:
        return msgspec.json.decode(data, type=tuple[PhaseSamples, ...])
    except UNREADABLE:
        return ()
