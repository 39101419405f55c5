"""States to resume from: the weights, optimizer, position in the data and random numbers of an unfinished phase.

    out_dir/step-000120/model_000120.pt, meta_000120.json, optim_000120_rank0.pt ... rankN.pt, manifest.json

Saved whole or not at all and with `final` false (nanolan/checkpoint/manifest.py); the newest two are kept, none after the phase
is done. A job goes on from the newest one of its own run and phase; the meta's `resume` says what it must agree with.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanolan.checkpoint.manifest import MANIFEST, parse_manifest, save_whole, whole_steps
from nanolan.errors import BadAnswer, RunFailed, UsageProblem
from nanolan.files import entries_of
from nanolan.model.checkpoint import read_state, write_files
from nanolan.model.gpt import GPT
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer
from nanolan.train.processes import Processes
from nanolan.train.step import finite

KEPT = 2
LEFTOVERS = (
    ".saving-*",
    ".shards-*",
    ".gone-*",
)  # left by a process that was killed while saving or removing
PLACE = ("data", "rows_per_step", "steps")  # if these are equal, the same steps use the same rows


@dataclass(frozen=True)
class Resume:
    """How to resume from a state."""

    step: int  # completed steps; 0: start over with the state's weights
    optimizer: bool  # False: use a fresh one


def find_state(job: Job, world: Processes) -> Path | None:
    """The folder of the newest whole state of this run and phase, if the job wants it; the same on every rank."""
    step = -1
    if world.first:
        for pattern in LEFTOVERS:
            for leftover in entries_of(job.out_dir, pattern):
                shutil.rmtree(leftover, ignore_errors=True)
        mine = (m.step for _, m in whole_steps(job.out_dir) if _is_state_of(job, m))
        step = next(mine, -1) if job.resume else -1
    step = int(world.totals(step if world.first else 0)[0])
    return None if step < 0 else job.out_dir / f"step-{step:06d}"


def _is_state_of(job: Job, manifest: Any) -> bool:
    return (manifest.run_id, manifest.phase, manifest.final) == (job.run_id, job.phase, False)


def how_to_resume(
    saved: Mapping[str, Any], now: Mapping[str, Any], step: int, model_only: bool
) -> Resume:
    """Resume from a state saved at `step` with the settings `saved`, in a job with the settings `now`.

    UsageProblem with both values when they differ; with `model_only` the weights alone, at the same step if the
    rows and steps are the same ones (say, after a change of the number of processes), else from the start.
    """
    different = [k for k in now if saved.get(k) != now[k]]
    if not different:
        return Resume(step, optimizer=True)
    if model_only:
        return Resume(0 if set(PLACE) & set(different) else step, optimizer=False)
    what = ", ".join(f"{k} was {saved.get(k)!r} and is {now[k]!r}" for k in different)
    raise UsageProblem(
        f'cannot go on from the saved step {step}: {what}. "model_only": true takes its weights '
        'alone, "resume": false begins anew'
    )


def load_optimizer(folder: Path, step: int, optimizer: Optimizer, world: Processes) -> list[float]:
    """Restore the optimizer and the random numbers; returns the losses so far."""
    mine = read_state(folder / f"optim_{step:06d}_rank{world.rank}.pt")
    first = mine if world.first else read_state(folder / f"optim_{step:06d}_rank0.pt")
    try:
        optimizer.load(first | mine)
        torch.set_rng_state(mine["rng.cpu"])
        if world.device.type == "cuda" and "rng.cuda" in mine:
            torch.cuda.set_rng_state(mine["rng.cuda"], world.device)
        return [float(loss) for loss in first["losses"]]
    except (KeyError, RuntimeError, TypeError) as e:
        raise BadAnswer(
            f"{folder}: not an optimizer of this model ({type(e).__name__}: {e})"
        ) from None


class States:
    """Saves the states of a phase and removes those no longer needed."""

    def __init__(
        self,
        job: Job,
        world: Processes,
        model: GPT,
        optimizer: Optimizer,
        resumed: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job, self.world, self.model, self.optimizer = job, world, model, optimizer
        self.saved = [resumed] if resumed else []  # oldest first
        self._clock, self._last = clock, clock()

    def due(self) -> bool:
        """Whether it is time to save, by rank 0's clock; always False on other ranks."""
        return self.world.first and self._clock() - self._last >= 60 * self.job.save_minutes

    def has(self, step: int) -> bool:
        """Whether the state after `step` is saved."""
        return self._folder(step) in self.saved

    def save(self, step: int, meta: dict[str, Any], losses: list[float]) -> bool:
        """Save the state after `step`; every rank must call this. False, with a warning, if writing failed.

        RunFailed when a weight is not a number.
        """
        if not finite(self.model):
            raise RunFailed(f"a weight is not a number after step {step}: stopped, {self.kept()}")
        shards = self.job.out_dir / f".shards-{step:06d}"
        good = self._all(lambda: self._write_shard(shards, step, losses))
        good = good and self._all(
            lambda: self._write_state(shards, step, meta) if self.world.first else None
        )
        if good:
            self.saved = [*self.saved, self._folder(step)][-KEPT:]
        if self.world.first:
            shutil.rmtree(shards, ignore_errors=True)
            self._remove_others()
        self._last = self._clock()
        return good

    def clear(self) -> None:
        """Remove all states: the phase's result is saved."""
        self.saved = []
        self._remove_others()

    def kept(self) -> str:
        """The state to resume from, for an error message."""
        return f"the state in {self.saved[-1].name} is kept" if self.saved else "nothing saved"

    def _folder(self, step: int) -> Path:
        return self.job.out_dir / f"step-{step:06d}"

    def _all(self, act: Callable[[], object]) -> bool:
        """Whether `act` succeeded on every rank."""
        failed = 0
        try:
            act()
        except (
            OSError,
            RuntimeError,
        ) as e:  # torch's writer raises RuntimeError when the disk is full
            failed = 1
            print(
                f"warning: the state could not be saved ({type(e).__name__}: {e})",
                file=sys.stderr,
                flush=True,
            )
        return not self.world.totals(failed)[0]

    def _write_shard(self, shards: Path, step: int, losses: list[float]) -> None:
        shards.mkdir(parents=True, exist_ok=True)
        state: dict[str, Tensor] = {
            **self.optimizer.state(self.world.rank),
            "rng.cpu": torch.get_rng_state(),
        }
        if self.world.device.type == "cuda":
            state["rng.cuda"] = torch.cuda.get_rng_state(self.world.device)
        if self.world.first:
            state["losses"] = torch.tensor(losses, dtype=torch.float64)
        torch.save(state, shards / f"optim_{step:06d}_rank{self.world.rank}.pt")

    def _write_state(self, shards: Path, step: int, meta: dict[str, Any]) -> None:
        def write(folder: Path) -> None:
            write_files(folder, step, self.model, meta)
            for shard in shards.iterdir():
                shard.replace(folder / shard.name)

        save_whole(
            self.job.out_dir, step, write, run_id=self.job.run_id, phase=self.job.phase, final=False
        )

    def _remove_others(self) -> None:
        """Remove this run's states except those in `saved`; renames them first, so that none is ever partly there."""
        for folder in entries_of(self.job.out_dir, "step-*"):
            try:
                manifest = parse_manifest((folder / MANIFEST).read_bytes())
            except (OSError, BadAnswer):
                continue
            if _is_state_of(self.job, manifest) and folder not in self.saved:
                gone = folder.replace(folder.with_name(f".gone-{folder.name}"))
                shutil.rmtree(gone, ignore_errors=True)
