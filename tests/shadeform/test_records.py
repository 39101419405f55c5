"""One odd record or field does not hide the other records of a list, or an instance's other fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolan.box.watch.spend import SpendMeter
from nanolan.cost.overdue import InstanceFacts, overdue
from nanolan.errors import BadAnswer
from nanolan.launch.request import create_body
from nanolan.redact import Secret
from nanolan.run.ledger import Entry
from nanolan.run.presence import presence
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_and_confirm, find_run
from nanolan.shadeform.models import Instance, instance_of, offers_of
from nanolan.shadeform.offers import unusable
from nanolan.shadeform.records import (
    Listing,
    amount_cents,
    gap_of,
    on_other_pages,
    past_timestamp,
    price_cents,
    read_each,
    timestamp,
)
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.status.orphans import compare
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import a_plan

OWN = ("id", "name", "tags", "status")
ODD: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e400,
    float("nan"),
    10**400,
    "",
    "odd",
    "1,234.50",
    "-5",
    "2001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01",
    "x" * 100_000,
    "\x1b[2J",
    "\ud800",
    [],
    [None],
    [[]],
    ["nanolan-run="],
    {},
    {"nanolan-run": "x"},
    {"date_threshold": 5, "spend_threshold": []},
    {"date_threshold": "", "spend_threshold": "-1"},
    {"date_threshold": "1999-01-01T00:00:00Z"},
    {"num_gpus": "8", "gpu_type": None},
]
RECORDS: list[Any] = [
    None,
    True,
    5,
    1.5,
    "odd",
    [],
    [1],
    {},
    {"id": None},
    {"id": 5},
    {"id": ""},
    {"id": ["x"]},
    {"id": {"a": 1}},
    {"id": "a; rm -rf /"},
    {"name": "lanbot-sft-20260101-0000-ab12cd34"},
]
PLAN = a_plan(
    created_at=iso(now_utc() - timedelta(minutes=10)),
    deadline=iso(now_utc() + timedelta(hours=1)),
    limit_cents=15_000,
)
MINE: dict[str, Any] = {
    "id": "i-mine",
    "name": PLAN.instance_name,
    "status": "active",
    "tags": create_body(PLAN, "")["tags"],
    "hourly_price": PLAN.offer.hourly_cents,
    "cost_estimate": "5.60",
    "created_at": PLAN.created_at,
    "cloud": PLAN.offer.cloud,
    "region": PLAN.offer.region,
    "shade_cloud": True,
    "ip": "10.0.0.1",
    "ssh_port": 22,
    "auto_delete": {"date_threshold": PLAN.deadline, "spend_threshold": "150.00"},
    "configuration": {"num_gpus": 8, "gpu_type": "B200"},
}
THEIRS = MINE | {"id": "i-theirs", "name": "somebody-elses", "tags": None}
FIELDS = [
    f
    for f in (*MINE, "status_details", "ssh_user", "ssh_key_id", "active_at", "rental_terms")
    if f not in OWN
]


class Session:
    """Shadeform's answers without a network: a listing, deletions that work, and what was deleted."""

    def __init__(self, records: list[Any]) -> None:
        self.records = records
        self.deleted: list[str] = []

    def request(self, method: str, url: str, **_: object) -> SimpleNamespace:
        path = url.split("/v1", 1)[1]
        if path.endswith("/delete"):
            self.deleted.append(path.split("/")[2])
            self.records = [
                r for r in self.records if not (isinstance(r, dict) and r.get("id") in self.deleted)
            ]
            return _answer(200, b"")
        if path == "/instances":
            return _answer(200, json.dumps({"instances": self.records}).encode())
        found = [
            r for r in self.records if isinstance(r, dict) and r.get("id") == path.split("/")[2]
        ]
        return _answer(200, json.dumps(found[0]).encode()) if found else _answer(404, b"{}")


def _answer(status: int, content: bytes) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, content=content, text=content.decode(), headers={})


def shadeform(*records: Any) -> tuple[Shadeform, Session]:
    session = Session(list(records))
    return Shadeform(
        Secret("k" * 20), "http://127.0.0.1:1/v1", session=session, sleep=lambda s: None
    ), session  # type: ignore[arg-type]


ENTRY = Entry(PLAN, "i-mine")
NOW = now_utc()


