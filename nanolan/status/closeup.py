"""The newest step from the machine's log over SSH; the heartbeat on the Hub comes every five minutes only."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

from msgspec import structs

from nanolan.run.record import TRAINING, Progress
from nanolan.shadeform.ssh import run_bounded
from nanolan.status.view import RunView
from nanolan.times import iso, now_utc

TAIL_BYTES = 20_000
COMMAND = f"tail -c {TAIL_BYTES} /var/log/lanbot-training.log"
CALL_S = 15.0
AGAIN_S = 300.0  # after the machine was not reached
# A line of nanolan/train/progress.py
STEP = re.compile(
    r"^(\w+) step +(\d+)/(\d+) \| loss (\d+\.\d+) \|.*? ([\d,]+) tok/s \|.*\| (\d+\.\d) min left$",
    re.M,
)


class Closeup:
    """Reads the log at most once per look, with a backoff of `AGAIN_S` when the machine is not reachable."""

    def __init__(
        self,
        reach: Callable[[RunView], list[str] | None],
        *,
        run: Callable[..., subprocess.CompletedProcess[bytes]] = run_bounded,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reach, self._run, self._clock, self._not_before = reach, run, clock, 0.0

    def __call__(self, v: RunView) -> RunView:
        """The run with the newest step of its log if it trains and is reachable; else unchanged."""
        if v.state != TRAINING or v.progress is None or self._clock() < self._not_before:
            return v
        argv = self._reach(v)
        text = self._tail(argv) if argv else None
        return replace(v, progress=newer(v.progress, text)) if text is not None else v

    def _tail(self, argv: list[str]) -> str | None:
        try:
            done = self._run(
                [*argv, COMMAND], stdin=subprocess.DEVNULL, capture_output=True, timeout=CALL_S
            )
            if done.returncode == 0:
                return done.stdout[-TAIL_BYTES:].decode(errors="replace")
        except (OSError, subprocess.TimeoutExpired):
            pass  # best effort: the heartbeat on the Hub follows
        self._not_before = self._clock() + AGAIN_S
        return None


def newer(told: Progress, log_tail: str) -> Progress:
    """The progress updated with the newest step of a log; unchanged if the log has none."""
    found = STEP.findall(log_tail)
    if not found:
        return told
    phase, step, steps, loss, speed, minutes = found[-1]
    phase_left_s = 60 * float(minutes)
    known = told.left_s is not None and told.phase_left_s is not None and told.phase == phase
    after_s = (told.left_s or 0.0) - (
        told.phase_left_s or 0.0
    )  # the stages behind this phase's training
    return structs.replace(
        told,
        updated=iso(now_utc()),
        phase=phase,
        step=int(step),
        steps=int(steps),
        loss=float(loss),
        stage="train",
        tok_per_s=float(speed.replace(",", "")),
        phase_left_s=phase_left_s,
        left_s=phase_left_s + after_s if known else told.left_s,
    )
