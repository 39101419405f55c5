"""JOB.json as the adapter of foreign trainers reads it: nanolan/train/job.py's keys that it needs, and `fork`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from nanolan.errors import UsageProblem
from nanolan.phases import Phase
from nanolan.plan import OWN_PYTHON, UNREADABLE, Fork, Plan

FORK_BUNDLE = "fork.bundle"  # in the run folder


class ForkFacts(msgspec.Struct, frozen=True):
    """How the fork is driven on this machine."""

    checkout: str
    python: str  # its interpreter
    phase: Phase
    processes: int
    task_data: bool
    evaluation: str = ""  # module
    evaluation_arguments: tuple[str, ...] = ()
    endpoint: str = ""  # of the Hub
    rehearsal: bool = False
    downloads: bool = False  # it reads more than what is laid out for it


class ForkJob(msgspec.Struct, frozen=True):
    """One phase, or the evaluation of its result."""

    phase: str
    run_id: str
    model_tag: str
    init_dir: str
    tokenizer_dir: str
    data_dir: str
    out_dir: str
    metrics: str
    heartbeat: str
    fork: ForkFacts
    save_minutes: float = 10.0
    evaluate: str | None = None
    results: str | None = None

    @property
    def folder(self) -> Path:
        """The folder that the trainer writes."""
        return Path(self.metrics).parent


def fork_facts(plan: Plan, phase: str, folder: Path) -> dict[str, Any]:
    """The `fork` of a job, for a plan with a fork that was installed below `folder`."""
    fork = plan.fork
    assert fork  # noqa: S101  # the caller has looked
    facts = ForkFacts(
        str(folder / "fork"),
        python_of(fork, folder),
        plan.phase(phase),
        plan.processes,
        fork.data != "online",
        fork.evaluation,
        fork.evaluation_arguments,
        plan.hf_endpoint,
        plan.device == "cpu",
        fork.data == "task_data+online",
    )
    return dict(msgspec.to_builtins(facts))


def python_of(fork: Fork, folder: Path) -> str:
    """The fork's interpreter, where it is installed below `folder`."""
    installed = str(folder / "fork-venv/bin/python")
    return {"": installed, OWN_PYTHON: sys.executable}.get(fork.python, fork.python)


def read_fork_job(path: Path) -> ForkJob:
    """The job in a JSON file; UsageProblem if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ForkJob)
    except (OSError, *UNREADABLE) as e:
        raise UsageProblem(f"{path}: not a readable job ({e})") from None
