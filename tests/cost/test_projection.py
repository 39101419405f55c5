"""The projection: when a run ends, what it will have cost, and a warning when that crosses its limit."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.projection import Projection, left_s, project, stages_of
from nanolan.plan import Plan, Predicted
from nanolan.run.record import Progress
from nanolan.times import iso
from tests.support.box_fixtures import make_plan

NOW = datetime(2026, 1, 28, 12, 0, tzinfo=timezone.utc)
STAGES = {
    "boot": 300,
    "setup": 100,
    "download": 60,
    "mid.train": 1000,
    "mid.evaluate": 50,
    "sft.train": 600,
    "sft.evaluate": 40,
    "upload": 30,
}
SPENT = {"boot": 290, "setup": 90, "probation": 5, "download": 70}


def plan(stage_s: dict[str, int] | None = STAGES, **fields: Any) -> Plan:
    """mid+sft at $36 an hour, a cent a second, with a limit of $40 and a day to live."""
    predicted = Predicted(1, 2, 3, {}, stage_s) if stage_s is not None else None
    made = make_plan(
        "",
        "",
        run_id="ab12cd34",
        phases=("mid", "sft"),
        limit_cents=4_000,
        created_at=iso(NOW),
        deadline=iso(NOW + timedelta(days=1)),
        predicted=predicted,
        **fields,
    )
    return structs.replace(made, offer=structs.replace(made.offer, hourly_cents=3_600))


def told(left: float | None, ago_s: float = 0.0, **fields: Any) -> Progress:
    return Progress(
        "ab12cd34", "training", {}, iso(NOW - timedelta(seconds=ago_s)), left_s=left, **fields
    )


def test_the_stages_of_a_run_come_in_their_order() -> None:
    assert stages_of(("mid", "sft")) == list(STAGES)


@pytest.mark.parametrize(
    "spent, stage, phase_left, want",
    [
        ({"boot": 290, "setup": 40}, "setup", None, 60 + 60 + 1000 + 50 + 600 + 40 + 30),
        (SPENT, "probation", None, 10 + 60 + 1000 + 50 + 600 + 40 + 30),
        (SPENT, "download", None, 0 + 1000 + 50 + 600 + 40 + 30),  # it takes longer than predicted
        (
            SPENT | {"mid.train": 400},
            "mid.train",
            None,
            600 + 50 + 600 + 40 + 30,
        ),  # it has not told its pace yet
        (SPENT | {"mid.train": 500}, "mid.train", 500.0, 500 + 50 + 600 + 40 + 30),
        (
            SPENT | {"mid.train": 500},
            "mid.train",
            1500.0,
            1500 + 2 * (50 + 600 + 40) + 30,
        ),  # half the pace: all of it
        (
            SPENT | {"mid.train": 2000, "mid.evaluate": 10},
            "mid.evaluate",
            None,
            40 + 2 * (600 + 40) + 30,
        ),
        (SPENT | {"mid.train": 1000}, "mid.upload", None, 600 + 40 + 30),
        (SPENT | {"mid.train": 1000, "sft.train": 100}, "sft.train", 500.0, 500 + 40 + 30),
        (
            SPENT | {"mid.train": 1000, "sft.train": 600, "sft.evaluate": 50},
            "sft.evaluate",
            None,
            30,
        ),
        (SPENT | {"mid.train": 1000, "sft.train": 600}, "sft.upload", None, 30),
    ],
    ids=str,
)
def test_time_left_is_the_rest_of_this_stage_and_the_later_ones_times_the_slowdown(
    spent: dict[str, float], stage: str, phase_left: float | None, want: float
) -> None:
    assert left_s(plan(), spent, stage, phase_left) == pytest.approx(want)


@pytest.mark.parametrize(
    "stage_s, stage",
    [
        (None, "mid.train"),
        ({}, "mid.train"),
        (STAGES, "save"),
        (STAGES, ""),
        (STAGES, "rl.train"),
        ({k: v for k, v in STAGES.items() if k != "sft.train"}, "mid.train"),
    ],
    ids=str,
)
def test_stages_without_a_prediction_are_unknown_and_not_zero(
    stage_s: dict[str, int] | None, stage: str
) -> None:
    assert left_s(plan(stage_s), SPENT, stage, 10.0) is None


def test_the_trainers_estimate_replaces_the_forecast_of_the_last_phase() -> None:
    assert left_s(plan({"sft.evaluate": 40, "upload": 30}), SPENT, "sft.train", 100.0) == 170


def test_the_clock_goes_on_between_the_machines_words() -> None:
    clock = project(plan(), told(600.0, ago_s=100), 1000, 3_600, NOW)
    assert clock == Projection(1500, NOW + timedelta(seconds=500), NOW + timedelta(seconds=3000))
    assert project(plan(), told(600.0, ago_s=9000), 1000, 3_600, NOW).will_cost_cents == 1000, (
        "it should be over by now"
    )


def test_the_limit_is_reached_by_money_or_by_time_whichever_is_first() -> None:
    soon = structs.replace(plan(), deadline=iso(NOW + timedelta(minutes=5)))
    assert project(soon, None, 1000, 3_600, NOW).limit_at == NOW + timedelta(minutes=5)
    assert project(plan(), None, 5000, 3_600, NOW).limit_at == NOW
    assert project(soon, None, 1000, 3_600, NOW).by_date
    assert not project(plan(), None, 5000, 3_600, NOW).by_date
    assert (
        project(plan(), None, 1000, 3_600, NOW).will_cost_cents is None
        and project(plan(), None, None, 3_600, NOW) == Projection()
    )


@pytest.mark.parametrize(
    "left, soft, says",
    [
        (1999.0, 3000, ""),
        (2001.0, 3000, "it will cost about $30.01; at $30.00 of $40.00 it saves and stops"),
        (2001.0, None, "at $23.20 of $40.00 it saves and stops"),
    ],
)  # what a machine keeps before it has measured
def test_the_warning_appears_when_the_forecast_crosses_the_soft_limit(
    left: float, soft: int | None, says: str
) -> None:
    warning = project(plan(), told(left, soft_cents=soft), 1000, 3_600, NOW).warning
    assert (says in warning) if says else not warning
    assert not says or "just limit ab12cd34 " in warning and "just stop ab12cd34" in warning


def test_the_limit_that_is_proposed_would_do() -> None:
    warning = project(plan(), told(9000.0, soft_cents=3000), 1000, 3_600, NOW).warning
    dollars = int(warning.partition("just limit ab12cd34 ")[2].partition(";")[0])
    assert not project(
        structs.replace(plan(), limit_cents=100 * dollars), told(9000.0), 1000, 3_600, NOW
    ).warning


def test_a_deadline_before_the_end_is_warned_of_too() -> None:
    soon = structs.replace(plan(), deadline=iso(NOW + timedelta(minutes=5)))
    assert (
        "end after its deadline"
        in project(soon, told(600.0, soft_cents=3000), 1000, 3_600, NOW).warning
    )
