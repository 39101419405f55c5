"""What an evaluation found (the trainer's evaluation.json), and how it gets into a checkpoint's meta. Pure but for one read."""
from __future__ import annotations

import json
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


def with_results(meta: bytes, manifest: Manifest, results: dict[str, Any]) -> tuple[Manifest, bytes]:
    """The manifest and meta of a checkpoint that was evaluated: numbers under nanochat's own keys where it has such, and all
    of it under `evaluation`."""
    d = json.loads(meta)
    d |= {key: results[key] for key in d if d[key] is None and key in results} | {"evaluation": results}
    data = (json.dumps(d, indent=2) + "\n").encode()
    files = tuple(hash_bytes(f.path, data) if f.path == meta_name(manifest) else f for f in manifest.files)
    return replace(manifest, files=files), data
