"""The local Hub's scripted faults: which requests they apply to."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.sim.hub.state import Fault, HubState


def strikes(hub: HubState, *lines: str) -> list[bool]:
    return [hub.take_fault(line) is not None for line in lines]


def test_a_fault_applies_as_often_as_its_times(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("POST .*/commit/", times=2)
    commit = "POST /api/models/me/m/commit/main"
    assert strikes(hub, "GET /api/models/me/m", commit, commit, commit) == [
        False,
        True,
        True,
        False,
    ]


def test_a_fault_skips_the_first_requests(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("PUT /__lfs__/", skip=2)
    assert strikes(hub, *["PUT /__lfs__/1"] * 4) == [False, False, True, False]


def test_a_request_that_a_fault_skips_goes_to_the_next_fault(tmp_path: Path) -> None:
    hub = HubState(tmp_path)
    hub.fault("GET /a", "reset", skip=1)
    hub.fault("GET /a", status=429)
    got = [hub.take_fault("GET /a"), hub.take_fault("GET /a"), hub.take_fault("GET /a")]
    assert [f and f.action for f in got] == ["status", "reset", None]


@pytest.mark.parametrize("wrong", [{"match": "x", "action": "explode"}, {"match": "("}])
def test_an_invalid_fault_fails_when_it_is_created(tmp_path: Path, wrong: dict[str, str]) -> None:
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
def test_the_number_of_bytes_after_which_a_fault_cuts_a_reply(
    fault: Fault, cut: int | None
) -> None:
    assert fault.cut_after() == cut
