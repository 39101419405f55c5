"""The training phases: the guide's table, as data in one place."""

from __future__ import annotations

from dataclasses import dataclass

from nanolan.datasets import DATASETS
from nanolan.errors import UsageProblem


@dataclass(frozen=True)
class Phase:
    """One phase: what it reads and writes in HF_REPO, and the data sets it trains on."""

    name: str
    title: str
    input_dir: str
    output_dir: str
    datasets: tuple[str, ...]


PHASES = {
    "mid": Phase(
        "mid",
        "Personality injection",
        "base_checkpoints",
        "mid_checkpoints",
        ("smol-smoltalk", "mmlu", "gsm8k"),
    ),
    "sft": Phase(
        "sft",
        "Task completion",
        "mid_checkpoints",
        "chatsft_checkpoints",
        ("arc-easy", "arc-challenge", "gsm8k", "smol-smoltalk"),
    ),
    "rl": Phase(
        "rl", "Math reinforcement", "chatsft_checkpoints", "chatrl_checkpoints", ("gsm8k",)
    ),
}

# What a checkpoint folder of HF_REPO holds, by its name
FOLDERS = {"base_checkpoints": "base", **{p.output_dir: p.name for p in PHASES.values()}}

SEQUENCES = {
    "mid": ("mid",),
    "sft": ("sft",),
    "rl": ("rl",),
    "mid+sft": ("mid", "sft"),
    "sft+rl": ("sft", "rl"),
    "all": ("mid", "sft", "rl"),
}

# What a model is judged by (nanolan/train/eval_tasks.py); of these only the test split is read
EXAM_DATASETS = ("arc-easy", "arc-challenge", "mmlu", "gsm8k")


def phase_sequence(text: str) -> tuple[str, ...]:
    """The phases of a --phase value, in order; UsageProblem lists the known ones."""
    if text == "agent_rl":
        raise UsageProblem(
            "agent_rl is not part of nanolan: it needs a nanochat fork that has it, run by hand"
        )
    if text not in SEQUENCES:
        raise UsageProblem(f"unknown phase {text[:40]!r}; the phases are {', '.join(SEQUENCES)}")
    return SEQUENCES[text]


def data_files(
    phases: tuple[str, ...], exams: bool, humaneval: bool = False
) -> dict[str, list[str]]:
    """Data set repo -> globs of the files that these phases, and the evaluation after them, read."""
    trained = {d for p in phases for d in PHASES[p].datasets}
    judged = {*EXAM_DATASETS, *(("humaneval",) if humaneval else ())} if exams else set()
    found: dict[str, list[str]] = {}
    for name in sorted(trained | judged):
        data = DATASETS[name]
        found.setdefault(data.repo, []).extend(
            [data.train, data.test] if name in trained else [data.test]
        )
    return found
