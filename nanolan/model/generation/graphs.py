"""Runs a step on the device: as it is, or recorded once as a CUDA graph and replayed as a single launch.

A step takes nothing and returns nothing: it reads and writes tensors that stay where they are, and never waits for
the device. Steps with equal keys are the same step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

Step = Callable[[], None]


class Runner(Protocol):
    """Runs steps."""

    def __call__(self, key: Hashable, step: Step) -> None:
        """Run the step of this key."""


def run_plainly(key: Hashable, step: Step) -> None:
    """The runner that records nothing."""
    step()


class Recorder:
    """Runs a key's step plainly the first time, which warms it up, then records it and replays the record.

    `record` makes a step that replays the one it is given, without running it. When that fails, a warning says why and
    every step runs plainly from then on.
    """

    def __init__(self, record: Callable[[Step], Step]) -> None:
        self._record = record
        self._warm = set[Hashable]()
        self._replays: dict[Hashable, Step] = {}
        self._works = True

    def __call__(self, key: Hashable, step: Step) -> None:
        if self._works and key in self._warm and key not in self._replays:
            self._keep(key, step)
        self._warm.add(key)
        self._replays.get(key, step)()

    def _keep(self, key: Hashable, step: Step) -> None:
        try:
            self._replays[key] = self._record(step)
        except RuntimeError as e:  # every error of CUDA is one
            self._works = False
            why = " ".join(str(e).split())[:200]
            print(f"warning: no CUDA graph of decoding: {why}", file=sys.stderr, flush=True)


def cuda_graphs() -> Recorder:
    """Records CUDA graphs, whose temporary tensors share their memory: only one is replayed at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile: NCCL's watchdog does
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
        return graph.replay

    return Recorder(record)
