"""States to resume from: the weights, optimizer, position in the data and random numbers of an unfinished phase.

    out_dir/step-000120/model_000120.pt, meta_000120.json, optim_000120_rank0.pt ... rankN.pt, manifest.json

Whole or not there, with `final` false in the manifest (nanolan/checkpoint/manifest.py); none after the phase is done. A job goes
on from the newest one of its own run and phase that every rank can load; the meta's `resume` says what it must agree with.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanolan.checkpoint.manifest import Manifest, whole_steps
from nanolan.errors import BadAnswer, UsageProblem
from nanolan.files import entries_of
from nanolan.model import checkpoint
from nanolan.model.checkpoint import Loaded, read_state
from nanolan.model.gpt import GPT
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.state.reshard import resharded

LEFTOVERS = (
    ".saving-*",
    ".shards-*",
    ".gone-*",
)  # left by a process that was killed while saving or removing
PLACE = ("data", "rows_per_step", "steps")  # if these are equal, the same steps use the same rows
OWN = ("momentum_buffer", "rng.cpu", "rng.cuda")  # ends of the keys that each rank saves for itself
Check = Callable[[GPT], None]  # raises BadAnswer for a model that does not fit the job


@dataclass(frozen=True)
class Resume:
    """How to resume from a state."""

    step: int  # completed steps; 0: start over with the state's weights
    optimizer: bool  # False: use a fresh one


@dataclass(frozen=True)
class Saved:
    """A state as one rank has loaded it."""

    folder: Path
    model: Loaded
    resume: dict[str, Any]  # of the meta
    optimizer: Mapping[str, Tensor] | None  # None: not loaded, the weights alone are used


Read = Callable[[Path, Processes, Check], Saved]


def is_state_of(job: Job, manifest: Manifest) -> bool:
    """Whether a saved step is a state of this run and phase."""
    return (manifest.run_id, manifest.phase, manifest.final) == (job.run_id, job.phase, False)


def optimizer_file(step: int, rank: int) -> str:
    """The name of the file with a rank's part of the optimizer."""
    return f"optim_{step:06d}_rank{rank}.pt"


# ------------------------------------------------------------------ which state
def load_saved(job: Job, world: Processes, check: Check) -> Saved | None:
    """The newest state that every rank can load; the same on all ranks. None: begin with the job's initial checkpoint.

    A state that cannot be loaded is passed over for the one before, with a warning. If none is left and the job has
    `model_only`, the weights alone of the newest one whose weights can be loaded. `check` raises BadAnswer for a
    model that does not fit the job.
    """
    passed_over = []
    for folder in states_of(job, world):
        if saved := _on_all(read_saved, folder, world, check):
            return saved
        passed_over.append(folder)
    for folder in passed_over if job.model_only else []:
        if saved := _on_all(read_weights, folder, world, check):
            return saved
    if passed_over and world.first:
        _warn(f"no saved state of {job.phase} can be loaded: it starts from the beginning")
    return None


def states_of(job: Job, world: Processes) -> Iterator[Path]:
    """The folders of the whole states of this run and phase, newest first; none if the job wants none.

    Rank 0 looks and the others follow. Damaged ones are named in a warning.
    """
    steps = _steps_on_disk(job) if world.first else iter(())
    while (step := int(world.totals(next(steps, -1) if world.first else 0)[0])) >= 0:
        yield job.out_dir / f"step-{step:06d}"


def _steps_on_disk(job: Job) -> Iterator[int]:
    for pattern in LEFTOVERS:
        for leftover in entries_of(job.out_dir, pattern):
            shutil.rmtree(leftover, ignore_errors=True)
    if job.resume:
        for _, manifest in whole_steps(job.out_dir, damaged=_pass_over):
            if is_state_of(job, manifest):
                yield manifest.step


def _on_all(read: Read, folder: Path, world: Processes, check: Check) -> Saved | None:
    """What `read` returns, if it works on every rank; otherwise None, and the first rank on which it fails says why."""
    result, problem = None, ""
    try:
        result = read(folder, world, check)
    except BadAnswer as e:
        problem = str(e)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        problem = f"{type(e).__name__}: {e}"
    failed = world.totals(*(bool(problem) and rank == world.rank for rank in range(world.size)))
    if not any(failed):
        return result
    if problem and not any(failed[: world.rank]):
        _pass_over(folder, problem)
    return None


