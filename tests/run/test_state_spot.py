"""A spot instance that its provider took away is recognised, and told from one that a limit or its user ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.run.causes import explain
from nanolan.run.ledger import STOPPED_BY_USER, Entry
from nanolan.run.record import Progress, Receipt, error_of
from nanolan.run.state import decide_state, state_of_note
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.run_list import verdict_of
from nanolan.status.view import RunView
from nanolan.times import iso, parse_time
from tests.support.core_fixtures import PLAN

HOURLY = 2000
SPOT = structs.replace(
    PLAN,
    offer=structs.replace(PLAN.offer, spot=True, hourly_cents=HOURLY),
    limit_cents=6000,
    created_at="2026-11-23T12:00:00Z",
    deadline="2026-11-23T14:00:00Z",
)
LIVE = Entry(SPOT, "i-1")
ON_DEMAND = Entry(structs.replace(SPOT, offer=PLAN.offer), "i-1")
HAND = "deleted by hand, it looks the same"


def machine(status: str, details: str = "") -> Instance:
    return instance_of({"id": "i-1", "name": "n", "status": status, "status_details": details})


def heard(after_s: float, cents: int | None = None) -> Progress:
    at = iso(parse_time(SPOT.created_at) + timedelta(seconds=after_s))
    return Progress(SPOT.run_id, "training", {}, at, "words", spent_cents=cents)


@pytest.mark.parametrize(
    "entry, instance, progress, age_s, state, reason",
    [
        # the provider says so
        (LIVE, machine("deleting", "preempted"), heard(60), 600, "lost", "preempted: the provider"),
        (LIVE, machine("deleting", "Preempted"), None, 60, "lost", "preempted: the provider"),
        (
            LIVE,
            machine("deleted", "preempted"),
            heard(60),
            10**6,
            "lost",
            "preempted: the provider",
        ),
        # it is gone, and no limit can have ended it
        (LIVE, None, heard(1800), 10**6, "lost", HAND),
        (LIVE, machine("deleting"), heard(60), 300, "lost", HAND),
        (LIVE, None, None, 600, "lost", HAND),
        # a limit may have ended it
        (LIVE, None, heard(2 * 3600 - 300), 10**6, "lost", "a limit of the provider"),
        (LIVE, None, heard(60, 5999), 10**6, "lost", HAND),
        (LIVE, None, heard(60, 6000), 10**6, "lost", "a limit of the provider"),
        (LIVE, None, None, 2 * 3600, "lost", "a limit of the provider"),
        # not a spot instance
        (ON_DEMAND, machine("deleting", "preempted"), heard(60), 600, "lost", "left no receipt"),
        (ON_DEMAND, None, heard(60), 600, "lost", "a limit of the provider"),
        # not gone, or not known
        (LIVE, machine("active", "preempted"), heard(60), 600, "training", "words"),
        (structs.replace(LIVE, instance_id=None), None, None, 600, "lost", "no instance was ever"),
        # a user's stop and a launch's own deletion are no preemption
        (
            structs.replace(LIVE, gone=True, note=STOPPED_BY_USER),
            None,
            heard(60),
            600,
            "stopped",
            STOPPED_BY_USER,
        ),
        (
            structs.replace(LIVE, gone=True, note="boot failed"),
            None,
            heard(60),
            600,
            "failed",
            "boot failed",
        ),
        # what was noted while the provider still showed it counts for ever
        (
            structs.replace(LIVE, note="preempted: noted"),
            None,
            heard(7100),
            10**6,
            "lost",
            "preempted: noted",
        ),
        (
            structs.replace(LIVE, gone=True, note="preempted: noted"),
            None,
            None,
            10**6,
            "lost",
            "preempted: noted",
        ),
    ],
)
def test_a_spot_instance_that_was_taken_away_is_told_from_one_that_ended_otherwise(
    entry: Entry,
    instance: Instance | None,
    progress: Progress | None,
    age_s: float,
    state: str,
    reason: str,
) -> None:
    got = decide_state(entry, instance, "", progress, None, age_s)
    assert got[0] == state and reason in got[1]
    taken = "preempted" in reason or reason == HAND
    assert RunView(entry, *got).preempted is taken


def receipt(reason: str) -> Receipt:
    return Receipt(SPOT.run_id, "stopped", reason, "the provider is taking it away. Saved: x")


@pytest.mark.parametrize("reason, taken", [("preempted", True), ("user", False), ("hang", False)])
def test_a_receipt_says_whether_the_box_saw_itself_taken_away(reason: str, taken: bool) -> None:
    view = RunView(LIVE, "stopped", reason, receipt=receipt(reason))
    assert view.preempted is taken
    error = error_of(receipt(reason))
    assert error and error.exit_code == 5


@pytest.mark.parametrize(
    "reason, message",
    [("", "preempted: the spot instance is gone"), ("preempted", "the provider is taking it")],
)
def test_why_names_the_cause_and_the_next_command(reason: str, message: str) -> None:
    cause = explain(reason or "error", message)
    assert (cause.name, cause.command) == ("preempted", "resume") and "spot" in cause.what


@pytest.mark.parametrize(
    "note, state",
    [
        (STOPPED_BY_USER, "stopped"),
        ("preempted: x", "lost"),
        ("boot failed", "failed"),
    ],
)
def test_the_ledger_alone_knows_it_too(note: str, state: str) -> None:
    entry: Any = structs.replace(LIVE, gone=True, note=note)
    assert state_of_note(note) == state == verdict_of(entry)
