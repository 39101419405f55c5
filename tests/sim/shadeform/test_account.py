"""The account under a simulated clock: the effect of each call on wallet, stock and instances."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest

from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.sim.openapi import check_response
from tests.support.sim_account_fixtures import (
    CREATE,
    DELAYS,
    account,  # noqa: F401  # a fixture
    clock,  # noqa: F401  # a fixture
    create,
    ids,
    info,
    refusal,
)


# ---- create
def test_the_wallet_pays_by_the_second_and_stops_at_deleting(account, clock):
    box = create(account)
    clock.t += 3600
    assert account.spent_dollars() == Decimal("33.6") and account.balance_dollars() == Decimal(
        "66.4"
    )
    account.delete(box)
    clock.t += 3600
    assert account.spent_dollars() == Decimal("33.6")


def test_a_create_with_less_than_five_dollars_fails(account, clock):
    create(account)
    clock.t += 10_180
    status, body = refusal(account.create, CREATE)
    assert (status, body) == (
        409,
        {
            "error_code": "INSUFFICIENT_FUNDS",
            "error": "Balance must be a minimum of $5 to launch an instance. Current balance [$4.9866666667].",
        },
    )
    check_response("POST", "/instances/create", status, body)
    assert len(ids(account)) == 1


def test_exactly_five_dollars_are_enough(clock):
    assert create(Account(SAMPLE, 500, DELAYS, now=clock))
    assert refusal(Account(SAMPLE, 499, DELAYS, now=clock).create, CREATE)[0] == 409


def test_an_empty_wallet_is_reported_before_a_wrong_name(clock):
    poor = Account(SAMPLE, 0, DELAYS, now=clock)
    assert (
        refusal(poor.create, CREATE | {"cloud": "nowhere"})[1]["error_code"] == "INSUFFICIENT_FUNDS"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"cloud": "nowhere"},
        {"region": "canada-2"},
        {"shade_instance_type": "B200"},
        {"os": "ubuntu20.04"},
        {"ssh_key_id": "11111111-1111-1111-1111-111111111111"},
    ],
)
def test_a_create_outside_the_catalogue_is_400(account, change):
    assert refusal(account.create, CREATE | change)[0] == 400
    assert ids(account) == []


@pytest.mark.parametrize(
    "cloud, region, kind, rental",
    [
        (
            "lambdalabs",
            "us-west-1",
            "B200x8",
            "on_demand",
        ),  # its spot entry in the same region does not count
        ("hyperstack", "houston-usa-1", "H100", "on_demand"),
        ("hyperstack", "canada-1", "8x_b200_pcie_192gb", "spot"),
    ],
)
def test_sold_out_is_409_out_of_stock(account, cloud, region, kind, rental):
    wanted = {
        "cloud": cloud,
        "region": region,
        "shade_instance_type": kind,
        "name": "n",
        "rental_type": rental,
    }
    assert refusal(account.create, wanted) == (
        409,
        {"error_code": "OUT_OF_STOCK", "error": "Out of stock"},
    )


def test_spot_is_billed_at_its_own_price(account, clock):
    box = account.create(
        {
            "cloud": "massedcompute",
            "region": "desmoines-usa-1",
            "shade_instance_type": "H100x8",
            "name": "n",
            "rental_type": "spot",
        }
    )["id"]
    shown = info(account, box)
    assert shown["hourly_price"] == 1850
    assert shown["rental_terms"] == {
        "rental_type": "spot",
        "hourly_price": "18.50",
        "ending_at": None,
    }


def test_two_creates_are_two_instances_even_with_one_name(account):
    assert create(account) != create(account) and len(ids(account)) == 2


def test_info_shows_the_create_request(account):
    launch = {
        "type": "script",
        "script_configuration": {"base64_script": base64.b64encode(b"true").decode()},
    }
    asked = {
        "tags": ["run=ab12cd34"],
        "envs": [{"name": "A", "value": "b"}],
        "launch_configuration": launch,
        "auto_delete": {"spend_threshold": "9.00"},
        "alert": {"spend_threshold": "5.40"},
        "os": "ubuntu24.04_cuda13.0_shade_os",
    }
    shown = info(account, create(account, **asked))
    assert {k: shown[k] for k in asked if k != "os"} == {
        k: v for k, v in asked.items() if k != "os"
    }
    assert (
        shown["configuration"]["os"] == asked["os"]
        and shown["ssh_key_id"] == account.keys.default.id
    )
    assert shown["shade_cloud"] is True  # although not sent
    assert account.listed()["instances"][0]["launch_configuration"] == launch  # secrets and all


# ---- time
def test_address_and_port_are_null_until_active(account, clock):
    box = create(account)
    for at, status in ((0, "creating"), (10, "pending_provider"), (30, "pending")):
        clock.t = 1_800_000_000 + at
        shown = info(account, box)
        assert (shown["status"], shown["ip"], shown["ssh_port"], shown["active_at"]) == (
            status,
            None,
            None,
            None,
        )
        assert bool(shown["cloud_assigned_id"]) == (status == "pending")
        assert shown["ssh_user"] == "shadeform"
    clock.t = 1_800_000_060
    shown = info(account, box)
    assert (shown["status"], shown["ssh_port"], shown["active_at"]) == (
        "active",
        22,
        "2027-01-15T08:01:00.000000Z",
    )
    assert shown["ip"].startswith("203.0.113.")  # an address that never exists


def test_pending_provider_has_status_details(account, clock):
    box = create(account)
    clock.t += 10
    assert (
        info(account, box)["status_details"]
        == "Instance created, waiting on provider to spin up instance"
    )


def test_an_instance_is_listed_while_deleting_and_then_unknown(account, clock):
    box = create(account)
    account.delete(box)
    assert ids(account) == [box] and info(account, box)["status"] == "deleting"
    account.delete(box)  # again: as good
    clock.t += 40
    assert ids(account) == []
    for call in (account.info, account.delete, account.restart):
        assert refusal(call, box)[0] == 404
    assert refusal(account.update, box, {})[0] == 404


@pytest.mark.parametrize(
    "limits, at_s, why",
    [
        ({"spend_threshold": "3.36"}, 360, "spend"),
        ({"date_threshold": "2027-01-15T08:05:00Z"}, 300, "date"),
        ({"date_threshold": "2027-01-15T08:05:00Z", "spend_threshold": "100"}, 300, "date"),
        ({"date_threshold": "2020-01-01T00:00:00Z"}, 0, "date"),
    ],
)
def test_both_limits_delete_the_instance(account, clock, limits, at_s, why):
    box = create(account, auto_delete=limits)
    if at_s:
        clock.t += at_s - 1
        account.enforce()
        assert info(account, box)["status"] == "active"
        clock.t += 1
    account.enforce()
    assert info(account, box)["status"] == "deleting" and account.instances[box].why == why
    spent = account.spent_dollars()
    clock.t += 9999
    account.enforce()
    assert account.spent_dollars() == spent


def test_a_limit_of_a_deleted_instance_has_no_effect(account, clock):
    box = create(account, auto_delete={"spend_threshold": "3.36"})
    account.delete(box)
    clock.t += 9999
    account.enforce()
    assert account.instances[box].why == "asked"


# ---- update
def test_update_changes_present_fields_removes_nulls_and_keeps_the_rest(account):
    box = create(
        account, auto_delete={"spend_threshold": "9"}, alert={"spend_threshold": "5"}, tags=["a"]
    )
    account.update(box, {"auto_delete": {"spend_threshold": "20"}, "name": "m"})
    shown = info(account, box)
    assert (shown["auto_delete"], shown["name"], shown["tags"]) == (
        {"spend_threshold": "20"},
        "m",
        ["a"],
    )
    account.update(box, {"auto_delete": None, "tags": None})
    shown = info(account, box)
    assert (shown["auto_delete"], shown["tags"], shown["alert"]) == (
        None,
        None,
        {"spend_threshold": "5"},
    )


def test_a_raised_limit_applies(account, clock):
    box = create(account, auto_delete={"spend_threshold": "3.36"})
    account.update(box, {"auto_delete": {"spend_threshold": "6.72"}})
    clock.t += 700
    account.enforce()
    assert info(account, box)["status"] == "active"
    clock.t += 20
    account.enforce()
    assert info(account, box)["status"] == "deleting"


# ---- stock
def test_everything_is_sold_out_for_some_seconds_from_the_first_look(account, clock):
    account.switches.set("no_stock", 30)
    clock.t += 1000

    def in_stock() -> int:
        types = account.types({"available": "true"})["instance_types"]
        return sum(len(t["availability"]) for t in types)

    assert in_stock() == 0 and account.types({})["instance_types"]
    assert refusal(account.create, CREATE)[1]["error_code"] == "OUT_OF_STOCK"
    clock.t += 29
    assert in_stock() == 0
    clock.t += 1
    assert in_stock() > 0 and create(account)


def test_without_seconds_it_stays_sold_out(account, clock):
    account.switches.set("no_stock")
    account.types({})
    clock.t += 1e9
    assert refusal(account.create, CREATE)[1]["error_code"] == "OUT_OF_STOCK"
