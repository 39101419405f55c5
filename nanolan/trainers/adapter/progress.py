"""What the box learns of a running fork: the heartbeat, from the keeper's own, and metrics.jsonl, from the fork's lines."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from nanolan.files import read_regular, try_write_atomic
from nanolan.plan import UNREADABLE
from nanolan.trainers.adapter.output import Said, StepLine, read_part
from nanolan.trainers.fork_job import ForkJob

MOST_BEAT_BYTES = 1 << 16
RECENT = 20  # steps whose mean time gives the estimate of the remaining time
SOMETIMES_S = 1.0
SHOWN = ("loss", "lrm", "mfu", "tok_per_s", "reward", "answer_tokens")


class KeeperBeat(msgspec.Struct, frozen=True):
    """beat.json of the keeper."""

    step: int
    stage: str
    t: float = 0.0
    dt_s: float | None = None


class ForkProgress:
    """Heartbeat and metrics of one phase, whose steps count from `before` on. A full disk costs them, and nothing else."""

    def __init__(self, job: ForkJob, before: int) -> None:
        self._job, self._before = job, before
        self.said = Said()
        self._seen: KeeperBeat | None = None
        self._times: deque[float] = deque(maxlen=RECENT)
        self._line_at = self._step_at = time.monotonic()
        self._step = 0  # of the newest line
        self._beaten = ("load", 0)  # stage and step of the newest heartbeat
        self._beaten_at = 0.0
        self._lock = threading.Lock()  # the output is read in a thread

    def beat(self, stage: str, step: int = 0) -> None:
        """Replace the heartbeat file."""
        row = {
            "phase": self._job.phase,
            "step": step,
            "steps": self._before + self.said.steps if self.said.steps else 0,
            "stage": stage,
            "t": time.time(),
        }
        with self._lock:
            try_write_atomic(Path(self._job.heartbeat), json.dumps(row).encode())
            self._beaten, self._beaten_at = (stage, step), time.monotonic()

    def beat_sometimes(self, stage: str, step: int = 0) -> None:
        if time.monotonic() - self._beaten_at > SOMETIMES_S:
            self.beat(stage, step)

    def look(self, folder: Path) -> None:
        """Take the keeper's newest beat."""
        try:
            beat = msgspec.json.decode(
                read_regular(folder / "beat.json", MOST_BEAT_BYTES), type=KeeperBeat
            )
        except (OSError, *UNREADABLE):
            return
        if beat != self._seen:
            self._seen = beat
            self.beat(beat.stage, self._before + beat.step if beat.step else 0)

    def hear(self, text: str) -> None:
        """One part of the fork's output, which is a sign of life: an evaluation between two steps may take long."""
        found = read_part(text, self.said)
        if found:
            self._row(found)
        if self._job.fork.phase.command:  # it has no keeper
            self.beat_sometimes("command", self._before + self._step if self._step else 0)
        else:
            self.beat_sometimes(*self._beaten)

    def _row(self, line: StepLine) -> None:
        """A row of metrics.jsonl. Speed and time come from the line where it has them, else from the clock."""
        now = time.monotonic()
        numbers, since = dict(line.numbers), now - self._line_at
        self._line_at = now
        dt_s = numbers.get("dt", 0.0) / 1000 or since
        self._note_time(line.step, numbers.get("dt", 0.0) / 1000, now)
        if "tok_per_s" not in numbers and numbers.get("tokens"):
            numbers["tok_per_s"] = numbers["tokens"] / max(dt_s, 1e-3)
        left = max(0, self.said.steps - line.step) * sum(self._times) / len(self._times)
        row: dict[str, Any] = {
            "phase": self._job.phase,
            "steps": self._before + max(self.said.steps, line.step),
            "step": self._before + line.step,
            **{k: v for k, v in numbers.items() if k in SHOWN},
            "dt_s": round(dt_s, 4),
            "left_s": round(left, 3),
            "t": time.time(),
        }
        with contextlib.suppress(OSError), open(self._job.metrics, "a") as f:
            f.write(json.dumps(row) + "\n")

    def _note_time(self, step: int, dt_s: float, now: float) -> None:
        """The time of one step, of which some scripts print several lines."""
        if step != self._step or not self._times:
            self._times.append(dt_s or now - self._step_at)
            self._step, self._step_at = step, now
