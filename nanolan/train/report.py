"""What a run says of itself: progress lines, metrics.jsonl, the heartbeat file, and wandb if wanted.

Files come first; wandb is a second sink that can never stop or hold up a run. Only rank 0 reports.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

from nanolan.train import hardware
from nanolan.train.job import Job
from nanolan.train.sink import Sink

RECENT = 20  # steps whose mean time says how much is left


class Report:
    """Rank 0's reporter; on other ranks (`speaks` false) every call does nothing."""

    def __init__(self, job: Job, speaks: bool = True) -> None:
        self.job, self.speaks = job, speaks
        self.steps = 0
        self.losses: list[float] = []
        self.tokens = 0  # trained (in rl: generated) since this process began
        self.mfu_per_token: float | None = None  # see hardware.mfu_per_token
        self._times: deque[float] = deque(maxlen=RECENT + 1)
        self._sink: Sink | None = None
        if speaks:
            for path in (job.metrics, job.heartbeat):
                path.parent.mkdir(parents=True, exist_ok=True)

    def say(self, line: str) -> None:
        """A line on stdout."""
        if self.speaks:
            print(line, flush=True)

    def beat(self, stage: str, step: int = 0) -> None:
        """Replace the heartbeat file; stage is load, compile, train, save or validate."""
        if not self.speaks:
            return
        row = {
            "phase": self.job.phase,
            "step": step,
            "steps": self.steps,
            "stage": stage,
            "t": time.time(),
        }
        temp = self.job.heartbeat.with_name(self.job.heartbeat.name + ".tmp")
        temp.write_text(json.dumps(row) + "\n")
        temp.replace(self.job.heartbeat)

    def step(
        self, step: int, loss: float, lr: float, tokens: int, dt_s: float, **more: float
    ) -> None:
        """One optimizer step is done: `step` of `steps`, `tokens` positions in `dt_s` seconds, all ranks together.

        `more` are numbers for the line and the row, such as norm, by their names.
        """
        self.losses.append(loss)
        self.tokens += tokens
        if not self.speaks:
            return
        speed = tokens / dt_s
        mfu = {} if self.mfu_per_token is None else {"mfu": speed * self.mfu_per_token}
        peak_gib, left_s = (
            hardware.peak_gib(self.job.device),
            (self.steps - step) * self._usual_s(dt_s),
        )
        parts = [
            f"{self.job.phase} step {step}/{self.steps}",
            f"loss {loss:.4f}",
            f"lr {lr:.3g}",
            f"{speed:,.0f} tok/s",
            f"{dt_s * 1000:,.0f} ms",
            *(f"{name} {value:.3g}" for name, value in more.items()),
            *(f"{value:.1%} MFU" for value in mfu.values()),
            f"{peak_gib:.1f} GiB",
            f"{left_s / 60:.1f} min left",
        ]
        self.say(" | ".join(parts))
        self.row(
            {
                "step": step,
                "loss": loss,
                "lr": lr,
                "tok_per_s": round(speed, 1),
                "dt_s": round(dt_s, 4),
                **more,
                **mfu,
                "peak_gib": round(peak_gib, 3),
                "left_s": round(left_s, 3),
            }
        )
        self.beat("train", step)

    def _usual_s(self, dt_s: float) -> float:
        """Mean time of the latest steps; the first of all, which compiles, counts only while it is the only one."""
        self._times.append(dt_s)
        times = list(self._times)[1:] or [dt_s]
        return sum(times) / len(times)

    def row(self, values: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl and hand it to wandb."""
        if not self.speaks:
            return
        row = {"phase": self.job.phase, "steps": self.steps, **values, "t": time.time()}
        with open(self.job.metrics, "a") as f:
            f.write(json.dumps(row) + "\n")
        if self._sink is not None:
            self._sink.log(values)

    def loss_span(self) -> dict[str, float | None]:
        """loss_start and loss_end: means over the first and the last tenth of the steps."""
        n = max(1, len(self.losses) // 10)
        first, last = self.losses[:n], self.losses[-n:]
        return {
            "loss_start": sum(first) / n if first else None,
            "loss_end": sum(last) / n if last else None,
        }

    def open_wandb(self, config: dict[str, Any]) -> None:
        """Start wandb if the job names it, which it does where there is a key; gives up after 30 s."""
        wanted = self.job.wandb
        if not (self.speaks and wanted):
            return
        self._sink = Sink(wanted, self.job.metrics.parent, config)

    def close(self) -> None:
        """Let wandb send what it holds, for 30 s at most."""
        if self._sink is not None:
            self._sink.close()
