"""A run counts as without an instance only if a listing would have shown one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import AuthProblem, MayBeBilling, Unreachable
from nanolan.launch.request import create_body
from nanolan.run.ledger import Entry
from nanolan.run.presence import (
    NOT_ASKED,
    NOT_SHOWN,
    QUIET_LOCAL_S,
    QUIET_S,
    REPORTS,
    billing_error,
    is_past,
    of_attempt,
    of_run,
    presence,
    why_unknown,
)
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import INFO, QUICK, a_plan, client

NOW = now_utc()
PLAN = a_plan(
    created_at=iso(NOW - timedelta(hours=1)),
    deadline=iso(NOW + timedelta(hours=3)),
    hf_endpoint="https://huggingface.co",
)
LATE = a_plan(
    created_at=iso(NOW - timedelta(hours=9)), deadline=iso(NOW - timedelta(hours=4))
)  # and $150 are spent in 4.5 h
DATE_ALONE = structs.replace(LATE, created_at=iso(NOW - timedelta(hours=4, minutes=10)))
LOCAL = structs.replace(PLAN, hf_endpoint="http://127.0.0.1:1")
KEYLESS = structs.replace(PLAN, self_delete=False)


@pytest.mark.parametrize(
    "entry, listed, told, unknown",
    [
        (Entry(PLAN), True, False, NOT_SHOWN),  # the answer was lost, whatever the listing's age
        (Entry(PLAN), True, True, ""),  # the machine had found itself in a listing
        (Entry(KEYLESS), True, True, NOT_SHOWN),  # one without a key cannot look
        (Entry(PLAN, "i-1"), True, False, ""),  # its id is known to nobody, and it is not listed
        (Entry(PLAN, gone=True), True, False, ""),
        (Entry(LATE), True, False, ""),
        (Entry(DATE_ALONE), True, False, NOT_SHOWN),
        (Entry(PLAN), False, True, NOT_ASKED),
        (Entry(PLAN, "i-1"), False, False, NOT_ASKED),
        (Entry(LATE), False, False, NOT_ASKED),
        (Entry(PLAN, "i-1", gone=True), False, False, NOT_ASKED),
    ],
)
def test_an_unlisted_instance_is_gone_only_if_a_listing_would_have_shown_it(
    entry: Entry, listed: bool, told: bool, unknown: str
) -> None:
    assert why_unknown(entry, listed, told, NOW) == unknown


@pytest.mark.parametrize(
    "entry, silent_s, unknown",
    [
        (Entry(PLAN, "i-1"), 0, True),
        (Entry(PLAN, "i-1"), QUIET_S - 1, True),  # the key of another account, or an odd empty list
        (Entry(PLAN, "i-1"), QUIET_S, False),
        (Entry(PLAN), 60, True),
        (Entry(PLAN, "i-1"), -30, True),
        (Entry(PLAN, "i-1"), -3600, False),  # the time of a clock that is wrong
        (Entry(PLAN, "i-1", gone=True), 60, False),  # its deletion was confirmed
        (Entry(LOCAL, "i-1"), QUIET_LOCAL_S - 1, True),
        (Entry(LOCAL, "i-1"), QUIET_LOCAL_S, False),
    ],
)
def test_an_instance_whose_box_still_reports_is_not_gone_because_no_listing_shows_it(
    entry: Entry, silent_s: float, unknown: bool
) -> None:
    why = why_unknown(entry, True, True, NOW, NOW - timedelta(seconds=silent_s))
    assert why.startswith(REPORTS) if unknown else why == ""


def test_only_a_date_and_a_limit_that_have_both_passed_end_an_unclear_create() -> None:
    assert [is_past(p, NOW) for p in (PLAN, DATE_ALONE, LATE)] == [False, False, True]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


def rent(cloud: ShadeformServer, **changes: Any) -> str:
    return client(cloud).create(
        create_body(structs.replace(PLAN, deadline="2099-01-01T00:00:00Z", **changes), "x")
    )


@pytest.mark.parametrize(
    "fault, listed, shown, unknown",
    [
        (None, True, True, ""),
        ("html", True, True, ""),  # the listing shows it
        (None, None, True, ""),
        (None, "lags", True, ""),  # by its id
        ("html", None, False, NOT_ASKED),
        ("unauthorized", None, False, NOT_ASKED),
        ("html", "lags", False, NOT_ASKED),
        ("not_found", None, False, NOT_ASKED),
        ("not_found", "lags", False, ""),
    ],
    ids=str,
)
def test_an_instance_is_searched_in_the_listing_and_by_its_id(
    cloud: ShadeformServer, fault: str | None, listed: Any, shown: bool, unknown: str
) -> None:
    entry = Entry(PLAN, rent(cloud))
    listing = {None: None, "lags": []}.get(listed, client(cloud).instances())
    if fault:
        cloud.fault(INFO, fault, times=None)
    there = presence(client(cloud).info, entry, listing, NOW)
    assert (bool(there.billing), there.unknown[: len(unknown)], bool(there.unknown)) == (
        shown,
        unknown,
        bool(unknown),
    )
    assert there.gone == (not shown and not unknown)


@pytest.mark.parametrize(
    "name, tags",
    [
        ("colleague-prod", ["nanolan-run=deadbeef", "nanolan-owner=22222222"]),
        ("lanbot-sft-20261123-1200-deadbeef", []),
    ],
)
def test_an_id_that_the_provider_gave_to_another_run_is_not_ours(
    cloud: ShadeformServer, name: str, tags: list[str]
) -> None:
    entry = Entry(PLAN, rent(cloud))
    cloud.instances[0].spec.update(name=name, tags=tags)
    (other,) = client(cloud).instances()
    assert not of_run(entry, other) and not of_attempt(entry, other)
    assert presence(client(cloud).info, entry, [other], NOW).machines == ()


def test_an_earlier_attempts_instance_does_not_hide_an_unlisted_new_one(
    cloud: ShadeformServer,
) -> None:
    rent(cloud)
    there = presence(
        client(cloud).info, Entry(structs.replace(PLAN, attempt=2)), client(cloud).instances(), NOW
    )
    assert len(there.billing) == 1 and there.unknown == NOT_SHOWN


@pytest.mark.parametrize("problem", [Unreachable("no answer"), AuthProblem("HTTP 401")], ids=str)
def test_a_failed_read_names_what_may_bill_its_price_and_the_command(problem: Any) -> None:
    said = billing_error(
        problem, [Entry(PLAN, "i-7"), Entry(structs.replace(PLAN, run_id="0000000a"))]
    )
    assert isinstance(said, MayBeBilling) and said.exit_code == 8
    for part in (
        str(problem),
        "i-7 ($33.60/h)",
        "just stop ab12cd34 --now",
        "just stop 0000000a --now",
        "$150.00",
        PLAN.deadline,
    ):
        assert part in str(said)
    assert (
        billing_error(problem, [Entry(PLAN, "i-7", gone=True)]) is problem
        and billing_error(said, [Entry(PLAN)]) is said
    )
