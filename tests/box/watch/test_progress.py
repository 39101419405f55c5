"""The watchdog judges progress by the heartbeat alone; each stage has its own deadline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.watch.progress import DEADLINES_S, Watchdog, overdue, read_trainer_beat
from tests.support.box_fixtures import make_plan

PLAN = replace(make_plan("", ""), device="cuda")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def beat(path: Path, stage: str, step: int = 0, t: float = 0.0) -> None:
    path.write_text(json.dumps({"phase": "sft", "step": step, "steps": 9, "stage": stage, "t": t}))


@pytest.mark.parametrize("stage", ["", "load", "compile", "train", "save", "validate", "evaluate"])
def test_each_stage_may_be_silent_until_its_deadline_and_no_longer(
    stage: str, tmp_path: Path
) -> None:
    clock = Clock()
    dog = Watchdog(tmp_path / "beat", PLAN, clock)
    if stage:
        beat(tmp_path / "beat", stage, 4)
    clock.now = 1.0
    assert dog.stuck() is None
    clock.now += DEADLINES_S["cuda"][stage] - 2
    assert dog.stuck() is None
    clock.now += 5
    stop = dog.stuck()
    assert stop and stop.reason == "hang" and (not stage or f"stage {stage} at step 4" in stop.text)


def test_every_new_heartbeat_counts_anew_and_the_same_one_does_not(tmp_path: Path) -> None:
    clock = Clock()
    dog = Watchdog(tmp_path / "beat", PLAN, clock)
    for step in range(5):
        beat(tmp_path / "beat", "train", step)
        clock.now += 500
        assert dog.stuck() is None
    clock.now += 500
    beat(tmp_path / "beat", "train", 4)
    assert dog.stuck() is None
    clock.now += 500
    assert dog.stuck()


def test_an_unknown_stage_gets_the_longest_deadline() -> None:
    assert not overdue("bake", 1799, DEADLINES_S["cuda"]) and overdue(
        "bake", 1801, DEADLINES_S["cuda"]
    )


def test_the_heartbeat_of_an_earlier_trainer_does_not_count(tmp_path: Path) -> None:
    beat(tmp_path / "beat", "train", 400)
    dog = Watchdog(tmp_path / "beat", PLAN, Clock())
    assert dog.step == 0 and dog.stuck() is None


def test_the_plan_may_set_a_deadline_of_its_own(tmp_path: Path) -> None:
    clock = Clock()
    dog = Watchdog(tmp_path / "beat", replace(PLAN, watch_s={"": 1.0}), clock)
    clock.now = 2
    assert dog.stuck()


def test_it_measures_what_a_save_takes(tmp_path: Path) -> None:
    clock = Clock()
    dog = Watchdog(tmp_path / "beat", PLAN, clock)
    for now, stage in ((0, "train"), (10, "save"), (25, "save"), (40, "train")):
        clock.now = now
        beat(tmp_path / "beat", stage, t=now)
        dog.stuck()
    assert dog.save_s == 30


def test_a_save_beside_the_training_says_itself_how_long_it_took(tmp_path: Path) -> None:
    clock = Clock()
    dog = Watchdog(tmp_path / "beat", PLAN, clock)
    for step, save_s in enumerate([None, 26.5, 26.5, 8.0]):
        row = {"phase": "sft", "step": step, "steps": 9, "stage": "train", "save_s": save_s}
        (tmp_path / "beat").write_text(json.dumps(row))
        dog.stuck()
    assert dog.save_s == 26.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"phase": 1}',
        '{"phase": "sft", "step": "x", "steps": 1, "stage": "train"}',
    ],
)
def test_a_heartbeat_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "beat").write_text(text)
    assert (
        read_trainer_beat(tmp_path / "beat") is None
        and read_trainer_beat(tmp_path / "nothing") is None
    )
