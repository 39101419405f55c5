"""Shared by tests/attacks/test_pickles*.py."""

from __future__ import annotations

import io
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from nanolan.errors import BadAnswer

META = {
    "model_config": {
        "sequence_len": 8,
        "vocab_size": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_kv_head": 2,
        "n_embd": 4,
    }
}


def zipped(
    entries: dict[str, bytes] | list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as z:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            z.writestr(name, data)
    return out.getvalue()


def grown() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )


def refused_by(read: Callable[[], Any], most_mb: int = 500, most_s: float = 10) -> None:
    """In one line, within bounds of time and memory."""
    before, began = grown(), time.process_time()
    with pytest.raises(BadAnswer) as e:
        read()
    assert len(str(e.value)) < 800 and "\n" not in str(e.value)
    assert grown() - before < most_mb and time.process_time() - began < most_s
