"""The first steps of a machine against what its kind usually does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.speed_check import first_pace, should_replace, slow_reason
from tests.support.box_fixtures import make_plan

PLAN = replace(
    make_plan("", ""), usual={"sft": 1000.0, "download": 100e6}, usual_runs=3, probation_cents=200
)


def rows(path: Path, *speeds: object, phase: str = "sft") -> Path:
    path.write_text(
        "".join(
            json.dumps({"phase": phase, "step": i, "tok_per_s": s}) + "\n"
            for i, s in enumerate(speeds, 1)
        )
    )
    return path


def test_the_first_step_which_compiles_does_not_count(tmp_path: Path) -> None:
    assert first_pace(rows(tmp_path / "m", 1, 900, 1000, 1100, 1000, 5), "sft") == 1000


def test_there_is_no_pace_before_five_steps_nor_of_another_phase(tmp_path: Path) -> None:
    assert (
        first_pace(rows(tmp_path / "m", 1, 2, 3, 4), "sft") is None
        and first_pace(tmp_path / "nothing", "sft") is None
    )
    assert first_pace(rows(tmp_path / "m", 1, 2, 3, 4, 5), "mid") is None


def test_half_a_row_and_rows_without_a_speed_are_passed_over(tmp_path: Path) -> None:
    path = rows(tmp_path / "m", 1, 10, "fast", None, 10, 10, 10)
    path.write_text(path.read_text() + '{"phase": "sft", "tok')
    assert first_pace(path, "sft") == 10


@pytest.mark.parametrize(
    "what, unit, now, says",
    [
        (
            "sft",
            "tok/s",
            499,
            "the machine is slow: 499 tok/s in sft, earlier runs on H100 had 1,000",
        ),
        ("sft", "tok/s", 501, ""),
        ("download", "bytes/s of the Hub", 19e6, "19,000,000 bytes/s of the Hub in download"),
        ("download", "bytes/s of the Hub", 21e6, ""),
        ("mid", "tok/s", 1, ""),
    ],
)
def test_slow_is_half_of_the_usual_steps_or_a_fifth_of_the_usual_network(
    what: str, unit: str, now: float, says: str
) -> None:
    text = slow_reason(PLAN, what, unit, now)
    assert says in text and bool(text) == bool(says)


@pytest.mark.parametrize(
    "runs, spent, given_back",
    [(3, 100, True), (3, 200, True), (2, 100, False), (0, 0, False), (3, 201, False)],
)
def test_a_slow_machine_is_given_back_only_by_three_runs_figures_and_within_its_probation(
    runs: int, spent: int, given_back: bool
) -> None:
    assert should_replace(replace(PLAN, usual_runs=runs), spent) is given_back
