"""Switches of the local Shadeform, and other users."""

from __future__ import annotations

from decimal import Decimal

import pytest

from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.support.sim_account_fixtures import (
    CREATE,
    account,  # noqa: F401  # a fixture
    clock,  # noqa: F401  # a fixture
    create,
    ids,
    info,
    refusal,
)


def shown_after(account, clock, seconds, **more):
    box = create(account, **more)
    clock.t += seconds
    account.enforce()
    return info(account, box)


# ---- switches
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
def test_a_switch_affects_only_the_next_instance(
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


def test_a_price_that_differs_from_the_offer_is_billed(account, clock):
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


def test_ignored_deletes_answer_like_effective_ones(account):
    account.switches.set("delete_ignored", 2)
    box = create(account)
    for expected in ("creating", "creating", "deleting"):
        assert account.delete(box) is None
        assert info(account, box)["status"] == expected


def test_a_deletion_can_be_taken_back_once(account, clock):
    account.switches.set("deletion_reverted", 0.1)
    box = create(account)
    clock.t += 60
    account.delete(box)
    assert info(account, box)["status"] == "deleting"
    clock.t += 0.15
    account.enforce()
    assert info(account, box)["status"] == "active"
    account.delete(box)
    clock.t += 60
    account.enforce()
    assert ids(account) == []


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


def test_a_key_in_use_cannot_be_deleted(account, clock):
    key = account.keys.add({"name": "mine", "public_key": "ssh-ed25519 AAAA me"})["id"]
    box = create(account, ssh_key_id=key)
    assert refusal(account.delete_key, key)[0] == 409
    account.delete(box)
    clock.t += 40
    account.delete_key(key)
    assert refusal(account.keys.info, key)[0] == 404


def test_the_account_works_on_a_copy_of_the_catalogue(account):
    account.catalogue[0]["availability"][0]["available"] = False
    assert refusal(account.create, CREATE)[0] == 409
    assert SAMPLE[0]["availability"][0]["available"]