def seen_by_all(*records: Any) -> dict[str, Any]:
    """What stop, guard, orphans, status and the box's own search make of a listing."""
    api, session = shadeform(*records)
    listed = api.instances()
    there = presence(api.info, ENTRY, listed, NOW)
    found = find_run(api, PLAN.run_id, tries=1, attempt=PLAN.attempt)
    meter = SpendMeter(PLAN, found, api, now=lambda: NOW) if found else None
    orphans = compare([ENTRY], listed, PLAN.owner, NOW)
    result = {
        "status": [(i.id, i.billing) for i in there.machines],
        "unknown": there.unknown,
        "box": found and found.id,
        "guard": overdue(InstanceFacts(there.machines[0], PLAN), NOW) if there.machines else None,
        "orphans": [o.instance.id for o in orphans if o.ours],
        "meter": bool(meter and meter.must_give_up()),
        "rate": meter and meter.hourly_cents,
    }
    if there.machines:
        delete_and_confirm(api, there.machines[0])
    return result | {"stop": session.deleted}


USUAL = seen_by_all(MINE, THEIRS)


def test_usually_the_machine_is_found_kept_and_can_be_stopped() -> None:
    assert (
        USUAL["status"] == [("i-mine", True)]
        and USUAL["box"] == "i-mine"
        and USUAL["stop"] == ["i-mine"]
    )
    assert not USUAL["guard"] and not USUAL["meter"] and not USUAL["orphans"]


@pytest.mark.parametrize("record", RECORDS, ids=ascii)
def test_a_record_that_cannot_be_read_is_counted_and_hides_nothing(record: Any) -> None:
    assert seen_by_all(record, MINE, record, THEIRS) == USUAL
    listed = shadeform(record, MINE)[0].instances()
    assert (
        listed.unreadable == 1
        and gap_of(listed) == "1 record of Shadeform's list could not be read"
    )


@pytest.mark.parametrize("field", [*FIELDS, *OWN])
def test_no_field_of_a_colleagues_machine_hides_ours(field: str) -> None:
    for value in ODD:
        assert seen_by_all(THEIRS | {field: value}, MINE) == USUAL, value


@pytest.mark.parametrize("field", FIELDS)
def test_an_odd_field_of_an_instance_does_not_prevent_finding_guarding_or_stopping_it(
    field: str,
) -> None:
    for value in ODD:
        assert seen_by_all(MINE | {field: value}, THEIRS) == USUAL, value


