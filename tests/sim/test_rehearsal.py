"""What a rehearsal found out is counted from what the boxes and the Hub really hold."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.run.record import PhaseReport
from nanolan.sim.rehearsal import Player, _hear, what_is_saved
from nanolan.sim.scenarios import Scenario


def world(root: Path, *boxes: list[dict[str, Any]]) -> Any:
    for i, rows in enumerate(boxes):
        folder = root / f"cloud/boxes/{i}/nanolan"
        folder.mkdir(parents=True)
        (folder / "trainer").mkdir()
        (folder / "trainer/metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + '{"phase": "sft", "lo'
        )
    return SimpleNamespace(root=root)


def steps(phase: str, first: int, last: int) -> list[dict[str, Any]]:
    return [{"phase": phase, "step": i, "loss": 2.0} for i in range(first, last + 1)]


def view(phases: dict[str, PhaseReport], saved: Any = None) -> Any:
    return SimpleNamespace(
        phases=phases,
        saved=saved,
        entry=SimpleNamespace(plan=SimpleNamespace(phases=tuple(phases))),
    )


WHOLE = PhaseReport("proven", step=24)


@pytest.mark.parametrize(
    "boxes, phases, saved, text, lost",
    [
        ([steps("sft", 1, 24)], {"sft": WHOLE}, None, "sft whole", 0),
        ([steps("sft", 1, 20) + steps("sft", 11, 24)], {"sft": WHOLE}, None, "sft whole", 10),
        ([steps("sft", 1, 20), steps("sft", 16, 24)], {"sft": WHOLE}, None, "sft whole", 5),
        (
            [steps("mid", 1, 24) + steps("sft", 1, 9)],
            {"mid": WHOLE, "sft": PhaseReport("failed")},
            SimpleNamespace(phase="sft", step=7),
            "mid whole, sft step 7",
            2,
        ),
        ([steps("sft", 1, 9)], {"sft": PhaseReport("failed")}, None, "", 9),
        (
            [[*steps("sft", 1, 24), {"phase": "sft", "val_loss": 1.0}]],
            {"sft": WHOLE},
            None,
            "sft whole",
            0,
        ),
        (  # a fork that prints two lines of a step, and counts from 0
            [[row for i in range(25) for row in steps("sft", i, i) * 2]],
            {"sft": WHOLE},
            None,
            "sft whole",
            0,
        ),
        ([], {}, None, "", 0),
    ],
)
def test_steps_in_vain_are_those_that_were_trained_beside_what_is_saved(
    tmp_path: Path, boxes: Any, phases: Any, saved: Any, text: str, lost: int
) -> None:
    assert what_is_saved(world(tmp_path, *boxes), view(phases, saved)) == (text, lost)


def test_a_log_is_heard_in_whole_lines_each_once(tmp_path: Path) -> None:
    heard: list[str] = []
    log = tmp_path / "log"
    log.write_text("one\ntw")
    at = _hear(log, 0, heard.append)
    log.write_text("one\ntwo\nthree\n")
    assert _hear(log, at, heard.append) == 14 and heard == ["one", "two", "three"]


# ---- a scenario's moment: as often as it says, and only then


@pytest.mark.parametrize(
    "moment, times, acts", [("step 40/", 1, 1), ("step (4|8)0/", 2, 2), ("", 1, 0), ("never", 1, 0)]
)
def test_it_acts_at_its_moment_and_not_more_often(moment: str, times: int, acts: int) -> None:
    done: list[Any] = []
    player = Player(Scenario("it", moment=moment, times=times, then=done.append), "world")  # type: ignore[arg-type]
    for line in (
        "sft step 20/150",
        "sft step 40/150",
        "sft step 40/150",
        "sft step 80/150",
        "sft step 80/150",
    ):
        player.hear(line)
    assert len(done) == player.played == acts and set(done) <= {"world"}


def test_a_line_at_which_the_action_does_nothing_does_not_count() -> None:
    answers = [False, True, False, True]
    player = Player(
        Scenario("it", moment="step", times=2, then=lambda world: answers.pop(0)),
        "world",  # type: ignore[arg-type]
    )
    for _ in range(6):
        player.hear("step")
    assert player.played == 2 and answers == []
