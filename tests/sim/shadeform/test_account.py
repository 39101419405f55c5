"""The account under a clock that the test moves: what each call does to wallet, stock and instances."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest

from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.refusal import Refusal
from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.sim.openapi import check_response

DELAYS = Delays(creating_s=10, pending_provider_s=20, pending_s=30, deleting_s=40)
CREATE = {
    "cloud": "hyperstack",
    "region": "canada-1",
    "shade_instance_type": "8x_b200_pcie_192gb",
    "name": "n",
}


class Clock:
    def __init__(self):
        self.t = 1_800_000_000.0

    def __call__(self):
        return self.t


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def account(clock):
    return Account(SAMPLE, 10_000, DELAYS, now=clock)


def create(account, **more):
    return account.create({**CREATE, **more})["id"]


def refusal(call, *args):
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value.status, caught.value.body


def ids(account):
    answer = account.listed()
    check_response("GET", "/instances", 200, answer)
    return [i["id"] for i in answer["instances"]]


def info(account, instance_id):
    answer = account.info(instance_id)
    check_response("GET", f"/instances/{instance_id}/info", 200, answer)
    return answer


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


def test_less_than_five_dollars_rents_nothing(account, clock):
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


def test_an_empty_wallet_is_told_before_a_wrong_name(clock):
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
def test_what_is_not_in_the_catalogue_is_a_plain_400(account, change):
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


def test_info_shows_what_was_asked(account):
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


def test_waiting_for_the_provider_says_so(account, clock):
    box = create(account)
    clock.t += 10
    assert (
        info(account, box)["status_details"]
        == "Instance created, waiting on provider to spin up instance"
    )


def test_a_deleted_instance_is_listed_while_deleting_then_unknown(account, clock):
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
def test_both_limits_delete(account, clock, limits, at_s, why):
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


def test_a_dead_limit_deletes_nothing_more(account, clock):
    box = create(account, auto_delete={"spend_threshold": "3.36"})
    account.delete(box)
    clock.t += 9999
    account.enforce()
    assert account.instances[box].why == "asked"


# ---- update


def test_update_changes_what_is_there_removes_null_and_leaves_the_rest(account):
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


def test_a_raised_limit_holds(account, clock):
    box = create(account, auto_delete={"spend_threshold": "3.36"})
    account.update(box, {"auto_delete": {"spend_threshold": "6.72"}})
    clock.t += 700
    account.enforce()
    assert info(account, box)["status"] == "active"
    clock.t += 20
    account.enforce()
    assert info(account, box)["status"] == "deleting"


# ---- switches


def shown_after(account, clock, seconds, **more):
    box = create(account, **more)
    clock.t += seconds
    account.enforce()
    return info(account, box)


@pytest.mark.parametrize(
    "name, value, seconds, field, shown",
    [
        ("ssh_port_null", True, 60, "ssh_port", None),
        ("ssh_port", 2222, 60, "ssh_port", 2222),
        ("ssh_user", "ubuntu", 60, "ssh_user", "ubuntu"),
        ("ip", "box7.provider.example", 60, "ip", "box7.provider.example"),
        ("price_differs", 4000, 0, "hourly_price", 4000),
        ("stuck_in_pending_provider", True, 9999, "status", "pending_provider"),
        ("goes_to_error", True, 9999, "status", "error"),
        ("preempted", 5, 65, "status", "deleting"),
        ("preempted", 5, 65, "status_details", "preempted"),
        ("cost_frozen", True, 3600, "cost_estimate", "0"),
        ("tags_not_stored", True, 0, "tags", None),
        ("auto_delete_not_stored", 1, 0, "auto_delete", None),
        ("auto_delete_late", 30, 29, "auto_delete", None),
        ("auto_delete_late", 30, 30, "auto_delete", {"spend_threshold": "99"}),
        (
            "auto_delete_stored_as",
            {"spend_threshold": "999"},
            0,
            "auto_delete",
            {"spend_threshold": "999"},
        ),
    ],
)
def test_a_switch_shows_in_the_next_instance_and_no_later_one(
    account, clock, name, value, seconds, field, shown
):
    account.wallet_cents = 1_000_000
    asked = {"tags": ["a"], "auto_delete": {"spend_threshold": "99"}}
    before = info(account, create(account, **asked))
    account.switches.set(name, value, times=1)
    assert shown_after(account, clock, seconds, **asked)[field] == shown
    after = shown_after(account, clock, seconds, **asked)
    assert after[field] != shown or seconds == 30
    assert info(account, before["id"])["ssh_user"] == "shadeform"


def test_an_unknown_status_word_is_shown_for_pending_provider(account, clock):
    account.switches.set("unknown_status", "warming_up")
    box = create(account)
    clock.t += 10
    assert account.info(box)["status"] == "warming_up"  # not of the schema, on purpose
    clock.t += 50
    assert info(account, box)["status"] == "active"


def test_the_price_that_differs_is_the_one_billed(account, clock):
    account.switches.set("price_differs", 7200)
    create(account)
    clock.t += 3600
    assert account.spent_dollars() == 72


def test_a_new_instance_can_be_missing_from_the_list(account, clock):
    account.switches.set("list_lag", 5)
    box = create(account)
    assert ids(account) == [] and info(account, box)["status"] == "creating"
    clock.t += 5
    assert ids(account) == [box]


def test_an_instance_can_vanish(account, clock):
    account.switches.set("vanishes", 20)
    box = create(account)
    clock.t += 20
    assert ids(account) == [] and refusal(account.info, box)[0] == 404
    clock.t += 9999
    assert account.spent_dollars() == Decimal(3360) * 20 / 360_000


def test_ignored_deletes_answer_like_real_ones(account):
    account.switches.set("delete_ignored", 2)
    box = create(account)
    for expected in ("creating", "creating", "deleting"):
        assert account.delete(box) is None
        assert info(account, box)["status"] == expected


def test_limits_can_get_lost_on_create_and_on_update(account):
    account.switches.set("auto_delete_not_stored", 2)
    limits = {"auto_delete": {"spend_threshold": "9"}}
    box = create(account, **limits)
    account.update(box, {"name": "no limits in this one"})
    for stored in (None, limits["auto_delete"]):
        account.update(box, {**limits, "name": "m"})
        assert (info(account, box)["auto_delete"], info(account, box)["name"]) == (stored, "m")


def test_a_restart_can_be_ignored(account):
    account.switches.set("restart_ignored", 1)
    box = create(account)
    account.restart(box)
    assert not account.instances[box].reboot_asked
    account.restart(box)
    assert account.instances[box].reboot_asked


# ---- the others


def test_other_users_instances_are_listed_and_left_alone(account, clock):
    theirs = account.add_foreign("someone-elses", 5000)
    mine = create(account, auto_delete={"spend_threshold": "1"})
    assert ids(account) == [theirs.id, mine]
    assert (info(account, theirs.id)["status"], info(account, theirs.id)["hourly_price"]) == (
        "active",
        5000,
    )
    theirs.spec["auto_delete"] = {"spend_threshold": "1"}
    clock.t += 120
    account.enforce()
    clock.t += 40
    assert ids(account) == [theirs.id] and theirs.why == ""
    assert account.spent_dollars() == Decimal("1.12")  # and they are not on this bill


def test_a_key_in_use_stays(account, clock):
    key = account.keys.add({"name": "mine", "public_key": "ssh-ed25519 AAAA me"})["id"]
    box = create(account, ssh_key_id=key)
    assert refusal(account.delete_key, key)[0] == 409
    account.delete(box)
    clock.t += 40
    account.delete_key(key)
    assert refusal(account.keys.info, key)[0] == 404


def test_the_account_changes_its_own_copy_of_the_catalogue(account):
    account.catalogue[0]["availability"][0]["available"] = False
    assert refusal(account.create, CREATE)[0] == 409
    assert SAMPLE[0]["availability"][0]["available"]
