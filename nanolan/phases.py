"""The training phases and how long they take: the guide's tables, as data in one place."""
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
    "mid": Phase("mid", "Personality injection", "base_checkpoints", "mid_checkpoints",
                 ("smol-smoltalk", "mmlu", "gsm8k")),
    "sft": Phase("sft", "Task completion", "mid_checkpoints", "chatsft_checkpoints",
                 ("arc-easy", "arc-challenge", "gsm8k", "smol-smoltalk")),
    "rl": Phase("rl", "Math reinforcement", "chatsft_checkpoints", "chatrl_checkpoints", ("gsm8k",)),
}

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

# Minutes of a phase on 8 GPUs (the guide's table; H100 is what the other GPUs are scaled from)
MINUTES_ON_8 = {
    ("mid", "B200"): 45, ("mid", "H100"): 60,
    ("sft", "H100"): 60,
    ("rl", "H100"): 60,
}
# Speed relative to H100, from public bf16 training throughput; 45 of 60 minutes gives B200 its 1.33
SPEED = {"B300": 1.5, "B200": 1.33, "H200": 1.1, "GH200": 1.0, "H100": 1.0, "H100_nvl": 0.9,
         "A100_80G": 0.42, "A100": 0.42, "L40S": 0.25, "A6000": 0.14}
OVERHEAD_MINUTES = 10   # boot, set-up, download, last upload
HIGH = 1.33             # the guide's range: "3-4 hours"


def phase_sequence(text: str) -> tuple[str, ...]:
    """The phases of a --phase value, in order; UsageProblem lists the known ones."""
    if text == "agent_rl":
        raise UsageProblem("agent_rl is not part of nanolan: it needs a nanochat fork that has it, run by hand")
    if text not in SEQUENCES:
        raise UsageProblem(f"unknown phase {text[:40]!r}; the phases are {', '.join(SEQUENCES)}")
    return SEQUENCES[text]


def data_files(phases: tuple[str, ...], exams: bool, humaneval: bool = False) -> dict[str, list[str]]:
    """Data set repo -> globs of the files that these phases, and the evaluation after them, read."""
    trained = {d for p in phases for d in PHASES[p].datasets}
    judged = {*EXAM_DATASETS, *(("humaneval",) if humaneval else ())} if exams else set()
    found: dict[str, list[str]] = {}
    for name in sorted(trained | judged):
        data = DATASETS[name]
        found.setdefault(data.repo, []).extend([data.train, data.test] if name in trained else [data.test])
    return found


def expected_hours(phases: tuple[str, ...], gpu: str, num_gpus: int) -> float | None:
    """Hours from create to delete, for a d20 model; None for a GPU we have no figure for."""
    speed = SPEED.get(gpu)
    if speed is None or num_gpus < 1:
        return None
    minutes = sum(MINUTES_ON_8.get((p, gpu), MINUTES_ON_8[p, "H100"] / speed) for p in phases)
    return (minutes * 8 / num_gpus + OVERHEAD_MINUTES) / 60
