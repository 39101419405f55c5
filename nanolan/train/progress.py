"""A run's output: progress lines, metrics.jsonl, the heartbeat file, and optionally wandb.

Files come first; wandb is a second sink that can never stop or hold up a run. Only rank 0 reports.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.train.job import Job

RECENT = 20  # steps whose mean time gives the estimate of the remaining time


class ProgressWriter:
    """Rank 0's reporter; on other ranks (`speaks` false) every call does nothing."""

    def __init__(self, job: Job, speaks: bool = True) -> None:
        self.job, self.speaks = job, speaks
        self.steps = 0
        self.losses: list[float] = []
        self.tokens = 0  # trained (in rl: generated) since this process began
        self.save_s: float | None = None  # seconds of the last save of a state
        self.mfu_per_token: float | None = None  # see hardware.mfu_per_token
        self._times: deque[float] = deque(maxlen=RECENT + 1)
        self._sink: Sink | None = None
        if speaks:
            for path in (job.metrics, job.heartbeat):
                path.parent.mkdir(parents=True, exist_ok=True)

    def say(self, line: str) -> None:
        """Print a line."""
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
            "save_s": self.save_s,
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
        memory_gib = peak_gib(self.job.device)
        left_s = (self.steps - step) * self._usual_s(dt_s)
        parts = [
            f"{self.job.phase} step {step}/{self.steps}",
            f"loss {loss:.4f}",
            f"lr {lr:.3g}",
            f"{speed:,.0f} tok/s",
            f"{dt_s * 1000:,.0f} ms",
            *(f"{name} {value:.3g}" for name, value in more.items()),
            *(f"{value:.1%} MFU" for value in mfu.values()),
            f"{memory_gib:.1f} GiB",
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
                "peak_gib": round(memory_gib, 3),
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
        """Append a row to metrics.jsonl and send it to wandb."""
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
        """Start wandb if the job names it (it does if there is a key); gives up after 30 s."""
        wanted = self.job.wandb
        if not (self.speaks and wanted):
            return
        self._sink = Sink(wanted, self.job.metrics.parent, config)

    def close(self) -> None:
        """Let wandb send its remaining data, for at most 30 s."""
        if self._sink is not None:
            self._sink.close()


INIT_S = 30.0  # to start, online or, after that failed, offline


FINISH_S = 30.0  # to send what is left


OFFLINE_S = (
    8.0  # of INIT_S is for starting offline; of the rest, half is for the import on a busy disk
)


class Sink:
    """A wandb run; `wanted` has project, name, group, id."""

    def __init__(
        self,
        wanted: Mapping[str, str],
        folder: Path,
        config: dict[str, Any],
        *,
        init_s: float = INIT_S,
        finish_s: float = FINISH_S,
    ) -> None:
        self._wanted, self._folder, self._config, self._finish_s = wanted, folder, config, finish_s
        self._run: Any = None
        self._offline = ""  # the folder to send at the end
        problem = within(
            lambda: self._start("online", (init_s - OFFLINE_S) / 2), init_s - OFFLINE_S
        )
        if problem is not None and not isinstance(problem, (TimeoutError, ImportError)):
            warn(f"wandb cannot be reached; its run is kept on disk ({_short(problem)})")
            problem = within(lambda: self._start("offline", OFFLINE_S), OFFLINE_S)
        if problem is not None:
            self._drop(problem)

    def _start(self, mode: str, init_s: float) -> None:
        import wandb

        wandb.teardown()  # a failed start keeps the id in use
        settings = wandb.Settings(init_timeout=init_s, console="off", quiet=True)
        run = wandb.init(
            project=self._wanted.get("project"),
            name=self._wanted.get("name"),
            group=self._wanted.get("group"),
            id=self._wanted.get("id"),
            resume="allow",
            dir=str(self._folder),
            config=self._config,
            settings=settings,
            mode=mode,  # type: ignore[arg-type]
        )
        run.define_metric("step")
        run.define_metric(
            "*", step_metric="step"
        )  # a resumed phase takes steps up again: wandb's own counter only grows
        self._offline = run.settings.sync_dir if mode == "offline" else ""
        self._run = run

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of numbers."""
        if self._run is not None:
            try:
                self._run.log(dict(row))
            except Exception as e:  # training continues whatever fails in wandb
                self._drop(e)

    def close(self) -> None:
        """Let it send its remaining data, within the time limit."""
        run, self._run = self._run, None
        if run is None:
            return
        if (problem := within(run.finish, self._finish_s)) is not None:
            self._drop(problem)
        elif self._offline:
            self._sync()

    def _sync(self) -> None:
        """Send the run that was kept on disk."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "wandb", "sync", "--yes", self._offline],
                capture_output=True,
                text=True,
                timeout=self._finish_s,
                check=False,
            )
            problem = (
                ""
                if done.returncode == 0
                else " ".join((done.stderr or done.stdout).split())[-200:]
            )
        except subprocess.TimeoutExpired:
            problem = f"no answer within {self._finish_s:.0f} s"
        if problem:
            warn(
                f"wandb's run could not be sent ({problem}); while this machine lives: wandb sync {self._offline}"
            )

    def _drop(self, problem: BaseException) -> None:
        self._run = None
        warn(f"continuing without wandb ({_short(problem)})")


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _short(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


def within(act: Callable[[], object], limit_s: float) -> BaseException | None:
    """Run `act` in a separate thread; returns its exception, or TimeoutError if it is not done after `limit_s`."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as e:  # returned to the caller, of any kind
            problems.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return TimeoutError(f"no answer within {limit_s:.0f} s")
    return problems[0] if problems else None


# Dense bf16 with fp32 accumulation, in Tflop/s, from the makers' data sheets. The first matching name counts, so the
# more specific ones come first.
PEAK_TFLOPS = (
    ("GB300", 2500),
    ("GB200", 2500),
    ("B300", 2250),
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H20", 148),
    ("H800 PCIe", 756),
    ("H800", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("A100", 312),
    ("A800", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("RTX A6000", 154.8),
    ("RTX 6000 Ada", 364.2),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
)


def peak_flops(gpu: str) -> float | None:
    """Peak bf16 flop/s of a GPU by the name that CUDA gives it; None if it is not in the table."""
    for name, tflops in PEAK_TFLOPS:
        if re.search(rf"\b{name}\b", gpu):
            return tflops * 1e12
    return None


def flops_per_token(config: GPTConfig, sequence_len: int) -> float:
    """Forward and backward pass: 6 a matrix weight, 12 L C T for attention as if it attended to the whole row."""
    matrices = config.n_params - config.vocab_size * config.n_embd
    return 6.0 * matrices + 12.0 * config.n_layer * config.n_embd * sequence_len


def mfu_per_token(
    config: GPTConfig, sequence_len: int, device: torch.device, gpus: int
) -> float | None:
    """Model flops utilisation at one token a second on `gpus` GPUs; None on the CPU and on an unknown GPU."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return flops_per_token(config, sequence_len) / (peak * gpus) if peak else None


def peak_gib(device: str) -> float:
    """Most memory this process has held so far: on the GPU, or of the machine for the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
