"""What an evaluation scored, phase by phase, beside what nanochat has published. Pure.

The published figures are of nanochat's own run reports of its d20 (561M parameters, 8xH100). Equal recipes differ much from run
to run there, so the lowest and the highest are shown, never one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanolan.checkpoint.model_size import D20
from nanolan.phases import DATASETS
from nanolan.run.record import PhaseReport

CHATCORE = "chatcore"
# key -> (name, what guessing scores); the tasks of nanolan/train/evaluation/tasks.py
TASKS = {
    "arc_easy_acc": ("ARC-Easy", 0.25),
    "arc_challenge_acc": ("ARC-Challenge", 0.25),
    "mmlu_acc": ("MMLU", 0.25),
    "gsm8k_acc": ("GSM8K", 0.0),
    "humaneval_acc": ("HumanEval", 0.0),
    "spellingbee_acc": ("SpellingBee", 0.0),
}
# key -> (data set, its configuration on the Hub, the metric's type there); the rest are no data sets of the Hub
ON_HUB = {
    "arc_easy_acc": ("arc-easy", "ARC-Easy", "accuracy"),
    "arc_challenge_acc": ("arc-challenge", "ARC-Challenge", "accuracy"),
    "mmlu_acc": ("mmlu", "all", "accuracy"),
    "gsm8k_acc": ("gsm8k", "main", "accuracy"),
    "humaneval_acc": ("humaneval", "openai_humaneval", "pass@1"),
}
SOURCE = "nanolan"  # of the scores in a model card
A_PART = "on a part of the questions (eval=quick)"
MODEL = "nanochat d20 (561M)"
PUBLISHED_BY = "run reports of nanochat of October 2025 to January 2026, 8xH100"
# phase -> a row per run report: accuracies in the order of TASKS, None where the report has none
PUBLISHED: dict[str, tuple[tuple[float | None, ...], ...]] = {
    "mid": (
        (0.3561, 0.2875, 0.3111, 0.0250, 0.0671, None),  # 2025-10, the README's
        (0.4478, 0.3311, 0.3315, 0.0500, 0.0915, 1.0),  # 2025-11-11
        (0.3140, 0.2782, 0.2870, 0.0394, 0.1098, 0.984),
    ),  # 2026-01-07
    "sft": (
        (0.3876, 0.2807, 0.3151, 0.0455, 0.0854, None),
        (0.4684, 0.3362, 0.3314, 0.0697, 0.0915, 1.0),
        (0.3173, 0.2858, 0.2891, 0.0485, 0.1037, 0.977),
        (0.2618, 0.2432, 0.2599, 0.0387, 0.0549, None),  # 2025-10-16
        (0.4230, 0.3114, 0.3232, 0.0553, 0.0671, None),
    ),  # 2025-10-24
    "rl": tuple((None, None, None, gsm8k, None, None) for gsm8k in (0.0758, 0.0758, 0.0751)),
}
SIZE_SLACK = 0.05  # of the parameters: another vocabulary is still a d20


@dataclass(frozen=True)
class Line:
    """One task: the score of each phase, how it changed since the phase before, and (lowest, highest) published."""

    name: str
    scores: tuple[float | None, ...]
    changes: tuple[float | None, ...]
    published: tuple[tuple[float, float] | None, ...]


def score_lines(phases: Mapping[str, PhaseReport]) -> list[Line]:
    """A line for each task that any phase was judged by, and ChatCORE last; [] when there was no evaluation."""
    keys = [k for k in (*TASKS, CHATCORE) if any(k in r.measured for r in phases.values())]
    return [_line(key, phases) for key in keys]


def _line(key: str, phases: Mapping[str, PhaseReport]) -> Line:
    scores = tuple(r.measured.get(key) for r in phases.values())
    pairs = zip((None, *scores), scores, strict=False)
    changes = tuple(None if None in (before, now) else now - before for before, now in pairs)  # type: ignore[operator]
    published = tuple(published_range(p, key, r.measured) for p, r in phases.items())
    return Line(TASKS[key][0] if key in TASKS else "ChatCORE", scores, changes, published)


def published_range(
    phase: str, key: str, measured: Mapping[str, float]
) -> tuple[float, float] | None:
    """(lowest, highest) of the run reports that tell it; ChatCORE is computed over the very tasks that were `measured`."""
    runs = [dict(zip(TASKS, row, strict=True)) for row in PUBLISHED.get(phase, ())]
    if key == CHATCORE:
        found = [chat_core({k: run[k] for k in TASKS if k in measured}) for run in runs]
    else:
        found = [run[key] for run in runs]
    known = [v for v in found if v is not None]
    return (min(known), max(known)) if known else None


def chat_core(accuracies: Mapping[str, float | None]) -> float | None:
    """Mean of (accuracy - chance) / (1 - chance); None when there are no tasks or one of them is not known."""
    known = {k: v for k, v in accuracies.items() if v is not None}
    if not known or len(known) < len(accuracies):
        return None
    return sum((v - TASKS[k][1]) / (1 - TASKS[k][1]) for k, v in known.items()) / len(known)


def is_d20(parameters: int | None) -> bool | None:
    """Whether a model is of the published ones' size; None when its size is not known."""
    return None if parameters is None else abs(parameters / D20 - 1) < SIZE_SLACK


def passes(report: PhaseReport) -> list[tuple[int, float | None, float | None]]:
    """The rl evaluation: (k, pass@k before, after)."""
    ks = sorted(
        {
            int(k.split("_")[2])
            for k in report.measured
            if k.startswith("pass_at_") and k.split("_")[2].isdigit()
        }
    )
    return [
        (k, report.measured.get(f"pass_at_{k}_start"), report.measured.get(f"pass_at_{k}_end"))
        for k in ks
    ]


def hub_index(name: str, address: str, measured: Mapping[str, float], quick: bool) -> list[Any]:
    """The scores of the checkpoint `name` at `address` in the form that the Hub reads in a model card; [] without any."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=DATASETS[data].repo,
            dataset_name=TASKS[key][0],
            dataset_config=config,
            dataset_split="test",
            metric_type=metric,
            metric_value=round(measured[key], 4),
            metric_name=f"{metric} {A_PART}" if quick else metric,
            source_name=SOURCE,
            source_url=address,
        )
        for key, (data, config, metric) in ON_HUB.items()
        if key in measured
    ]
    return eval_results_to_model_index(name, results) if results else []


def is_our_index(index: Any) -> bool:
    """Whether every score of a model-index is ours, so that it may be replaced."""
    try:
        sources = [result["source"]["name"] for model in index for result in model["results"]]
    except (TypeError, KeyError):
        return False
    return bool(sources) and set(sources) == {SOURCE}
