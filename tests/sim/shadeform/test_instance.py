"""Lifecycle, bill and limits of one instance, at given times, without waiting."""

from __future__ import annotations

from decimal import Decimal

import pytest

from nanolan.sim.shadeform.instance import (
    NEVER,
    Delays,
    Instance,
    dollars_text,
    parse_time,
    time_text,
)
from nanolan.sim.shadeform.sample_offers import SAMPLE

DELAYS = Delays(
    creating_s=10, pending_provider_s=20, pending_s=30, script_s=5, deleting_s=40, power_off_s=8
)
SCRIPT = {
    "launch_configuration": {"type": "script", "script_configuration": {"base64_script": "Og=="}}
}


def instance(behavior=None, price_cents=3600, deleting_at=NEVER, billed_from="created", **spec):
    return Instance(
        "id",
        SAMPLE[0],
        {"name": "x", **SCRIPT, **spec},
        price_cents,
        1000.0,
        DELAYS,
        behavior or {},
        billed_from,
        deleting_at=deleting_at,
    )


@pytest.mark.parametrize(
    "behavior, deleting_at, at",
    [
        (
            {},
            NEVER,
            {
                1000: "creating",
                1009.9: "creating",
                1010: "pending_provider",
                1030: "pending",
                1059.9: "pending",
                1060: "active",
                9e9: "active",
            },
        ),
        ({}, 1100, {1099: "active", 1100: "deleting", 1139.9: "deleting", 1140: "deleted"}),
        ({}, 1005, {1004: "creating", 1005: "deleting", 1045: "deleted"}),
        ({"stuck_in_pending_provider": True}, NEVER, {1009: "creating", 9e9: "pending_provider"}),
        (
            {"stuck_in_pending_provider": True},
            1500,
            {1499: "pending_provider", 1500: "deleting", 1540: "deleted"},
        ),
        ({"goes_to_error": True}, NEVER, {1029: "pending_provider", 1030: "error", 9e9: "error"}),
        ({"vanishes": 35}, NEVER, {1034: "pending", 1035: "deleted"}),
    ],
)
def test_the_lifecycle(behavior, deleting_at, at):
    i = instance(behavior, deleting_at=deleting_at)
    assert {t: i.status_at(t) for t in at} == at


@pytest.mark.parametrize(
    "behavior, deleting_at, script_at, last_s",
    [
        ({}, 1200, 1065, 1208),  # runs on for a moment after the delete
        ({"script_delay": 100}, 1200, 1165, 1208),
        ({"vanishes": 150}, NEVER, 1065, 1150),
        ({"script_never_started": True}, 1200, NEVER, 0),
        ({"goes_to_error": True}, 1200, NEVER, 0),
        ({}, 1064, 1065, 0),  # deleted before the script: it never starts
    ],
)
def test_when_the_processes_of_an_instance_run(behavior, deleting_at, script_at, last_s):
    i = instance(behavior, deleting_at=deleting_at)
    assert i.script_at == script_at
    if last_s:
        assert [i.runs_at(t) for t in (script_at - 1, script_at, last_s - 1, last_s)] == [
            False,
            True,
            True,
            False,
        ]
    else:
        assert not any(i.runs_at(t) for t in (1060, 1066, 1100, 9e9))


def test_without_a_script_nothing_runs():
    assert not instance(launch_configuration={"type": "docker"}).runs_at(9e9)


@pytest.mark.parametrize(
    "behavior, deleting_at, billed_from, at, dollars",
    [
        ({}, NEVER, "created", 1000, "0"),
        ({}, NEVER, "created", 1000.25, "0.0025"),  # 3600 cents an hour are a cent a second
        ({}, NEVER, "created", 1100, "1"),
        ({}, 1100, "created", 9e9, "1"),  # stops at `deleting`
        ({}, NEVER, "active", 1060, "0"),
        ({}, NEVER, "active", 1100, "0.4"),
        ({"goes_to_error": True}, NEVER, "created", 1100, "1"),
        ({"stuck_in_pending_provider": True}, NEVER, "created", 1100, "1"),
        ({"stuck_in_pending_provider": True}, NEVER, "active", 1100, "0"),
        ({"vanishes": 50}, NEVER, "created", 1100, "0.5"),
    ],
)
def test_the_bill_is_per_second_from_created_or_active_to_deleting(
    behavior, deleting_at, billed_from, at, dollars
):
    i = instance(behavior, deleting_at=deleting_at, billed_from=billed_from)
    assert dollars_text(i.cost_at(at)) == dollars


def test_an_instance_of_a_linked_account_costs_nothing():
    i = instance(shade_cloud=False, auto_delete={"spend_threshold": "0.01"})
    assert i.cost_at(9e9) == 0 and i.deletion_reason_at(9e9) == ""


@pytest.mark.parametrize(
    "limits, behavior, at",
    [
        ({"spend_threshold": "1.00"}, {}, {1099: "", 1100: "spend"}),
        ({"date_threshold": "1970-01-01T00:18:20Z"}, {}, {1099: "", 1100: "date"}),
        (
            {"date_threshold": "1970-01-01T01:18:20.5+01:00", "spend_threshold": "9"},
            {},
            {1099: "", 1101: "date"},
        ),
        (
            {"date_threshold": "1970-01-02T00:00:00Z", "spend_threshold": "0.5"},
            {},
            {1049: "", 1050: "spend"},
        ),
        ({}, {"preempted": 15}, {1074: "", 1075: "preempted"}),
        (
            {"spend_threshold": "0.5"},
            {"cost_frozen": True},
            {1050: "spend"},
        ),  # the estimate lags, the limit does not
        ({"spend_threshold": "0.5"}, {"stuck_in_pending_provider": True}, {1050: "spend"}),
    ],
)
def test_the_limits(limits, behavior, at):
    i = instance(behavior, auto_delete=limits)
    assert {t: i.deletion_reason_at(t) for t in at} == at


def test_without_limits_it_runs_for_ever():
    assert (
        instance().deletion_reason_at(9e12)
        == instance(auto_delete=None).deletion_reason_at(9e12)
        == ""
    )


def test_a_second_delete_changes_nothing():
    i = instance()
    i.delete(1100, "asked")
    i.delete(1110, "spend")
    assert (i.deleting_at, i.why) == (1100, "asked")


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("2026-07-18T12:00:00Z", 1784376000),
        ("2026-07-18T12:00:00+00:00", 1784376000),
        ("2026-07-18T05:00:00-07:00", 1784376000),
        ("2026-07-18T12:00:00.1234567Z", 1784376000),
    ],
)
def test_dates_in_every_used_format(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2026-07-18", "2026-07-18T12:00:00", "2026-07-18 12:00:00Z", "1784376000"],
)
def test_a_date_without_time_zone_is_refused(text):
    with pytest.raises(ValueError):
        parse_time(text)


def test_times_and_amounts_as_the_api_shows_them():
    assert time_text(1784376000.25) == "2026-07-18T12:00:00.250000Z"
    assert time_text(NEVER) is None
    assert [
        dollars_text(Decimal(x)) for x in ("0", "103.40", "0.0006106021", "100", "-0.02451692034")
    ] == ["0", "103.4", "0.0006106021", "100", "-0.0245169203"]
