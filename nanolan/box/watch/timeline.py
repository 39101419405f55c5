"""Seconds per stage of a run, kept in a file for a restart of this program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from nanolan.files import try_write_atomic


class Timeline:
    """One stage at a time; `enter` ends the one before. Stages: boot, setup, probation, download, sft.train, ..., delete."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = path, now
        self._seconds: dict[str, float] = {}
        self._stage, self._since = "", now()
        try:
            kept = json.loads(path.read_bytes())
            self._seconds = {str(k): float(v) for k, v in kept["seconds"].items()}
            self._stage, self._since = str(kept["stage"]), float(kept["since"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # the first start of this program, or a file that a reboot cut off: the time before is lost

    def add(self, stage: str, seconds: float) -> None:
        """Add a stage that was measured elsewhere, such as the boot; counted once."""
        self._seconds.setdefault(stage, max(0.0, seconds))

    def enter(self, stage: str) -> None:
        """Begin `stage` now."""
        now = self._now()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + max(
                0.0, now - self._since
            )
        self._stage, self._since = stage, now
        try_write_atomic(
            self._path,
            json.dumps({"seconds": self._seconds, "stage": stage, "since": now}).encode(),
        )

    @property
    def stage(self) -> str:
        """The current stage, "" before the first one."""
        return self._stage

    def stages(self) -> dict[str, int]:
        """Whole seconds by stage until now, in the order in which they began."""
        running = {self._stage: max(0.0, self._now() - self._since)} if self._stage else {}
        names = [*self._seconds, *(s for s in running if s not in self._seconds)]
        return {s: round(self._seconds.get(s, 0.0) + running.get(s, 0.0)) for s in names}


def phase_seconds(stages: dict[str, int], phase: str) -> int:
    """Seconds of a phase's training and evaluation."""
    return sum(s for name, s in stages.items() if name in (f"{phase}.train", f"{phase}.evaluate"))
