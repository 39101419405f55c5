"""Fixtures with the miniature forks: a job for each, and an interpreter that starts at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.adapter_jobs import NewRun, Run, Worlds
from tests.support.forked_python import TRAINER, forked


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """Both miniature forks with base checkpoints, tokenizer and data."""
    with Worlds(tmp_path_factory.mktemp("worlds"), forked(TRAINER).path) as worlds:
        yield worlds


@pytest.fixture
def new_run(worlds: Worlds, tmp_path: Path) -> Iterator[NewRun]:
    """Jobs in a folder of their own; at the end no process of them lives."""
    runs: list[Run] = []

    def make(generation: str, phase: str = "sft", *options: str) -> Run:
        runs.append(worlds.run(tmp_path, generation, phase, *options))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()
    for p in psutil.process_iter():
        try:
            if p.environ().get("NANOLAN_TEST") == str(tmp_path):
                p.kill()
        except psutil.Error:
            continue
