"""Parts that run the trainer itself for some steps: mid, sft, the agreement with a CPU, saves, the soak."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nanolan.box.phase_runner import make_job, run_trainer
from nanolan.box.sandbox import trainer_folder
from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import RunFailed
from nanolan.gpu_check.facts import xid_lines
from nanolan.gpu_check.machine import SMALL, Machine
from nanolan.run.record import StopReason
from nanolan.settings.settings import ROOT

RESERVE_S = 5.0  # of a part's time: to end the trainer and read its figures
NEVER = 1_000_000.0  # minutes between saves
COMPARED = 3  # losses
# The first losses of SMALL on a CPU (fp32), as `agreement` trains it; tests/gpu_check/test_steps.py computes them anew
CPU_LOSSES = {"mid": (7.6246, 6.5192, 4.6600), "sft": (7.6246, 7.6028, 7.5786)}
SMALL_TOKENS = 1024
TOLERANCE = 0.05  # relative: bf16 against fp32, after two steps of mid at its full rate


@dataclass(frozen=True)
class Trained:
    """What a trainer left: its rows of metrics, and seconds from the stop to its end."""

    rows: list[dict[str, Any]]
    end_s: float
    out: Path


def trained(
    machine: Machine,
    phase: str,
    enough: Callable[[list[dict[str, Any]]], bool],
    *,
    tokens: int,
    model: str = "model",
    save_minutes: float = NEVER,
    grace_s: float = 0.0,
    limit_s: float | None = None,
) -> Trained:
    """Train until `enough(rows)`, then stop; RunFailed when the trainer ends by itself or the time is up before."""
    work, desk = machine.folder, trainer_folder(machine.folder)
    out = desk / "out"
    shutil.rmtree(out, ignore_errors=True)
    metrics = desk / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    job = make_job(machine.plan(phase), phase, work, work / model / "model", out, False) | {
        "tokenizer_dir": str(work / model / "tokenizer"),
        "recipe": recipe_of(machine, model, tokens),
        "save_minutes": save_minutes,
    }
    end = time.monotonic() + (machine.limit_s if limit_s is None else limit_s) - RESERVE_S - grace_s
    stopped: list[float] = []

    def stop() -> StopReason | None:
        if enough(step_rows(metrics)):
            stopped.append(time.monotonic())
            return StopReason("user", "enough steps")
        return (
            StopReason("max_duration", "the part's time is up") if time.monotonic() > end else None
        )

    code, _ = run_trainer(
        machine.plan(phase),
        job,
        work / "job.json",
        ROOT,
        host=os.environ,
        wandb_key=None,
        stop=stop,
        account=machine.user,
        grace_s=lambda: grace_s,
    )
    rows = step_rows(metrics)
    if not stopped:
        why = f"the trainer ended with exit code {code}" if time.monotonic() < end else "time is up"
        raise RunFailed(f"{phase}: {why} after {len(rows)} steps")
    return Trained(rows, time.monotonic() - stopped[0], out)


def recipe_of(machine: Machine, model: str, tokens: int) -> dict[str, Any]:
    """So many tokens a step, without end; few generated texts, no validation."""
    length = machine.sizes["model"]["sequence_len"] if model == "model" else SMALL["sequence_len"]
    return {
        "sequence_len": length,
        "tokens_per_step": tokens,
        "max_steps": 100_000,
        "spelling_rows": 50,
        "val_rows": 0,
    }


def step_rows(metrics: Path) -> list[dict[str, Any]]:
    """The rows of steps that are written whole."""
    try:
        lines = metrics.read_text().split("\n")[:-1]
    except OSError:
        return []
    return [row for row in map(json.loads, lines) if "loss" in row]


def at_least(steps: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda rows: len(rows) >= steps


def speed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds to compile (the first step less a usual one), then the medians of the steps after the second."""
    usual_s = median(row["dt_s"] for row in rows[2:] or rows)
    found = {
        "compile_s": round(max(0.0, rows[0]["dt_s"] - usual_s), 2),
        "ms": round(1000 * usual_s, 1),
        "tok_per_s": round(median(row["tok_per_s"] for row in rows[2:] or rows), 1),
        "peak_gib": max(row["peak_gib"] for row in rows),
    }
    mfu = [row["mfu"] for row in rows[2:] if "mfu" in row]
    return found | ({"mfu": round(median(mfu), 4)} if mfu else {})


def mid(machine: Machine) -> dict[str, Any]:
    steps, tokens = machine.sizes["steps"], machine.sizes["mid_tokens"]
    return speed(trained(machine, "mid", at_least(steps), tokens=tokens).rows)


def sft(machine: Machine) -> dict[str, Any]:
    steps, tokens = 3 * machine.sizes["steps"], machine.sizes["sft_tokens"]
    return speed(trained(machine, "sft", at_least(steps), tokens=tokens).rows)


def agreement(machine: Machine) -> dict[str, Any]:
    """The first losses of a small model in mid and sft against those of a CPU; RunFailed when they differ."""
    found = {phase: first_losses(machine, phase) for phase in CPU_LOSSES}
    worst = max(
        abs(loss - exact) / exact
        for phase, losses in found.items()
        for loss, exact in zip(losses, CPU_LOSSES[phase], strict=True)
    )
    if not worst <= TOLERANCE:
        raise RunFailed(f"the first losses differ from a CPU's by {worst:.1%}: {found}")
    return {**found, "worst": round(worst, 5)}


def first_losses(machine: Machine, phase: str) -> list[float]:
    """The first losses of SMALL in a phase."""
    done = trained(
        machine,
        phase,
        at_least(COMPARED),
        tokens=SMALL_TOKENS,
        model="small",
        limit_s=machine.limit_s / len(CPU_LOSSES),
    )
    return [round(row["loss"], 4) for row in done.rows[:COMPARED]]


def save(machine: Machine) -> dict[str, Any]:
    """A save after each step, then SIGTERM: seconds that a save stops training, and from the signal to the end."""
    done = trained(
        machine,
        "mid",
        at_least(3),
        tokens=machine.sizes["sft_tokens"],
        save_minutes=0.0,
        grace_s=0.6 * machine.limit_s,
    )
    found = newest_whole(done.out, "mid", final=False)
    if found is None:
        raise RunFailed(f"no whole state {done.end_s:.0f} s after SIGTERM")
    size = sum(f.size for f in found[1].files)
    gaps = [b["t"] - a["t"] - b["dt_s"] for a, b in zip(done.rows, done.rows[1:], strict=False)]
    return {
        "stops_s": round(median(gaps), 2),
        "end_s": round(done.end_s, 2),
        "state_gb": round(size / 1e9, 3),
        "step": found[1].step,
    }


def soak(machine: Machine) -> dict[str, Any]:
    """Steps for the rest of the time: whether they slow down, and what the driver reports meanwhile. RunFailed for an Xid."""
    before = set(xid_lines())
    end = time.monotonic() + machine.limit_s - 2 * RESERVE_S
    done = trained(
        machine,
        "mid",
        lambda rows: len(rows) >= 2 and time.monotonic() > end - 1,
        tokens=machine.sizes["mid_tokens"],
    )
    errors = [line for line in xid_lines() if line not in before]
    if errors:
        raise RunFailed(f"{len(errors)} errors of the driver, the first: {errors[0]}")
    times = [row["dt_s"] for row in done.rows[1:]]
    third = max(1, len(times) // 3)
    return {
        "steps": len(done.rows),
        "first_ms": round(1000 * median(times[:third]), 1),
        "last_ms": round(1000 * median(times[-third:]), 1),
        "xid": 0,
    }
