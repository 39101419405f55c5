"""Ranks by fork: `run_ranks(N, "MODULE:FUNCTION", ARGUMENT...)` calls FUNCTION(world, ARGUMENT...) in N processes over gloo."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

from tests.support.forked_python import TRAINER, forked
from tests.support.tiny_world import REPO


def run_ranks(size: int, function: str, *arguments: object) -> str:
    """What the ranks print; AssertionError unless all end well."""
    words = ["-m", "tests.support.ranks", function, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.txt")
        codes = [r.wait(200) for r in forked(TRAINER).ranks(size, words, REPO, os.environ, out)]
        printed = out.read_text()
    assert set(codes) == {0}, printed
    return printed


if __name__ == "__main__":
    from nanolan.train.processes import join_world

    called, *given = sys.argv[1:]
    module, _, name = called.partition(":")
    getattr(importlib.import_module(module), name)(join_world("cpu"), *given)
