"""The local Hub's scripted faults: which request they strike."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.sim.hub.state import Fault, HubState


def strikes(hub: HubState, *lines: str) -> list[bool]:
    return [hub.take_fault(line) is not None for line in lines]


def test_a_fault_strikes_as_often_as_it_says(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("POST .*/commit/", times=2)
    commit = "POST /api/models/me/m/commit/main"
    assert strikes(hub, "GET /api/models/me/m", commit, commit, commit) == [
        False,
        True,
        True,
        False,
    ]


def test_a_fault_lets_the_first_ones_through(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("PUT /__lfs__/", skip=2)
    assert strikes(hub, *["PUT /__lfs__/1"] * 4) == [False, False, True, False]


def test_a_fault_that_lets_one_through_leaves_it_to_the_next_fault(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("GET /a", "reset", skip=1)
    hub.fault("GET /a", status=429)
    got = [hub.take_fault("GET /a"), hub.take_fault("GET /a"), hub.take_fault("GET /a")]
    assert [f and f.action for f in got] == ["status", "reset", None]


@pytest.mark.parametrize("wrong", [{"match": "x", "action": "explode"}, {"match": "("}])
def test_a_misspelt_fault_fails_where_it_is_written(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(Exception, match="fault action|unterminated|missing"):
        HubState(tmp_path).fault(**wrong)


@pytest.mark.parametrize(
    ("fault", "cut"),
    [
        (Fault("x"), None),
        (Fault("x", "truncate"), 0),
        (Fault("x", "truncate", after=9), 9),
        (Fault("x", "reset"), None),
        (Fault("x", "reset", after=9), 9),
        (Fault("x", "stall", seconds=1), None),
        (Fault("x", "stall", after=9), 9),
        (Fault("x", "committed_reply_lost"), None),
    ],
)
def test_a_fault_knows_where_it_breaks_a_reply(fault: Fault, cut: int | None) -> None:
    assert fault.cuts() == cut
