"""Parsing Shadeform's JSON without trusting it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from nanolan.errors import BadAnswer
from nanolan.run.record import BOOTING, SUCCEEDED
from nanolan.run.state import decide_state
from nanolan.shadeform.models import Instance, attempt_tag, instance_of, offers_of, run_tag
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import a_plan

TYPE: dict[str, Any] = {
    "cloud": "excesssupply",
    "shade_instance_type": "B300_sxm6x8",
    "cloud_instance_type": "8x-b300-sxm6-ac",
    "hourly_price": 3600,
    "deployment_type": "vm",
    "num_gpus": 8,
    "boot_time": {"max_boot_in_sec": 900},
    "configuration": {
        "num_gpus": 8,
        "gpu_type": "B300",
        "vram_per_gpu_in_gb": 288,
        "interconnect": "sxm6",
        "memory_in_gb": 2790,
        "os_options": ["ubuntu24.04_cuda13.0_shade_os"],
    },
    "availability": [{"region": "us-west-1", "available": True, "rental_type": "on_demand"}],
}
PENDING: dict[str, Any] = {
    "id": "d290f1ee-6c54-4b01-90e6-d701748f0851",
    "cloud": "hyperstack",
    "region": "canada-1",
    "name": "lanbot-sft-20261123-1200-ab12cd34",
    "shade_instance_type": "8x",
    "cloud_instance_type": "n3",
    "cloud_assigned_id": None,
    "shade_cloud": True,
    "ip": None,
    "ssh_user": "shadeform",
    "ssh_port": None,
    "status": "creating",
    "status_details": None,
    "cost_estimate": "0",
    "hourly_price": 3360,
    "active_at": None,
    "created_at": "2026-01-28T20:53:39.459529Z",
    "deleted_at": None,
    "launch_configuration": None,
    "tags": None,
    "auto_delete": None,
    "configuration": {
        "num_gpus": 8,
        "gpu_type": "B200",
        "os": "ubuntu24.04_cuda13.0_shade_os",
        "vram_per_gpu_in_gb": 192,
    },
}


def instance(**changes: Any) -> Instance:
    return instance_of(PENDING | changes)


def offers(**changes: Any) -> Any:
    return offers_of(TYPE | changes)


# ---- offers


def test_trap_1_prices_of_machines_are_cents_and_sums_are_dollar_strings() -> None:
    assert offers()[0].hourly_cents == 3600
    i = instance(
        hourly_price=3360,
        cost_estimate="103.4",
        auto_delete={"spend_threshold": "150", "date_threshold": "2026-07-18T12:00:00-07:00"},
    )
    assert (i.hourly_cents, i.cost_cents) == (3360, 10_340)
    assert (
        i.limits
        and i.limits.spend_cents == 15_000
        and i.limits.date
        and iso(i.limits.date) == "2026-07-18T19:00:00Z"
    )


def test_trap_3_only_available_on_demand_entries_are_offers() -> None:
    region = {"region": "us-west-1"}
    both = [
        region | {"available": False, "rental_type": "on_demand"},
        region | {"available": True, "rental_type": "spot", "hourly_price": "36"},
    ]
    assert offers(availability=both) == []
    assert offers(availability=[]) == []
    assert [
        o.region for o in offers(availability=[*both, {"region": "old", "available": True}])
    ] == ["old"]  # no rental_type: on demand
    assert offers(availability=[region | {"available": True, "rental_type": "a new kind"}]) == []


def test_the_configuration_is_read_and_unknown_fields_pass() -> None:
    o = offers(surprise={"x": 1})[0]
    assert (o.gpu, o.num_gpus, o.vram_gb, o.interconnect, o.nvlink, o.os, o.boot_max_s) == (
        "B300",
        8,
        288,
        "sxm6",
        None,
        "ubuntu24.04_cuda13.0_shade_os",
        900,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"hourly_price": 0},
        {"hourly_price": -5},
        {"hourly_price": None},
        {"hourly_price": "3600"},
        {"hourly_price": 36.5},
        {"configuration": None},
        {"availability": None},
        {"cloud": None},
        {"availability": {}},
        {"shade_instance_type": 5},
    ],
    ids=str,
)
def test_an_offer_that_cannot_be_read_is_refused_and_never_free(changes: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        offers(**changes)


# ---- instances


@pytest.mark.parametrize(
    "status, billing",
    [
        ("DELETED", False),
        ("Deleting ", False),
        ("ACTIVE", True),
        ("creating", True),
        ("pending_provider", True),
        ("pending", True),
        ("active", True),
        ("error", True),
        ("a_new_word", True),
        ("", True),
        ("deleting", False),
        ("deleted", False),
    ],
)
def test_trap_10_every_status_except_deleting_and_deleted_bills(status: str, billing: bool) -> None:
    assert instance(status=status).billing is billing


def test_trap_6_an_active_instance_without_a_heartbeat_is_booting() -> None:
    from nanolan.run.ledger import Entry

    active = instance(status="active", ip="203.0.113.1")
    state, _ = decide_state(Entry(a_plan(), active.id), active, "", None, None, 600)
    assert state == BOOTING != SUCCEEDED


@pytest.mark.parametrize(
    "ip, port, seen",
    [
        (None, None, (None, 22)),
        ("", None, (None, 22)),
        ("203.0.113.9", None, ("203.0.113.9", 22)),
        ("203.0.113.9", 2222, ("203.0.113.9", 2222)),
        ("box.example.org", 22, ("box.example.org", 22)),
    ],
    ids=str,
)
def test_trap_8_the_address_may_be_missing_or_a_name_and_the_port_another(
    ip: str | None, port: int | None, seen: tuple[str | None, int]
) -> None:
    i = instance(ip=ip, ssh_port=port, ssh_user=None)
    assert (i.ip, i.ssh_port) == seen and i.ssh_user == "shadeform"


def test_what_is_not_there_yet_is_unknown_and_not_zero() -> None:
    i = instance(
        hourly_price=None,
        cost_estimate=None,
        created_at=None,
        auto_delete=None,
        tags=None,
        configuration=None,
    )
    assert (i.hourly_cents, i.cost_cents, i.limits, i.tags, i.gpu, i.num_gpus) == (
        None,
        None,
        None,
        (),
        None,
        None,
    )
    assert i.cost_now_cents() is None
    assert instance(auto_delete={}).limits is None
    half = instance(auto_delete={"spend_threshold": "5"}).limits
    assert half and half.spend_cents == 500 and half.date is None


def test_the_cost_is_the_larger_of_the_apis_figure_and_price_times_age() -> None:
    old, soon = iso(now_utc() - timedelta(hours=2)), iso(now_utc() + timedelta(hours=1))

    def cost(created: str | None, estimate: str | None) -> int | None:
        return instance(name="x", created_at=created, cost_estimate=estimate).cost_now_cents()

    assert cost(old, "0") == pytest.approx(6720, abs=10)  # the API's figure lags
    assert cost(old, "103.4") == 10_340
    assert cost(None, "0") == 0
    assert (cost(soon, None) or 0) >= 0  # our clock is behind


@pytest.mark.parametrize(
    "reported, born",
    [
        ("2026-11-23T12:04:30Z", "12:04:30"),
        ("2026-11-23T11:59:00Z", "11:59:00"),  # a clock that is a little behind
        ("2026-11-23T05:04:30", "12:00:00"),  # a local time without its zone
        ("2026-11-23T19:04:30", "12:00:00"),
        ("2026-11-22T12:04:30Z", "12:00:00"),  # that of the node
        (None, "12:00:00"),
        ("soon", "12:00:00"),
    ],
)
def test_the_time_in_the_name_holds_against_a_creation_that_does_not_fit_it(
    reported: str | None, born: str
) -> None:
    for name in ("lanbot-sft-20261123-1200-ab12cd34", "lanbot-mid-sft-20261123-1200-a2-ab12cd34"):
        created = instance(name=name, created_at=reported).created_at
        assert created and f"{created:%d %H:%M:%S}" == f"23 {born}"
    for name in ("renamed", "lanbot-sft-20261399-1200-ab12cd34"):
        assert instance(name=name, created_at=None).created_at is None


@pytest.mark.parametrize("stamp", ["00010101-0000", "99991231-2359", "20991231-0000"])
def test_a_time_in_a_name_that_anybody_wrote_is_not_believed(stamp: str) -> None:
    found = instance(name=f"lanbot-x-{stamp}-ab12cd34", created_at="2026-11-23T12:00:00Z")
    assert found.created_at and iso(found.created_at) == "2026-11-23T12:00:00Z"


@pytest.mark.parametrize(
    "name, tags, mine",
    [
        ("lanbot-sft-20261123-1200-ab12cd34", None, True),
        ("x", [run_tag("ab12cd34")], True),
        ("lanbot-sft-20261123-1200-ab12cd34", ["other"], True),
        ("lanbot-sft-20261123-1200-ab12cd3", None, False),
        ("ab12cd34", None, False),
        ("lanbot-ab12cd34-x", None, False),
        ("xab12cd34", None, False),
        ("x", [run_tag("ab12cd345")], False),
        ("x", ["ab12cd34"], False),
        ("x", ["x" + run_tag("ab12cd34")], False),
    ],
    ids=str,
)
def test_a_run_is_known_by_its_exact_tag_or_the_end_of_the_name(
    name: str, tags: list[str] | None, mine: bool
) -> None:
    assert instance(name=name, tags=tags).is_run("ab12cd34") is mine


@pytest.mark.parametrize(
    "name, tags, attempt",
    [
        ("lanbot-sft-20261123-1200-ab12cd34", None, 1),
        ("lanbot-sft-20261123-1200-a2-ab12cd34", None, 2),
        ("lanbot-sft-20261123-1200-a13-ab12cd34", ["nanolan"], 13),
        ("renamed", ["nanolan", attempt_tag(3)], 3),
        ("renamed", None, 1),
        ("lanbot-sft-20261123-1200-a2-ab12cd34", [attempt_tag(4)], 4),
        ("lanbot-a2-sft-20261123-1200-ab12cd34", None, 1),
        ("x", ["nanolan-attempt=two"], 1),
        ("x", ["nanolan-attempt=1x"], 1),
    ],
    ids=str,
)
def test_the_attempt_number_is_read_from_the_tag_or_else_the_name(
    name: str, tags: list[str] | None, attempt: int
) -> None:
    assert instance(name=name, tags=tags).attempt == attempt


# ---- whose machine it is


@pytest.mark.parametrize(
    "name, tags, run_id, owner",
    [
        (
            "x",
            ["nanolan", "nanolan-run=ab12cd34", "nanolan-owner=0badcafe"],
            "ab12cd34",
            "0badcafe",
        ),
        ("lanbot-sft-20261123-1200-ffffffff", ["nanolan-run=ab12cd34"], "ab12cd34", None),
        (
            "lanbot-mid-sft-20261123-1200-ab12cd34",
            None,
            "ab12cd34",
            None,
        ),  # tags that were not stored
        ("somebody-elses", None, None, None),
        ("lanbot-ab12cd3", [], None, None),
        ("lanbot-x-ab12cd34\n", [], None, None),
        ("x-ab12cd34", [], None, None),
        ("x", ["nanolan-run=", "nanolan-owner="], None, None),
        ("x", ["nanolan-run=../../etc", "nanolan-owner=$(id)"], None, None),
        ("x", ["nanolan-run=AB12CD34"], None, None),
        ("x", ["nanolan-run=ab12cd34\n", "nanolan-owner=0badcafe0"], None, None),
    ],
)
def test_run_and_owner_tags_count_only_with_eight_hex_digits(
    name: str, tags: list[str] | None, run_id: str | None, owner: str | None
) -> None:
    i = instance(name=name, tags=tags)
    assert (i.run_id, i.owner) == (run_id, owner)


@pytest.mark.parametrize(
    "id", ["$(touch evil)", "a; b", "../x", "-rf", "a\nb", "`id`", "", "x" * 200, "\x1b[2J"]
)
def test_an_instance_id_that_is_unsafe_in_a_command_is_rejected(id: str) -> None:
    with pytest.raises(BadAnswer, match="invalid instance id") as e:
        instance_of(dict(id=id, name="n", status="active"))
    assert "\n" not in str(e.value)


def test_names_and_words_of_the_account_stay_on_one_short_line() -> None:
    i = instance_of(
        dict(
            id="i-1",
            name="lanbot\nrun 12345678 SUCCEEDED\u2028" + "A" * 5000,
            status="er\nror",
            status_details="a\nb" * 999,
        )
    )
    assert all(
        len(text) <= 300 and len(text.splitlines()) == 1 for text in (i.name, i.status, i.details)
    )
