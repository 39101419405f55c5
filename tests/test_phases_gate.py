"""Tests of nanolan/phases.py."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.phases import gate_problem, parse_gate


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