def _pass_over(folder: Path, problem: object) -> None:
    text = " ".join(str(problem).split())
    _warn(f"{folder.name} cannot be loaded and is passed over ({text})")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------ one state
def read_weights(folder: Path, world: Processes, check: Check) -> Saved:
    """A state without its optimizer; BadAnswer when it is not one or `check` refuses its model."""
    loaded = checkpoint.load(folder, world.device)
    resume = loaded.meta.get("resume")
    if not isinstance(resume, dict) or not isinstance(resume.get("agreed"), dict):
        raise BadAnswer(f"{folder}: its meta does not say how to resume")
    check(loaded.model)
    return Saved(folder, loaded, resume, None)


def read_saved(folder: Path, world: Processes, check: Check) -> Saved:
    """A state with this rank's part of the optimizer; BadAnswer when it does not fit its model."""
    saved = read_weights(folder, world, check)
    rates = {"unembedding_lr": 0.0, "embedding_lr": 0.0, "matrix_lr": 0.0}
    optimizer = make_optimizer(saved.model.model, world, **rates)
    ranks = saved.resume["agreed"].get("processes")
    if (
        type(ranks) is not int
        or not (folder / optimizer_file(saved.model.step, ranks - 1)).exists()
    ):
        raise BadAnswer(f"{folder}: it is not whole for the {ranks!r} processes of its meta")
    state = read_optimizer(folder, saved.model.step, world, ranks, optimizer.dealt())
    optimizer.check(state)
    return Saved(folder, saved.model, saved.resume, state)


def read_optimizer(
    folder: Path, step: int, world: Processes, ranks: int, dealt: Mapping[str, int]
) -> dict[str, Tensor]:
    """What this rank needs of the optimizer, random numbers and losses of a state that `ranks` ranks have saved;
    BadAnswer when they are not there. `dealt`: see `Optimizer.dealt`."""

    def read(rank: int) -> dict[str, Tensor]:
        return first if rank == 0 else read_state(folder / optimizer_file(step, rank))

    first = read_state(folder / optimizer_file(step, 0))
    shared = {key: t for key, t in first.items() if not key.endswith(OWN)}
    if ranks == world.size:
        state = shared | read(world.rank)
    else:
        randoms = {key: t for key, t in first.items() if key.startswith("rng.")}
        state = shared | randoms | resharded(read, dealt, ranks, world.rank, world.size)
    if missing := {"rng.cpu", "losses"} - state.keys():
        raise BadAnswer(f"{folder}: its optimizer has no {sorted(missing)[0]}")
    if state["rng.cpu"].dtype != torch.uint8 or not state["losses"].isfinite().all():
        raise BadAnswer(f"{folder}: its random numbers or losses are damaged")
    return state


def restore_optimizer(
    state: Mapping[str, Tensor], optimizer: Optimizer, world: Processes
) -> list[float]:
    """Restore the optimizer and the random numbers of a state; returns the losses so far."""
    optimizer.load(state)
    torch.set_rng_state(state["rng.cpu"])
    if world.device.type == "cuda" and "rng.cuda" in state:
        torch.cuda.set_rng_state(state["rng.cuda"], world.device)
    return [float(loss) for loss in state["losses"]]


def how_to_resume(
    saved: Mapping[str, Any], now: Mapping[str, Any], step: int, model_only: bool
) -> Resume:
    """Resume from a state saved at `step` with the settings `saved`, in a job with the settings `now`.

    UsageProblem with both values when they differ, but for the number of processes: the optimizer is dealt anew. With
    `model_only` the weights alone, at the same step if the rows and steps are the same ones, else from the start.
    """
    different = [k for k in now if k != "processes" and saved.get(k) != now[k]]
    if not different:
        return Resume(step, optimizer=True)
    if model_only:
        return Resume(0 if set(PLACE) & set(different) else step, optimizer=False)
    what = ", ".join(f"{k} was {saved.get(k)!r} and is {now[k]!r}" for k in different)
    raise UsageProblem(
        f'cannot go on from the saved step {step}: {what}. "model_only": true takes its weights '
        'alone, "resume": false begins anew'
    )
