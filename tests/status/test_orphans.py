"""What bills against what the ledger knows: ours by name with a command, others shown and left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from nanolan.run.ledger import Entry
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.orphans import compare, table, to_dict
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import make_plan

NOW, OURS, THEIRS, RUN = now_utc().replace(microsecond=0), "12345678", "0badcafe", "ab12cd34"
PLAN = make_plan(
    "",
    "",
    run_id=RUN,
    owner=OURS,
    created_at=iso(NOW - timedelta(hours=1)),
    deadline=iso(NOW + timedelta(hours=1)),
)
LIVE = Entry(PLAN, "i-1")


def machine(
    id: str = "i-1",
    run_id: str | None = RUN,
    owner: str | None = OURS,
    hours: float = 1.0,
    **fields: Any,
) -> Instance:
    tags = [
        *([f"nanolan-run={run_id}"] if run_id else []),
        *([f"nanolan-owner={owner}"] if owner else []),
    ]
    return instance_of(
        dict(
            **(
                {
                    "id": id,
                    "name": f"name-{id}",
                    "status": "active",
                    "hourly_price": 100,
                    "tags": tags,
                    "created_at": iso(NOW - timedelta(hours=hours)),
                }
                | fields
            )
        )
    )


def found(entries: list[Entry], *instances: Instance) -> list[tuple[str, str, str, bool]]:
    return [
        (o.instance.id, o.what, o.command, o.ours) for o in compare(entries, instances, OURS, NOW)
    ]


@pytest.mark.parametrize(
    "entries, instance",
    [
        ([LIVE], machine()),
        ([Entry(PLAN)], machine()),  # its id never reached the ledger
        ([LIVE], machine(run_id=None, owner=None)),  # tags that were not stored
        ([LIVE], machine(status="error")),
        ([LIVE], machine(status="some_new_word")),
        ([], machine(status="deleting")),
        ([Entry(PLAN, "i-1", gone=True)], machine(status="deleted")),
    ],
)
def test_a_machine_of_a_run_in_the_ledger_and_one_that_is_gone_are_no_orphans(
    entries: list[Entry], instance: Instance
) -> None:
    assert found(entries, instance) == []


@pytest.mark.parametrize(
    "entries, instance, what, command, ours",
    [
        ([], machine(), "made by this laptop, but not in the ledger", "just stop i-1 --now", True),
        (
            [Entry(PLAN, "i-1", gone=True)],
            machine(),
            f"run {RUN} was believed gone",
            f"just stop {RUN} --now",
            True,
        ),
        (
            [Entry(PLAN, "i-1", gone=True)],
            machine(run_id=None),
            f"run {RUN} was believed gone",
            f"just stop {RUN} --now",
            True,
        ),
        (
            [LIVE],
            machine(hours=5.0, cost_estimate="10.00"),
            f"run {RUN}: $10.00 is spent, the limit is $10.00",
            f"just stop {RUN} --now",
            True,
        ),
        (
            [LIVE],
            machine(hours=10.0),
            f"run {RUN}: $10.00 is spent, the limit is $10.00",
            f"just stop {RUN} --now",
            True,
        ),
        (
            [],
            machine(owner=THEIRS),
            f"a run of owner {THEIRS}",
            f"if that is you: just orphans --owner {THEIRS}",
            False,
        ),
        ([], machine(owner=None), "a run of owner ?", "", False),
        ([], machine(run_id="../../../x", owner="$(id)"), "another tool's or person's", "", False),
        ([], machine(run_id=None, owner=None), "another tool's or person's", "", False),
    ],
)
def test_what_bills_and_is_not_looked_after_is_named_with_the_next_command(
    entries: list[Entry], instance: Instance, what: str, command: str, ours: bool
) -> None:
    assert found(entries, instance) == [("i-1", what, command, ours)]


def test_a_run_past_its_deadline_is_named() -> None:
    late = Entry(make_plan("", "", run_id=RUN, owner=OURS, deadline=iso(NOW)), "i-1")
    ((_, what, command, ours),) = found([late], machine())
    assert (
        what.startswith(f"run {RUN}: it should have been deleted at")
        and command == f"just stop {RUN} --now"
        and ours
    )


@pytest.mark.parametrize(
    "entry, second",
    [
        (Entry(PLAN, "i-1"), "i-2"),
        (Entry(PLAN, "i-2"), "i-1"),  # the ledger's counts
        (Entry(PLAN), "i-2"),
        (Entry(PLAN, "i-9"), "i-2"),
    ],
)  # else the older one, which has got furthest
def test_of_two_machines_of_one_run_the_second_is_the_orphan(entry: Entry, second: str) -> None:
    ((id, what, command, ours),) = found(
        [entry], machine("i-2", hours=0.5), machine("i-1", hours=1.0)
    )
    other = {"i-1": "i-2", "i-2": "i-1"}[second]
    assert (id, ours) == (
        second,
        True,
    ) and what == f"a second machine of run {RUN} (the other is {other})"
    assert command == f"just stop {second} --now"


def test_ours_come_first_and_the_table_has_a_command_under_each() -> None:
    orphans = compare(
        [], [machine("i-8", None, None), machine("i-1", hourly_price=None)], OURS, NOW
    )
    lines = table(orphans)
    assert [o.instance.id for o in orphans] == ["i-1", "i-8"] and lines[0].split() == [
        "MACHINE",
        "STATUS",
        "$/H",
        "SPENT",
    ]
    assert lines[1].split() == ["name-i-1", "active", "?", "?"] and lines[2:4] == [
        "    made by this laptop, but not in the ledger",
        "    just stop i-1 --now",
    ]
    assert (
        lines[4].split()[:3] == ["name-i-8", "active", "$1.00"]
        and lines[4].split()[3].startswith("$1.")
        and len(lines) == 6
    )


def test_json_has_money_as_text_and_null_for_the_unknown() -> None:
    shown = to_dict(
        compare([], [machine(), machine("i-8", None, None, hourly_price=None)], OURS, NOW)
    )
    first, second = shown["orphans"]
    assert (
        shown["schema_version"] == 1
        and first["usd_per_hour"] == "1.00"
        and first["ours"]
        and first["run_id"] == RUN
    )
    assert (second["usd_per_hour"], second["command"], second["owner"]) == (None, None, None)
