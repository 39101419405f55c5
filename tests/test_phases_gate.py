"""Tests of nanolan/phases.py."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.phases import (
    HUMANEVAL_SCORE,
    PHASES,
    SCORES,
    SEQUENCES,
    gate_problem,
    gate_that_opens,
    measured_after,
    never_measured,
    parse_gate,
)
from nanolan.settings.load import load_settings
from nanolan.train.evaluation.tasks import TASKS


@pytest.mark.parametrize(
    "text, measured, stays_shut",
    [
        ("val_bpb<0.5", {"val_bpb": 0.4}, False),
        ("val_bpb<0.5", {"val_bpb": 0.5}, True),
        ("val_bpb <= 0.5", {"val_bpb": 0.5}, False),
        ("chatcore>0.1", {"chatcore": 0.2}, False),
        ("chatcore>=0.2", {"chatcore": 0.1}, True),
        ("val_bpb<0.5", {"val_bpb": float("nan")}, True),
        ("val_bpb<0.5", {"val_bpb": None}, True),
        ("val_bpb<0.5", {}, True),
    ],
)
def test_a_gate_opens_only_for_a_matching_number(
    text: str, measured: dict[str, float | None], stays_shut: bool
) -> None:
    assert bool(gate_problem(text, measured)) == stays_shut


def test_a_gate_on_a_missing_measurement_lists_those_that_exist() -> None:
    assert "not measured" in gate_problem(
        "val_bpb<0.5", {"chatcore": 0.1}
    ) and "chatcore" in gate_problem("val_bpb<0.5", {"chatcore": 0.1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "val_bpb",
        "<0.5",
        "val_bpb<",
        "val_bpb<x",
        "val_bpb=0.5",
        "a<1; rm -rf /",
        "val_bpb<1e999",
        "val_bpb<nan",
        "x" * 50 + "<1",
        "val_bpb<0.5<0.6",
        "__import__('os')<1",
    ],
)
def test_an_invalid_gate_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="gate"):
        parse_gate(text)


@pytest.mark.parametrize(
    "gate, before, evaluate, humaneval, says",
    [
        ("val_bpb<0.5", ("mid",), "none", False, ""),
        ("val_bpb<0.5", ("mid",), "quick", False, ""),
        ("val_loss<2", ("sft",), "none", False, ""),
        ("gsm8k_acc>0.1", ("mid", "sft"), "quick", False, ""),
        ("chatcore>0.1", ("sft",), "full", False, ""),
        ("humaneval_acc>0.1", ("sft",), "full", True, ""),
        (
            "val_bpb<0.5",
            ("sft",),
            "quick",
            False,
            "val_bpb is not measured after sft; measured after sft: val_loss, chatcore",
        ),
        (
            "val_loss<2",
            ("mid",),
            "none",
            False,
            "val_loss is not measured after mid; measured after mid: val_bpb",
        ),
        (
            "val_bpb<0.5",
            ("mid", "sft"),
            "quick",
            False,
            "not measured after sft; measured after mid and sft: chatcore",
        ),
        ("val_bpb<0.5", ("mid", "sft"), "none", False, "measured after mid and sft: nothing"),
        ("foo<0.5", ("mid",), "quick", False, "foo is not measured after mid; measured after mid"),
        ("VAL_BPB<0.5", ("mid",), "quick", False, "did you mean val_bpb"),
        ("val_bbp<0.5", ("mid",), "quick", False, "did you mean val_bpb"),
        ("gsm8k>0.5", ("sft",), "quick", False, "did you mean gsm8k_acc"),
        ("gsm8k_acc>0.1", ("sft",), "none", False, "eval=quick measures it"),
        ("humaneval_acc>0", ("sft",), "none", False, "eval=quick measures it with humaneval=yes"),
        ("humaneval_acc>0", ("sft",), "quick", False, "humaneval=yes measures it"),
    ],
)
def test_a_gate_that_no_measurement_can_open_is_told_with_what_is_measured(
    gate: str, before: tuple[str, ...], evaluate: str, humaneval: bool, says: str
) -> None:
    problem = never_measured(gate, before, evaluate, humaneval)
    assert bool(problem) == bool(says) and says in problem


def test_the_scores_are_those_of_the_evaluation() -> None:
    assert {*SCORES, HUMANEVAL_SCORE} == {"chatcore", *(t.key for t in TASKS)}


def test_every_phase_that_another_follows_measures_something_without_an_evaluation() -> None:
    followed = {phase for phases in SEQUENCES.values() for phase in phases[:-1]}
    assert followed <= set(PHASES)
    assert all(measured_after(phase, "none", False) for phase in followed)


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("have", [0.0, 0.4567, 2.0005, -1.5, 1234.5612])
def test_the_gate_to_type_opens_for_what_was_measured(sign: str, have: float) -> None:
    word = gate_that_opens(f"x{sign}1", {"x": have}).strip("'").removeprefix("gate=")
    assert gate_problem(word, {"x": have}) == ""


@pytest.mark.parametrize("measured", [{}, {"val_bpb": None}, {"other": 1.0}])
def test_without_a_measurement_the_gate_to_type_is_none(measured: dict[str, float | None]) -> None:
    assert gate_that_opens("val_bpb<1", measured) == "gate=none"
    assert load_settings({"gate": "none"}, {"GATE": "val_bpb<1"}).gate is None
