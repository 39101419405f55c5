"""Detects a trainer that hangs, by its heartbeat file: each stage has its own deadline.

GPU utilisation says nothing here: a hung collective shows 100 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nanolan.files import read_regular
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.record import StopReason

# Seconds without a new heartbeat, by stage; "" is before the first one. "cpu" is a rehearsal of a tiny model.
DEADLINES_S = {
    "cuda": {
        "": 600,
        "load": 1800,
        "compile": 1200,
        "train": 600,
        "save": 900,
        "validate": 1200,
        "evaluate": 1800,
    },
    "cpu": {
        "": 90,
        "load": 90,
        "compile": 60,
        "train": 20,
        "save": 60,
        "validate": 60,
        "evaluate": 90,
    },
}


class TrainerBeat(msgspec.Struct, frozen=True):
    """heartbeat.json, written by the trainer."""

    phase: str
    step: int
    steps: int
    stage: str
    t: float = 0.0
    save_s: float | None = None  # of the last save of a state, which goes on while steps are made


MOST_BEAT_BYTES = 1 << 16
# Made at import: msgspec may crash when two threads decode a type for the first time
BEAT = msgspec.json.Decoder(TrainerBeat)


def read_trainer_beat(path: Path) -> TrainerBeat | None:
    """The newest heartbeat; None when there is none (yet)."""
    try:
        return BEAT.decode(read_regular(path, MOST_BEAT_BYTES))
    except (OSError, *UNREADABLE):
        return None


def overdue(stage: str, silent_s: float, limits: Mapping[str, float]) -> bool:
    """Whether a trainer that has been silent for so long in `stage` counts as stuck; an unknown stage gets the longest."""
    return silent_s > limits.get(stage, max(limits.values()))


class Watchdog:
    """Watches one trainer's heartbeat; `stuck` is called all the time."""

    def __init__(self, path: Path, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._limits = DEADLINES_S[plan.device] | plan.watch_s
        path.unlink(missing_ok=True)  # the heartbeat of a trainer before this one
        self.beat: TrainerBeat | None = None
        self._seen_at = clock()
        self.save_s: float | None = None  # what the last save took
        self._save_began: float | None = None

    def stuck(self) -> StopReason | None:
        """The reason to stop, if the trainer made no progress for too long."""
        now, beat = self._clock(), read_trainer_beat(self._path)
        if beat is not None and beat != self.beat:
            self._note_save(beat, now)
            self.beat, self._seen_at = beat, now
        stage, silent_s = self.beat.stage if self.beat else "", now - self._seen_at
        if not overdue(stage, silent_s, self._limits):
            return None
        step = f" at step {self.beat.step}" if self.beat else ""
        return StopReason(
            "hang", f"no progress for {silent_s:.0f} s in stage {stage or 'start'}{step}"
        )

    @property
    def stage(self) -> str:
        """The newest stage of the trainer, "" before its first heartbeat."""
        beat = read_trainer_beat(self._path) or self.beat
        return beat.stage if beat else ""

    @property
    def step(self) -> int:
        """The newest step of the trainer."""
        beat = read_trainer_beat(self._path) or self.beat
        return beat.step if beat else 0

    def _note_save(self, beat: TrainerBeat, now: float) -> None:
        if beat.stage == "save" and self._save_began is None:
            self._save_began = now
        elif beat.stage != "save" and self._save_began is not None:
            self.save_s, self._save_began = now - self._save_began, None
        if beat.save_s is not None:
            self.save_s = max(beat.save_s, self.save_s or 0.0)
