"""Where the time goes: one stage at a time, and a restart counts on."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.box.watch.timeline import Timeline, phase_seconds


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def test_each_stage_gets_the_seconds_until_the_next_one(tmp_path: Path) -> None:
    clock = Clock()
    t = Timeline(tmp_path / "t.json", clock)
    t.add("boot", 240)
    t.enter("download")
    clock.pass_(30)
    t.enter("sft.train")
    clock.pass_(600)
    t.enter("sft.upload")
    clock.pass_(20)
    t.enter("sft.train")
    clock.pass_(5)
    assert t.stages() == {"boot": 240, "download": 30, "sft.train": 605, "sft.upload": 20}


def test_a_restart_goes_on_counting_in_the_stage_that_it_was_in(tmp_path: Path) -> None:
    clock = Clock()
    first = Timeline(tmp_path / "t.json", clock)
    first.add("boot", 10)
    first.enter("sft.train")
    clock.pass_(100)
    again = Timeline(tmp_path / "t.json", clock)
    again.add("boot", 500)
    again.enter("sft.upload")
    clock.pass_(1)
    assert again.stages() == {"boot": 10, "sft.train": 100, "sft.upload": 1}


def test_a_clock_that_is_set_back_takes_nothing_away(tmp_path: Path) -> None:
    clock = Clock()
    t = Timeline(tmp_path / "t.json", clock)
    t.add("boot", -5)
    t.enter("download")
    clock.pass_(-500)
    t.enter("sft.train")
    assert t.stages() == {"boot": 0, "download": 0, "sft.train": 0}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"seconds": 5}', '{"seconds": {"a": "x"}, "stage": "", "since": 1}']
)
def test_a_damaged_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    assert Timeline(tmp_path / "t.json", Clock()).stages() == {}


def test_a_phases_seconds_are_those_of_its_training_and_evaluation() -> None:
    assert (
        phase_seconds(
            {"mid.train": 60, "mid.evaluate": 5, "mid.upload": 9, "sft.train": 70, "boot": 1}, "mid"
        )
        == 65
    )
