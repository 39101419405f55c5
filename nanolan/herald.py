"""The heartbeat: progress, metrics and log to the run folder at every state change and every 5 minutes.

Best effort by its own thread: newest wins, a Hub that is down delays nothing and fails nothing.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from nanolan.boxlog import Parts, log_file, whole
from nanolan.hub import Hub
from nanolan.meter import Meter
from nanolan.plan import Plan, iso, now_utc
from nanolan.report import PREPARING, PhaseReport, Progress, to_json
from nanolan.secret import Mask, Secret
from nanolan.ticker import Ticker
from nanolan.watchdog import read_beat

BEAT_S = 300.0
PATIENCE_S = 20.0


class Herald:
    """Tells the Hub how the run is doing."""

    def __init__(self, plan: Plan, secrets: Mapping[str, Secret], work: Path, meter: Meter, *, hub: Callable[..., Hub] = Hub,
                 ticker: Callable[..., Ticker] = Ticker, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan, self._work, self._meter = plan, work, meter
        self._mask = Mask(secrets.values())
        self._parts = Parts(plan, self._mask, work / "log-parts.json")
        self.phases = {p: PhaseReport("none") for p in plan.phases}
        self.state, self._message = PREPARING, ""
        self._ticker = ticker(self._beat, BEAT_S, self._trouble)
        self._hub = hub(plan.hf_endpoint, secrets["HF_TOKEN"], patience_s=PATIENCE_S, sleep=self._ticker.pause,
                        clock=lambda: math.inf if self._ticker.closed else clock())    # no patience once this is closed
        self._ticker.start()

    def tell(self, state: str, message: str = "") -> None:
        """A state change: published soon, without waiting for it."""
        self.state, self._message = state, self._mask.hide(message)
        self._ticker.wake()

    def phase(self, name: str, report: PhaseReport) -> None:
        self.phases[name] = report

    def close(self, most_s: float = PATIENCE_S + 5) -> None:
        """No more heartbeats; waits for the one that is under way, for `most_s` at most."""
        self._ticker.close(min(most_s, PATIENCE_S + 5))

    def log(self) -> bytes:
        """The whole training log, masked."""
        return whole(log_file(), self._mask)

    def log_tail(self, size: int = 20_000) -> str:
        """The end of the training log, masked."""
        return self.log()[-size:].decode(errors="replace")

    def _beat(self) -> None:
        self._hub.commit(self._plan.runs_repo, self._files(), f"run {self._plan.run_id}: {self.state}")
        self._parts.sent()

    def _trouble(self, e: Exception) -> None:
        """The next beat tells more."""
        print(self._mask.hide(f"heartbeat not sent: {type(e).__name__}: {e}")[:200], flush=True)

    def _files(self) -> dict[str, bytes | Path]:
        folder = self._plan.folder
        files: dict[str, bytes | Path] = {f"{folder}/progress.json": to_json(self._progress()), **self._parts.next()}
        metrics = self._work / "metrics.jsonl"
        if metrics.is_file():
            files[f"{folder}/metrics.jsonl"] = metrics.read_bytes()
        return files

    def _progress(self) -> Progress:
        step, steps, loss = last_metrics(self._work / "metrics.jsonl")
        beat = read_beat(self._work / "heartbeat.json")
        return Progress(self._plan.run_id, self.state, dict(self.phases), iso(now_utc()), self._message, step, steps, loss,
                        self._meter.spent_cents, self._plan.attempt, beat.stage if beat else "")


def last_metrics(path: Path) -> tuple[int | None, int | None, float | None]:
    """(step, steps, loss) of the last whole row of metrics.jsonl."""
    try:
        row = msgspec.json.decode(path.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1], type=dict)
        return row.get("step"), row.get("steps"), row.get("loss")
    except (OSError, msgspec.DecodeError):
        return None, None, None
