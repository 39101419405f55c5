"""Saves the states of a phase, beside the training where the host memory allows it.

A save has two parts. First every rank copies what it saves to host memory, and writes and hashes it into a hidden folder
in a thread of its own. Then rank 0 gives the files their manifest and final name. Between the parts the ranks agree, on the
main thread, that all have written: a state is whole or not there, and the newest two are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanolan.checkpoint.manifest import MANIFEST, FileEntry, parse_manifest, save_whole
from nanolan.errors import BadAnswer, RunFailed
from nanolan.files import entries_of
from nanolan.model.checkpoint import meta_text, weights_of, write_meta, write_tensors
from nanolan.model.gpt import GPT
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer
from nanolan.train.processes import Processes
from nanolan.train.state.host_copy import HostCopy, available_bytes
from nanolan.train.state.resume import is_state_of, optimizer_file
from nanolan.train.state.task import GIVEN_UP, Task
from nanolan.train.step import finite

KEPT = 2
SPARE_BYTES = 2 << 30  # of host memory that a copy must leave free
Told = Callable[[int, float, float], None]  # (step, seconds of the save, seconds without training)

Write = Callable[[Path, Mapping[str, Tensor], Callable[[], bool]], FileEntry]


@dataclass
class Save:
    """A save under way, on one rank."""

    step: int
    began: float
    task: Task  # of the current part
    beside: bool
    stopped_s: float = 0.0
    published: bool = False  # whether the second part has begun
    entries: list[FileEntry] = field(
        default_factory=list
    )  # of the files that this rank has written


class States:
    """The states of a phase on this rank. All ranks must call `save`, `tend`, `settle` and `kept` alike."""

    def __init__(
        self,
        job: Job,
        world: Processes,
        model: GPT,
        optimizer: Optimizer,
        resumed: Path | None = None,
        *,
        told: Told = lambda step, seconds, stopped_s: None,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[], int] = available_bytes,
        write: Write = write_tensors,
    ) -> None:
        """`told` is called after each save that is whole; `free_bytes` says how much host memory is free, `write`
        writes a file of tensors."""
        self.job, self.world, self.model, self.optimizer = job, world, model, optimizer
        self.saved = [resumed] if resumed else []  # oldest first
        self._told, self._clock = told, clock
        self._free_bytes, self._write_tensors = free_bytes, write
        self._last = clock()
        self._copy = HostCopy(keep=world.device.type == "cuda")
        self._save: Save | None = None

    # ------------------------------------------------------------------ when
    def due(self) -> bool:
        """Whether it is time to save, by rank 0's clock; always False on other ranks."""
        wait_s = 60 * self.job.save_minutes
        if self._save and wait_s:  # still at the last one: the disk is slower than the interval
            return False
        return self.world.first and self._clock() - self._last >= wait_s

    def has(self, step: int) -> bool:
        """Whether the state after `step` is saved."""
        return self._folder(step) in self.saved

    def kept(self) -> str:
        """The state to resume from, for an error message; finishes the save under way."""
        self.settle()
        return f"the state in {self.saved[-1].name} is kept" if self.saved else "nothing saved"

    # ------------------------------------------------------------------ save
    def save(self, step: int, meta: dict[str, Any], losses: list[float], *, beside: bool) -> bool:
        """Save the state after `step`. With `beside` the training may go on at once: see `tend`. Otherwise, or when
        the host memory does not allow it, it is saved when this returns; False, with a warning, if that failed.

        RunFailed when a weight is not a number.
        """
        self.settle()
        if not finite(self.model):
            raise RunFailed(f"a weight is not a number after step {step}: stopped, {self.kept()}")
        began = self._clock()
        weights, rest, meta_file = self._contents(meta, losses)
        beside = beside and self._memory_allows({**weights, **rest})
        if beside:
            weights, rest = (
                {key: copies[key] for key in part}
                for copies in [self._copy.take({**weights, **rest})]
                for part in (weights, rest)
            )
        entries: list[FileEntry] = []

        def write(cancelled: Callable[[], bool]) -> None:
            self._write(step, weights, rest, meta_file, entries, cancelled)

        self._save = Save(step, began, Task(write, beside=beside), beside, entries=entries)
        if not beside:
            self.settle()
        elif self._save:
            self._save.stopped_s = self._clock() - began
        self._last = self._clock()
        return self.has(step)

    def tend(self) -> None:
        """Go on with the save under way, if there is one: the ranks agree on how far it is."""
        if (save := self._save) is None:
            return
        done = save.task.done
        ended, failed = self.world.totals(done, bool(done and save.task.problem))
        if failed:
            save.task.cancel()
        if ended < self.world.size:
            return
        if failed:
            self._give_up(save)
        elif not save.published:
            save.published = True
            save.task = Task(lambda _: self._publish(save), beside=save.beside)
        else:
            self._conclude(save)

    def settle(self) -> None:
        """Finish the save under way, well or not."""
        while self._save:
            self._save.task.wait()
            self.tend()

    def abandon(self) -> None:
        """End the save under way without the other ranks, which may be gone: what is not yet published is given up."""
        save, self._save = self._save, None
        if save is None:
            return
        if not save.published:
            save.task.cancel()
        save.task.wait()
        if self.world.first:
            shutil.rmtree(self._parts(save.step), ignore_errors=True)

    def clear(self) -> None:
        """Remove all states: the phase's result is saved."""
        self.saved = []
        self._remove_others([])

    def __enter__(self) -> States:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abandon()

    # ------------------------------------------------------------------ parts of a save
    def _folder(self, step: int) -> Path:
        return self.job.out_dir / f"step-{step:06d}"

    def _parts(self, step: int) -> Path:
        """Where the ranks write their files."""
        return self.job.out_dir / f".shards-{step:06d}"

    def _contents(
        self, meta: dict[str, Any], losses: list[float]
    ) -> tuple[Mapping[str, Tensor], dict[str, Tensor], bytes]:
        """(weights, optimizer and random numbers, meta file) that this rank saves; not copies."""
        rest = {**self.optimizer.state(self.world.rank), "rng.cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            rest["rng.cuda"] = torch.cuda.get_rng_state(self.world.device)
        if not self.world.first:
            return {}, rest, b""
        rest["losses"] = torch.tensor(losses, dtype=torch.float64)
        return weights_of(self.model), rest, meta_text(meta)

    def _memory_allows(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the copies of all ranks fit into the free host memory; the same on every rank."""
        need, free = self.world.totals(
            self._copy.missing_bytes(tensors), self._free_bytes() if self.world.first else 0
        )
        return need == 0 or free >= need + SPARE_BYTES

    def _write(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        rest: Mapping[str, Tensor],
        meta: bytes,
        entries: list[FileEntry],
        cancelled: Callable[[], bool],
    ) -> None:
        """The first part: this rank's files."""
        parts = self._parts(step)
        parts.mkdir(parents=True, exist_ok=True)
        rank = self.world.rank
        entries.append(self._write_tensors(parts / optimizer_file(step, rank), rest, cancelled))
        if self.world.first:
            entries.append(self._write_tensors(parts / f"model_{step:06d}.pt", weights, cancelled))
            entries.append(write_meta(parts, step, meta))
        else:
            (parts / f"rank{rank}.json").write_text(json.dumps(asdict(entries[0])))

    def _publish(self, save: Save) -> None:
        """The second part, on rank 0: all files get their manifest and their name; older states are removed."""
        if not self.world.first:
            return
        parts = self._parts(save.step)
        entries = [
            *save.entries,
            *(FileEntry(**json.loads(p.read_bytes())) for p in entries_of(parts, "rank*.json")),
        ]

        def move(folder: Path) -> list[FileEntry]:
            for entry in entries:
                (parts / entry.path).replace(folder / entry.path)
            return entries

        job = self.job
        save_whole(job.out_dir, save.step, move, run_id=job.run_id, phase=job.phase, final=False)
        shutil.rmtree(parts, ignore_errors=True)
        self._remove_others(self._with(save.step))

    def _with(self, step: int) -> list[Path]:
        """The states to keep once that of `step` is saved."""
        others = [folder for folder in self.saved if folder != self._folder(step)]
        return [*others, self._folder(step)][-KEPT:]

    def _conclude(self, save: Save) -> None:
        self.saved, self._save = self._with(save.step), None
        seconds = self._clock() - save.began
        self._told(save.step, seconds, save.stopped_s if save.beside else seconds)

    def _give_up(self, save: Save) -> None:
        """A rank could not write: the state before stays the newest."""
        self._save = None
        if save.task.problem and save.task.problem != GIVEN_UP:
            print(
                f"warning: the state of step {save.step} could not be saved ({save.task.problem})",
                file=sys.stderr,
                flush=True,
            )
        if self.world.first:
            shutil.rmtree(self._parts(save.step), ignore_errors=True)

    def _remove_others(self, kept: list[Path]) -> None:
        """Remove this run's states except `kept`; renames them first, so that none is ever partly there."""
        for folder in entries_of(self.job.out_dir, "step-*"):
            try:
                manifest = parse_manifest((folder / MANIFEST).read_bytes())
            except (OSError, BadAnswer):
                continue
            if is_state_of(self.job, manifest) and folder not in kept:
                gone = folder.replace(folder.with_name(f".gone-{folder.name}"))
                shutil.rmtree(gone, ignore_errors=True)
