"""The guide's tables, as data."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.phases import DATASETS, PHASES, SEQUENCES, phase_sequence


@pytest.mark.parametrize(
    "text, phases, reads, writes",
    [
        ("mid", ("mid",), "base", ["mid"]),
        ("sft", ("sft",), "mid", ["chatsft"]),
        ("rl", ("rl",), "chatsft", ["chatrl"]),
        ("mid+sft", ("mid", "sft"), "base", ["mid", "chatsft"]),
        ("sft+rl", ("sft", "rl"), "mid", ["chatsft", "chatrl"]),
        ("all", ("mid", "sft", "rl"), "base", ["mid", "chatsft", "chatrl"]),
    ],
)
def test_the_phases_read_and_write_what_the_guide_says(
    text: str, phases: tuple[str, ...], reads: str, writes: list[str]
) -> None:
    assert phase_sequence(text) == phases
    assert PHASES[phases[0]].input_dir == f"{reads}_checkpoints"
    assert [PHASES[p].output_dir for p in phases] == [f"{w}_checkpoints" for w in writes]
    assert len(SEQUENCES) == 6


def test_each_phase_of_a_sequence_reads_what_the_one_before_wrote() -> None:
    for sequence in SEQUENCES.values():
        for before, after in zip(sequence, sequence[1:], strict=False):
            assert PHASES[after].input_dir == PHASES[before].output_dir


def test_every_data_set_of_a_phase_is_known() -> None:
    assert all(d in DATASETS for p in PHASES.values() for d in p.datasets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stf",
        "SFT",
        "sft ",
        "sft+mid",
        "sft+sft",
        "mid+",
        "+sft",
        "mid,sft",
        "mid sft",
        "all+rl",
        "base",
        "x" * 300,
        "sft\n",
    ],
)
def test_an_unknown_doubled_or_misordered_phase_gets_the_list(text: str) -> None:
    with pytest.raises(UsageProblem, match=r"the phases are mid, sft, rl, mid\+sft, sft\+rl, all"):
        phase_sequence(text)


def test_agent_rl_has_its_own_error() -> None:
    with pytest.raises(
        UsageProblem, match="agent_rl is not a phase of nanolan's trainer: it needs a nanochat fork"
    ):
        phase_sequence("agent_rl")
