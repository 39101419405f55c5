"""Uploads progress, metrics and log to the run folder at every state change and every 5 minutes.

Best effort in its own thread: only the newest is sent, and a Hub that is down neither delays nor fails the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from nanolan.box.sandbox import trainer_folder
from nanolan.box.watch.log import LogParts, log_file, unsaid, whole
from nanolan.box.watch.metrics import METRICS, earlier_known, last_row, metrics_of
from nanolan.box.watch.periodic import Periodic
from nanolan.box.watch.progress import read_trainer_beat
from nanolan.box.watch.spend import SpendMeter
from nanolan.box.watch.timeline import Timeline
from nanolan.cost.projection import left_s, project
from nanolan.hub.client import Hub
from nanolan.money import dollars
from nanolan.notify import WARNING, Notifier
from nanolan.plan import Plan
from nanolan.redact import NOTE, Mask, Secret, hide, short
from nanolan.run.record import PREPARING, PhaseReport, Progress, to_json
from nanolan.times import iso, now_utc

BEAT_S = 300.0
NOTIFY_AFTER_S = 20.0  # of an upload that fails; shorter failures are not notified
PATIENCE_S = 20.0
REPORTS = "the run's report"


class Trouble(NamedTuple):
    """An upload that is tried again."""

    what: str
    error: str
    since: float  # by the monotonic clock
    at: str  # ISO-8601 UTC

    @property
    def text(self) -> str:
        return (
            f"{self.what}: {self.error}; it is tried again until the money or the time for it ends"
        )


class Heartbeat:
    """Publishes the state of the run on the Hub."""

    def __init__(
        self,
        plan: Plan,
        secrets: Mapping[str, Secret],
        work: Path,
        meter: SpendMeter,
        timeline: Timeline,
        notify: Notifier,
        *,
        hub: Callable[..., Hub] = Hub,
        ticker: Callable[..., Periodic] = Periodic,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._work = work
        self._meter = meter
        self._timeline = timeline
        self._notify = notify
        self._mask = Mask(secrets.values())
        self._parts = LogParts(plan, self._mask, work / "log-parts.json")
        self.phases = {p: PhaseReport("none") for p in plan.phases}
        self.state = PREPARING
        self._message = ""
        self._warned: int | None = None
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}
        self._ticker = ticker(self._beat, BEAT_S, self._trouble)
        self._hub = hub(
            plan.hf_endpoint,
            secrets["HF_TOKEN"],
            patience_s=PATIENCE_S,
            sleep=self._ticker.pause,
            clock=lambda: math.inf if self._ticker.closed else clock(),
        )  # no patience once this is closed
        self._ticker.start()

    def set_state(self, state: str, message: str = "") -> None:
        """Change the state; it is published soon, by the thread."""
        self.state, self._message = state, hide(message)
        self._ticker.wake()

    def set_phase(self, name: str, report: PhaseReport) -> None:
        self.phases[name] = report

    def note_trouble(self, what: str, error: str) -> None:
        """Publish the last error of an upload until it is over (`error` ""), and notify of it when it lasts."""
        before = self._troubles.pop(what, None)
        if error:
            self._troubles[what] = now = Trouble(
                what,
                error,
                before.since if before else self._clock(),
                before.at if before else iso(now_utc()),
            )
            if self._clock() - now.since >= NOTIFY_AFTER_S:
                self._notify.send(f"{what} cannot be uploaded", now.text, WARNING)
        if what != REPORTS and error != (before.error if before else ""):
            self._ticker.wake()

    def trouble_of(self, what: str) -> str:
        """The last error of an upload and since when it fails; "" if it does not."""
        found = self._troubles.get(what)
        return f"{found.error}; since {found.at}" if found else ""

    def close(self, most_s: float = PATIENCE_S + 5) -> None:
        """Stop publishing; waits `most_s` at most for an upload under way."""
        self._ticker.close(min(most_s, PATIENCE_S + 5))

    def log(self) -> bytes:
        """The whole training log, masked."""
        return whole(log_file(), self._mask) + unsaid(self._mask)

    def has_masked(self) -> bool:
        """Whether a secret was printed and masked, in the log or before stdout."""
        return NOTE.encode() in self.log() or self._mask.hits > 0

    def log_tail(self, size: int = 20_000) -> str:
        """The end of the training log, masked."""
        return self.log()[-size:].decode(errors="replace")

    def _beat(self) -> None:
        progress = self._progress()
        self._warn(progress)
        self._hub.commit(
            self._plan.runs_repo, self._files(progress), f"run {self._plan.run_id}: {self.state}"
        )
        self._parts.sent()
        self._troubles.pop(REPORTS, None)

    def _warn(self, progress: Progress) -> None:
        """Warn when the projected cost crosses the limit, once for each limit."""
        plan = structs.replace(
            self._plan, limit_cents=self._meter.limit_cents, deadline=self._meter.deadline
        )
        warning = project(
            plan, progress, progress.spent_cents, self._meter.hourly_cents, now_utc()
        ).warning
        if warning and self._warned != plan.limit_cents:
            self._warned = plan.limit_cents
            print(f"{progress.updated} box: warning: {warning}", flush=True)
            self._notify.send(
                f"its limit of {dollars(plan.limit_cents)} is too low", warning, WARNING
            )

    def _trouble(self, e: Exception) -> None:
        """Note an upload of this thread that failed; the next one follows."""
        self.note_trouble(REPORTS, short(str(e), 200))
        print(f"heartbeat not sent: {type(e).__name__}: {short(str(e), 160)}", flush=True)

    def _files(self, progress: Progress) -> dict[str, bytes | Path]:
        folder = self._plan.folder
        files: dict[str, bytes | Path] = {
            f"{folder}/progress.json": to_json(progress),
            **self._parts.next(),
        }
        rows = metrics_of(self._work)
        if rows and earlier_known(self._plan, self._hub, self._work):
            files[f"{folder}/{METRICS}"] = metrics_of(self._work) or rows
        return files

    def _progress(self) -> Progress:
        folder = trainer_folder(self._work)
        row = last_row(folder / METRICS)
        beat = read_trainer_beat(folder / "heartbeat.json")
        plan, meter = self._plan, self._meter
        stages = self._timeline.stages()
        here = self._timeline.stage == f"{row.phase}.train"
        phase_left_s = row.left_s if here and beat and beat.stage != "load" else None
        trouble = next(reversed(list(self._troubles.values())), None)
        return Progress(
            plan.run_id,
            self.state,
            dict(self.phases),
            iso(now_utc()),
            self._message,
            row.step,
            row.steps,
            row.loss,
            meter.spent_cents,
            plan.attempt,
            beat.stage if beat else "",
            row.phase,
            row.tok_per_s,
            left_s(plan, stages, self._timeline.stage, phase_left_s),
            phase_left_s,
            meter.limit_cents,
            meter.soft_cents,
            trouble.text if trouble else "",
            trouble.at if trouble else "",
        )
