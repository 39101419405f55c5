"""Shared by tests/train/test_state*.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nanolan.checkpoint.manifest import newest_whole, whole_steps
from nanolan.model.checkpoint import load
from nanolan.train.job import Job, read_job
from nanolan.train.phase import finish
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.state.resume import states_of
from nanolan.train.stop import StopFlag
from nanolan.train.supervised import Training, loop, prepare
from tests.support.forked_python import TRAINER, Program, forked
from tests.support.tiny_world import REPO

ALONE = Processes(0, 1, torch.device("cpu"))


class Forker:
    """Trains jobs in ranks that need no time to start."""

    def __init__(self) -> None:
        self._python = forked(TRAINER)
        self._ranks: list[Program] = []

    def start(self, job: Path, processes: int = 1) -> list[int]:
        """The pids of the ranks that train a job; they write to out.txt beside it."""
        words = ["-m", "nanolan.train", str(job)]
        self._ranks = self._python.ranks(
            processes, words, REPO, os.environ, job.with_name("out.txt")
        )
        return [rank.pid for rank in self._ranks]

    def end(self) -> list[int | None]:
        """Wait for the ranks; their exit codes, -signal for a signal."""
        return [rank.wait() for rank in self._ranks]


@pytest.fixture
def forker() -> Forker:
    return Forker()


@dataclass
class After:
    """A stop flag that is set when so many steps are done."""

    training: Training
    steps: int

    @property
    def requested(self) -> bool:
        return self.training.done >= self.steps


def train(job: Path | Job, stop_after: int = 1_000_000) -> Training:
    """A phase in this process, stopped after a step as SIGTERM does."""
    job = job if isinstance(job, Job) else read_job(job)
    t = prepare(job, ALONE, ProgressWriter(job))
    with t.states:
        loop(t, After(t, stop_after))  # type: ignore[arg-type]
        finish(t, StopFlag())
    return t


def states(job: Path) -> list[int]:
    return [m.step for _, m in whole_steps(job.parent / "out") if not m.final]


def found(job: Path | Job) -> Path | None:
    """The folder of the newest whole state that a job would go on from."""
    job = job if isinstance(job, Job) else read_job(job)
    return next(states_of(job, ALONE), None)


def weights(job: Path) -> dict[str, torch.Tensor]:
    found = newest_whole(job.parent / "out", final=True)
    assert found
    return load(found[0]).model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