WORDS = st.text(st.characters(exclude_categories=["Nd", "Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | WORDS,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from([*MINE, "date_threshold", "x"]) | WORDS, inside, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    record=JSON,
    field=st.sampled_from(FIELDS),
    value=JSON,
    theirs=st.dictionaries(st.sampled_from([*MINE]), JSON, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_any_json_anywhere_else_is_as_if_it_were_not_there(
    record: Any, field: str, value: Any, theirs: dict[str, Any]
) -> None:
    theirs = {k: v for k, v in theirs.items() if k != "id"}
    assert seen_by_all(record, THEIRS | theirs, MINE | {field: value}) == USUAL


def test_only_the_four_fields_are_needed() -> None:
    only = {k: MINE[k] for k in OWN}
    i = instance_of(only)
    assert (i.hourly_cents, i.cost_cents, i.limits, i.num_gpus) == (None,) * 4, (
        "unknown is never zero"
    )
    assert seen_by_all(only, THEIRS) == USUAL


@pytest.mark.parametrize("status", [None, 5, [], {}, ""])
def test_a_machine_of_unknown_status_bills(status: Any) -> None:
    assert instance_of(MINE | {"status": status}).billing


@pytest.mark.parametrize(
    "read, value, want",
    [
        (price_cents, 3360, 3360),
        (price_cents, 3360.0, 3360),
        (price_cents, 33.6, None),
        (price_cents, 0, None),
        (price_cents, "3360", None),
        (price_cents, True, None),
        (price_cents, -1, None),
        (price_cents, 10**9, None),
        (price_cents, float("inf"), None),
        (amount_cents, "103.4", 10_340),
        (amount_cents, "0.0006106021", 1),
        (amount_cents, "0", 0),
        (amount_cents, "1,234.50", None),
        (amount_cents, "$15.00", 1500),
        (amount_cents, 12, 1200),
        (amount_cents, 1.5, 150),
        (amount_cents, "1,2", None),
        (amount_cents, "1e3", None),
        (amount_cents, "nan", None),
        (amount_cents, "-1", None),
        (amount_cents, None, None),
        (amount_cents, True, None),
        (amount_cents, "9" * 400, None),
        (amount_cents, float("nan"), None),
    ],
    ids=lambda v: getattr(v, "__name__", ascii(v)[:30]),
)
def test_an_amount_is_read_or_unknown(
    read: Callable[[Any], int | None], value: Any, want: int | None
) -> None:
    assert read(value) == want


def test_a_time_that_cannot_be_is_unknown() -> None:
    for odd in (None, 5, "", "soon", "1999-01-01T00:00:00Z", [], "0001-01-01T00:00:00Z"):
        assert timestamp(odd) is None and past_timestamp(odd) is None
    tomorrow = iso(now_utc() + timedelta(days=30))
    assert timestamp(tomorrow) and past_timestamp(tomorrow) is None


def test_an_info_about_another_instance_or_none_is_an_error_and_no_deletion() -> None:
    for body in ({}, {"id": "i-other", "name": "x", "status": "active"}, {"id": None}):
        api, session = shadeform(MINE)
        answer = session.request

        def request(
            method: str, url: str, body: Any = body, answer: Any = answer, **more: Any
        ) -> SimpleNamespace:
            return (
                _answer(200, json.dumps(body).encode())
                if url.endswith("/info")
                else answer(method, url, **more)
            )

        session.request = request  # type: ignore[method-assign]
        with pytest.raises(BadAnswer):
            api.info("i-mine")
        gone = delete_and_confirm(api, instance_of(MINE))
        assert session.deleted == ["i-mine"] and gone.seen == "no longer listed"


def test_a_list_keeps_what_can_be_read_and_counts_the_rest() -> None:
    listed: Listing[Instance] = read_each([MINE, None, {}, THEIRS], instance_of)
    assert [i.id for i in listed] == ["i-mine", "i-theirs"] and listed.gap.startswith("2 records ")
    assert gap_of(None) == gap_of([]) == ""


@pytest.mark.parametrize("field", ["nvlink", "interconnect", "boot_time", "deployment_type"])
def test_no_field_that_is_only_shown_costs_an_offer(field: str) -> None:
    for value in ODD:
        entry = SAMPLE[0] | {
            "configuration": SAMPLE[0]["configuration"] | {field: value},
            field: value,
        }
        assert [(o.where, o.hourly_cents) for o in offers_of(entry)] == [
            (o.where, o.hourly_cents) for o in offers_of(SAMPLE[0])
        ]


def test_an_odd_region_costs_no_other_region() -> None:
    odd = [e for value in ODD for e in (value, {"region": value, "available": True})]
    entry = SAMPLE[0] | {"availability": [*odd, *SAMPLE[0]["availability"]]}
    assert {replace(o, region="x") for o in offers_of(SAMPLE[0])} <= {
        replace(o, region="x") for o in offers_of(entry)
    }


@pytest.mark.parametrize(
    "disk_gb, deployment, why",
    [
        (None, "vm", None),
        (None, "", None),
        (2000, "baremetal", None),
        (2000, "something new", None),
        (40, "vm", "a disk of less than 90 GB"),
        (89, "vm", "a disk of less than 90 GB"),
        (90, "vm", None),
        (2000, "container", "a container, which runs no startup script as root"),
    ],
)
def test_a_disk_that_is_too_small_and_a_container_are_not_rented(
    disk_gb: int | None, deployment: str, why: str | None
) -> None:
    shape = SAMPLE[0]["configuration"] | {"storage_in_gb": disk_gb}
    for offer in offers_of(
        SAMPLE[0]
        | {"storage_in_gb": disk_gb, "configuration": shape, "deployment_type": deployment}
    ):
        assert unusable(offer) == why


@pytest.mark.parametrize(
    "more, gap",
    [
        ({}, 0),
        ({"total": 2, "count": 2, "has_more": False, "next": None, "next_cursor": ""}, 0),
        ({"total": 57}, 55),
        ({"total_count": 3}, 1),
        ({"has_more": True}, 1),
        ({"next_cursor": "abc"}, 1),
        ({"next": "https://x/?page=2", "total": 12}, 10),
        ({"total": -5, "count": None}, 0),
    ],
    ids=str,
)
def test_a_list_that_has_other_pages_is_not_complete(more: dict[str, Any], gap: int) -> None:
    assert on_other_pages({"instances": [{}, {}]} | more, 2) == gap
