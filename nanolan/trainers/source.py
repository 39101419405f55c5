"""Reads a file of a foreign checkout as text, whatever is in it."""

from __future__ import annotations

from pathlib import Path

from nanolan.errors import UsageProblem

MOST_SOURCE_BYTES = 2 << 20


def source_of(root: Path, path: str) -> str:
    """The text of a script; UsageProblem if it cannot be read."""
    try:
        data = (root / path).read_bytes()
    except OSError as e:
        raise UsageProblem(f"{path} of the checkout cannot be read: {e.strerror}") from None
    if len(data) > MOST_SOURCE_BYTES:
        raise UsageProblem(f"{path} of the checkout has {len(data):,} bytes: it is not a script")
    return data.decode("utf-8-sig", errors="replace")
