"""Reads the lines that nanochat's scripts print: steps, measurements, scores, and the error that ended them. Pure.

The keeper's heartbeat says that a fork trains and how fast; a line that is not understood costs a figure in the report, no more.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from nanolan.trainers.adapter.failures import RANK, Failures

MOST_TEXT = 4000  # characters of a line; the rest of a longer one is not read
MOST_STEPS = 10**9
NOT_FINITE = 3  # steps on end
ANSI = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
NUMBER = r"[-+]?(?:\d[\d,]{0,30}(?:\.\d{0,30})?(?:[eE][-+]?\d{1,4})?|nan|inf)"
PERCENT = r"\d{1,9}(?:\.\d{0,9})?"
STEP = re.compile(rf"^[Ss]tep (\d{{1,9}})(?:/(\d{{1,9}}))?(?: \(({PERCENT})%\))? \| (.*)$")
FIELD = re.compile(rf"([A-Za-z][\w@./ -]{{0,40}}?):\s?({NUMBER})(%?)")
TASK = r"[A-Za-z][\w-]{0,40}"
# A progress line of another rank may stand before it: "Rank 1 | 3/4 (75.00%)ARC-Easy accuracy: 25.00%"
ACCURACY = re.compile(rf"(?:^|\))({TASK}) accuracy: ({NUMBER})%$")
INDENTED = re.compile(rf"^\s{{1,8}}({TASK}): ({NUMBER})%$")
CHATCORE = re.compile(rf"(?:^|\))ChatCORE metric: ({NUMBER})$")

# What forks call a figure -> the report's name for it
NAMES = {
    "loss": "loss",
    "training_loss": "loss",
    "tok/sec": "tok_per_s",
    "num_tokens": "tokens",
    "lrm": "lrm",
    "mfu": "mfu",
    "validation_bpb": "val_bpb",
    "validation_loss": "val_loss",
    "chatcore": "chatcore",
    "chatcore_cat": "chatcore_cat",
    "average_reward": "reward",
    "average_sequence_length": "answer_tokens",
}


@dataclass
class Said:
    """What a fork has said so far."""

    steps: int = 0  # of the phase, 0 while unknown
    measured: dict[str, float] = field(default_factory=dict)  # the newest validation figures
    scores: dict[str, float] = field(default_factory=dict)  # of an evaluation, as fractions
    failures: Failures = field(default_factory=Failures)
    losses: list[float] = field(default_factory=list)
    last: str = ""  # the newest line

    @property
    def error(self) -> str:
        """What ended it, such as "ValueError: ...", "" if it printed no error."""
        return self.failures.cause


@dataclass(frozen=True)
class StepLine:
    """A training step that was reported."""

    step: int
    numbers: dict[str, float]  # loss, tok_per_s, ...


def parts_of(line: str) -> list[str]:
    """The texts of a line: without colours, split where a carriage return overwrites it."""
    plain = ANSI.sub("", line[: 2 * MOST_TEXT])
    return [part.rstrip()[:MOST_TEXT] for part in re.split(r"[\r\n]+", plain) if part.strip()]


def read_part(text: str, said: Said) -> StepLine | None:
    """Take one text into `said`; the training step that it reports, if it is one."""
    named = RANK.match(text)
    rank, text = (named[1], text[named.end() :]) if named else ("", text)
    said.last = text
    if found := STEP.match(text):
        return _read_step(found, said)
    if found := ACCURACY.search(text) or INDENTED.match(text):
        _note_score(said, score_name(found[1]), number(found[2]) / 100)
    elif found := CHATCORE.search(text):
        _note_score(said, "chatcore", number(found[1]))
    else:
        said.failures.read(rank, text)
    return None


def _note_score(said: Said, name: str, value: float) -> None:
    if math.isfinite(value):
        said.scores[name] = value


def _read_step(found: re.Match[str], said: Said) -> StepLine | None:
    step = int(found[1])
    said.steps = _steps(step, found[2], found[3]) or said.steps
    numbers = {
        NAMES.get(_name(name), _name(name)): number(value) / (100 if percent else 1)
        for name, value, percent in FIELD.findall(found[4])
    }
    numbers = {k: v for k, v in numbers.items() if math.isfinite(v) or k == "loss"}
    if "loss" in numbers:
        said.losses.append(numbers["loss"])
        said.failures = Failures()  # an error before this was caught
        return StepLine(step, numbers)
    said.measured |= {k: v for k, v in numbers.items() if _is_measured(k)}
    return StepLine(step, numbers) if "reward" in numbers else None


def _is_measured(name: str) -> bool:
    return name.startswith(("val_", "chatcore", "pass@")) or name.endswith("_acc")


def _steps(step: int, total: str | None, percent: str | None) -> int:
    """The number of steps, from "3/40" or from a percentage, which passes 100 in some forks."""
    if total:
        return int(total)
    share = float(percent) / 100 if percent else 0.0
    return min(MOST_STEPS, max(step, round(step / share))) if share > 0 else 0


def _name(name: str) -> str:
    return "_".join(name.strip().lower().split())


def score_name(task: str) -> str:
    """ARC-Easy -> arc_easy_acc, as nanolan's own evaluation calls it."""
    return f"{task.lower().replace('-', '_')}_acc"


def number(text: str) -> float:
    """A number with or without thousands commas."""
    return float(text.replace(",", ""))


def is_lost(losses: list[float]) -> bool:
    """Whether the loss has become NaN or infinite: in three steps on end, for a single one may be skipped by the fork."""
    return len(losses) >= NOT_FINITE and not any(map(math.isfinite, losses[-NOT_FINITE:]))


def loss_span(losses: list[float]) -> dict[str, float]:
    """loss_start and loss_end: means over the first and the last tenth of the steps."""
    finite = [x for x in losses if math.isfinite(x)]
    if not finite:
        return {}
    n = max(1, len(finite) // 10)
    return {"loss_start": sum(finite[:n]) / n, "loss_end": sum(finite[-n:]) / n}
