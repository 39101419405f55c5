"""The training phases: the guide's table, as data in one place."""
from __future__ import annotations

from dataclasses import dataclass

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


def phase_sequence(text: str) -> tuple[str, ...]:
    """The phases of a --phase value, in order; UsageProblem lists the known ones."""
    if text == "agent_rl":
        raise UsageProblem("agent_rl is not part of nanolan: it needs a nanochat fork that has it, run by hand")
    if text not in SEQUENCES:
        raise UsageProblem(f"unknown phase {text[:40]!r}; the phases are {', '.join(SEQUENCES)}")
    return SEQUENCES[text]
