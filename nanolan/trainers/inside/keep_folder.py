"""The folder NANOLAN_KEEP: whole checkpoints, beat.json, and rank 0's mark. Loaded by keeper.py; needs no torch."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEAT_S = 0.2  # at most one beat in this time
KEPT = 2  # checkpoints in the folder
LEAVE_S = 2.0  # for the other ranks to exit before rank 0, whose end would fail their collectives
POLL_S = 0.025


class Folder:
    """What one start of a script keeps; the ranks of one torchrun share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = path / f".left-{os.getppid()}-{os.environ.get('MASTER_PORT', '')}"
        self._kept = -1  # the step of the newest checkpoint
        self._stage, self._beaten = "", 0.0  # of the latest beat

    def open(self) -> None:
        """Create it, and remove an earlier start's marks and unfinished files."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in self.path.iterdir():
            if re.fullmatch(r"finished|not-finite|\.left-.*|\..*\.tmp", path.name):
                path.unlink(missing_ok=True)

    def beat(self, stage: str, step: int, dt_s: float | None, always: bool) -> None:
        """Replace beat.json, unless it has just been written; a failure changes nothing."""
        now = time.monotonic()
        if stage == self._stage and now - self._beaten < BEAT_S and not always:
            return
        self._stage, self._beaten = stage, now
        row = {"step": step, "t": time.time(), "stage": stage, "dt_s": dt_s}
        temp = self.path / ".beat.tmp"
        try:
            temp.write_text(json.dumps(row) + "\n")
            temp.replace(self.path / "beat.json")
        except OSError:
            pass  # a full disk: the age of the file shows it

    def save(self, step: int, fill: Callable[[Path], object], meta: dict[str, Any]) -> None:
        """Write the weights, then the meta: a model without one is not whole. Keeps the newest checkpoints."""
        model = self.path / f"model_{step:06d}.pt"
        text = json.dumps(meta, indent=2, default=str) + "\n"
        try:
            if self._kept != step:
                _write(model, fill)
            _write(self.path / f"meta_{step:06d}.json", lambda temp: temp.write_text(text))
        except BaseException:
            if self._kept != step:
                model.unlink(missing_ok=True)
            raise
        self._kept = step
        for old in self._models()[KEPT:]:
            old.with_name(old.name.replace("model", "meta")).with_suffix(".json").unlink(
                missing_ok=True
            )
            old.unlink(missing_ok=True)

    def _models(self) -> list[Path]:
        """The newest file first: an earlier start may have come to higher steps."""
        models = [p for p in self.path.iterdir() if re.fullmatch(r"model_\d+\.pt", p.name)]
        return sorted(models, key=lambda p: p.stat().st_mtime_ns, reverse=True)

    def mark(self, name: str) -> None:
        """Note "finished", the script came to its own end, or "not-finite", a weight is not a number."""
        try:
            (self.path / name).touch()
        except OSError:
            pass  # a full disk

    def let_ranks_leave(self, ranks: int) -> None:
        """Rank 0 is done: write the mark, and wait a little for the other ranks to leave."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._mark.touch()
        end = time.monotonic() + LEAVE_S
        while time.monotonic() < end and not all(
            Path(f"{self._mark}.{rank}").exists() for rank in range(1, ranks)
        ):
            time.sleep(POLL_S)

    def may_leave(self) -> bool:
        """Whether rank 0 is done."""
        try:
            return self._mark.exists()
        except OSError:
            return False

    def leave(self, rank: int) -> None:
        """Tell rank 0 that this rank leaves."""
        Path(f"{self._mark}.{rank}").touch()


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file as a whole: temporary file, fsync, rename."""
    temp = path.with_name(f".{path.name}.tmp")
    try:
        fill(temp)
        _sync(temp)
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
