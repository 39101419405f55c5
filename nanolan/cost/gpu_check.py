"""gpu-check.json: what `just gpu-check` measured on a machine, and the speeds that a forecast takes from it.

A phase also starts, reads data and compiles; so its speed here is its tokens over the time of all that, as a receipt's is. A
receipt outranks a check of the same GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nanolan.checkpoint.model_size import D20
from nanolan.cost.history import MOST_FLOPS, TOKENS, Figures
from nanolan.errors import BadAnswer
from nanolan.files import entries_of
from nanolan.plan import UNREADABLE

FOLDER = "gpu-checks"  # in NANOLAN_HOME: files that the forecast reads
START_S = 60.0  # of a phase: processes, weights and data; an estimate, never measured on a GPU
WIDE = 1.25
OK, FAILED, LEFT_OUT = "ok", "failed", "left out"
# nvidia-smi's names by a word of them -> the marketplace's; the first match counts
NAMES = (
    ("B300", "B300"),
    ("GB200", ""),
    ("B200", "B200"),
    ("GH200", "GH200"),
    ("H200", "H200"),
    ("H100 NVL", "H100_nvl"),
    ("H100", "H100"),
    ("A100-SXM4-80GB", "A100_80G"),
    ("A100 80GB", "A100_80G"),
    ("A100", "A100"),
    ("L40S", "L40S"),
    ("A6000", "A6000"),
)


class Part(msgspec.Struct, frozen=True):
    """One part: its figures, or the reason why it has none."""

    name: str
    state: str
    seconds: float = 0.0
    figures: dict[str, Any] = {}
    reason: str = ""


class GpuCheck(msgspec.Struct, frozen=True):
    """gpu-check.json."""

    began: str
    device: str  # cuda, or cpu: a rehearsal
    gpu: str  # nvidia-smi's name; "" in a rehearsal
    gpus: int
    size: str  # of the model that the steps train
    seconds: float
    parts: tuple[Part, ...]

    @property
    def good(self) -> bool:
        """Whether no part failed."""
        return all(part.state != FAILED for part in self.parts)

    def figures_of(self, name: str) -> dict[str, Any]:
        """The figures of a part; empty when it has none."""
        return next((p.figures for p in self.parts if p.name == name and p.state == OK), {})


def read_gpu_check(data: bytes) -> GpuCheck:
    """A gpu-check.json; BadAnswer if it is none."""
    try:
        return msgspec.json.decode(data, type=GpuCheck)
    except UNREADABLE as e:
        raise BadAnswer(f"gpu-check.json cannot be read: {str(e)[:200]}") from None


def offer_name(gpu: str) -> str:
    """The marketplace's name of a GPU with this name of nvidia-smi's; "" if it is not known."""
    return next((name for word, name in NAMES if word in gpu), "")


def step_speeds(check: GpuCheck) -> dict[str, float]:
    """Tokens a second of the whole machine by phase, steps alone, for a d20."""
    found = {}
    if check.device == "cuda" and check.size == "d20" and check.gpus > 0:
        for phase in ("mid", "sft", "rl"):
            speed = check.figures_of(phase).get("tok_per_s")
            if isinstance(speed, (int, float)) and 0 < 6 * D20 * speed / check.gpus <= MOST_FLOPS:
                found[phase] = float(speed)
    return found


def speeds_of(check: GpuCheck) -> Iterator[tuple[tuple[str, ...], float]]:
    """(("speed", gpu, phase), tokens a second of one GPU over the whole phase)."""
    gpu = offer_name(check.gpu)
    for phase, speed in step_speeds(check).items() if gpu else ():
        compile_s = check.figures_of(phase).get("compile_s")
        extra_s = START_S + (float(compile_s) if isinstance(compile_s, (int, float)) else 0.0)
        yield ("speed", gpu, phase), TOKENS[phase] / (TOKENS[phase] / speed + extra_s) / check.gpus


def read_checks(home: Path) -> list[GpuCheck]:
    """The checks kept in NANOLAN_HOME, newest first; what cannot be read is passed over: the forecast goes on without it."""
    found = []
    try:
        paths = entries_of(home / FOLDER, "*.json")
    except OSError:
        return []
    for path in paths:
        try:
            found.append(read_gpu_check(path.read_bytes()))
        except (OSError, BadAnswer):
            continue
    return sorted(found, key=lambda check: check.began, reverse=True)


def with_checks(figures: Figures, checks: Sequence[GpuCheck]) -> Figures:
    """The figures of earlier runs, and for a GPU and phase without any those of its newest check, with a wide range:
    its steps are measured, the start of a phase and the reading of its data are not."""
    measured: dict[tuple[str, ...], tuple[float, ...]] = {}
    for check in checks:
        for key, speed in speeds_of(check):
            measured.setdefault(key, (speed / WIDE, speed, speed * WIDE))
    return {**measured, **figures}


def usual_steps(checks: Sequence[GpuCheck], gpu: str) -> dict[str, float]:
    """Tokens a second of one GPU by phase, steps alone, for a d20, of the newest check of this GPU."""
    found = next((check for check in checks if offer_name(check.gpu) == gpu), None)
    return {p: speed / found.gpus for p, speed in step_speeds(found).items()} if found else {}
