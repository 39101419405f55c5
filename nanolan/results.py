"""What an evaluation found (the trainer's evaluation.json), and how it gets into a checkpoint's meta. Pure but for one read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanolan import report
from nanolan.manifest import Manifest, hash_bytes
from nanolan.plainfile import read_plain

MOST_BYTES = 4 << 20


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file; {} when there are none."""
    try:
        return dict(json.loads(read_plain(path, MOST_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def numbers(results: dict[str, Any]) -> dict[str, float]:
    """The accuracies and ChatCORE alone."""
    return {k: v for k, v in report.numbers(results).items() if k != "step"}


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
    """The manifest and meta of a checkpoint that was evaluated: numbers under nanochat's own keys where it has such, and all
    of it under `evaluation`."""
    d = json.loads(meta)
    d |= {key: results[key] for key in d if d[key] is None and key in results} | {
        "evaluation": results
    }
    data = (json.dumps(d, indent=2) + "\n").encode()
    return _with_meta(manifest, data), data
