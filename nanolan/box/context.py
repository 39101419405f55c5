"""`BoxRun`: the state of one run on its instance, which every module of the box program gets; `BoxDeps`: what tests replace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nanolan.box.machine_check import inspect_machine
from nanolan.box.phase_runner import kill_trainers, run_trainer
from nanolan.box.probation import Trouble, check_collective
from nanolan.box.sandbox import TrainerUser, confine, fence, trainer_folder
from nanolan.box.upload.postmortem import PROBES, Probe
from nanolan.box.upload.render import render
from nanolan.box.watch.control import Control
from nanolan.box.watch.heartbeat import Heartbeat
from nanolan.box.watch.periodic import Periodic
from nanolan.box.watch.spend import SpendMeter
from nanolan.box.watch.timeline import Timeline
from nanolan.errors import NanolanError
from nanolan.files import try_write_atomic
from nanolan.hub.client import Hub
from nanolan.hub.proof import Proof
from nanolan.hub.transfer import run_transfer
from nanolan.notify import Notifier
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.run.record import StopReason
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance
from nanolan.times import iso, now_utc


class RunStopped(NanolanError):
    """The run ends here. `reason` is one of the design's closed set."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class BoxDeps:
    """Processes, services and clocks, each of which can be passed in."""

    trainer: Callable[..., tuple[int, StopReason | None]] = run_trainer
    kill: Callable[[str], int] = kill_trainers
    inspect: Callable[..., str] = inspect_machine
    confine: Callable[[Path], tuple[TrainerUser | None, str]] = confine
    fence: Callable[[TrainerUser | None], str] = fence
    collective: Callable[..., Trouble] = check_collective
    transfer: Callable[..., None] = run_transfer
    api: Callable[..., Shadeform] = Shadeform
    hub: Callable[..., Hub] = Hub
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = now_utc
    sleep: Callable[[float], None] = time.sleep
    ticker: Callable[..., Periodic] = Periodic
    notifier: Callable[..., Notifier] = Notifier
    pool: Callable[[], Executor] = lambda: ThreadPoolExecutor(1)
    render: Callable[[str, Mapping[str, str], float], str] = render  # the report and the card
    probes: Mapping[str, Probe] = field(default_factory=lambda: PROBES)  # of the postmortem


@dataclass
class BoxRun:
    """One run on its instance."""

    plan: Plan
    secrets: dict[str, Secret]
    state: Path  # /root/.nanolan: plan, secrets, lock, attempts
    work: Path  # on the biggest disk: code, inputs, outputs
    api: Shadeform
    me: Instance
    meter: SpendMeter
    heartbeat: Heartbeat
    timeline: Timeline
    control: Control
    notify: Notifier
    deps: BoxDeps = field(default_factory=BoxDeps)
    proofs: list[Proof] = field(default_factory=list)
    states: dict[str, Proof | None] = field(
        default_factory=dict
    )  # phase -> its newest state on the Hub, once it is known
    spent_before_cents: int = 0  # when this program started: its probation counts from there
    unsaved: list[str] = field(default_factory=list)  # whole here, not on the Hub
    account: TrainerUser | None = None  # None: the trainer runs as this program's user
    unconfined: str = ""  # why the trainer's user cannot use the GPUs, though this program's can

    @property
    def token(self) -> Secret:
        return self.secrets["HF_TOKEN"]

    def out_dir(self, phase: str) -> Path:
        """Where the trainer saves."""
        return trainer_folder(self.work) / "out" / self.plan.result_folder(phase)

    def target(self, phase: str) -> str:
        """Where the result of a phase goes in HF_REPO."""
        return self.plan.result_folder(phase)

    def saved(self, phase: str) -> str:
        """Where a state saved on the way goes in RUNS_REPO."""
        return f"{self.plan.folder}/saved/{phase}"

    def evaluation(self, phase: str) -> Path:
        """Where the evaluation of a phase's checkpoint leaves its results."""
        return trainer_folder(self.work) / f"evaluation-{phase}.json"

    def stop(self) -> StopReason | None:
        """Why training must end now, if it must."""
        return self.meter.should_stop() or self.control.asked() or self.meter.taken


def optional_hub(box: BoxRun, patience_s: float) -> Hub:
    """A Hub client for optional calls: its patience ends, too, when what is left of the money is for deleting the instance."""

    def clock() -> float:
        return math.inf if box.meter.must_give_up() else box.deps.clock()

    return box.deps.hub(box.plan.hf_endpoint, box.token, patience_s=patience_s, clock=clock)


def say(text: str) -> None:
    """A line of the training log (our stdout), in one write: other threads print, too."""
    print(f"{iso(now_utc())} box: {text}\n", end="", flush=True)


def note(path: Path, data: bytes) -> None:
    """Write `path` for the next start of this program; a warning where the disk does not take it."""
    if not try_write_atomic(path, data):
        say(f"warning: {path} cannot be written; going on without")
