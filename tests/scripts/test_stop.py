"""`just stop`: the right machine; asked to save and go, or deleted at once, until it is seen to be gone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from nanolan.launch.request import create_body
from nanolan.plan import Plan, new_run_id
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Entry, Ledger
from nanolan.sim.marker import MARKER
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import INFO, LIST, QUICK, a_plan, client, script, until
from tests.support.stop_script_fixtures import (
    cloud,  # noqa: F401  # a fixture
    deleted,
    environment,
    ledger,  # noqa: F401  # a fixture
    rented,
    stop,
)


@pytest.mark.parametrize("by", ["run id", "prefix", "run name", "instance id"])
def test_a_run_is_stopped_by_any_of_its_names_and_no_other_is(
    cloud: ShadeformServer, ledger: Ledger, by: str
) -> None:
    plan, _ = rented(cloud, ledger, run_name="this-one"), rented(cloud, ledger)
    cloud.add_foreign("someone-elses", 100)
    which = {
        "run id": plan.run_id,
        "prefix": plan.run_id[:7],
        "run name": "this-one",
        "instance id": cloud.instances[0].id,
    }[by]
    done = stop(cloud, ledger, which, "--yes")
    assert (
        done.returncode == 0
        and f"{plan.instance_name} ({cloud.instances[0].id}) is gone" in done.stdout
    )
    assert deleted(cloud) == [True, False, False]
    entry = ledger.find(plan.run_id)
    assert entry.gone and entry.note == STOPPED_BY_USER


def test_a_delete_that_is_ignored_is_repeated(cloud: ShadeformServer, ledger: Ledger) -> None:
    cloud.switch("delete_ignored", 1)
    plan = rented(cloud, ledger)
    assert stop(cloud, ledger, plan.run_id, "--yes").returncode == 0
    assert deleted(cloud) == [True] and sum(r.path.endswith("/delete") for r in cloud.requests) == 2


def test_without_a_yes_nothing_is_deleted(cloud: ShadeformServer, ledger: Ledger) -> None:
    done = stop(cloud, ledger, rented(cloud, ledger).run_id)
    assert (
        done.returncode == 2
        and "pass --yes; nothing was stopped" in done.stderr
        and deleted(cloud) == [False]
    )


def test_a_run_name_that_several_runs_have_is_not_guessed(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    rented(cloud, ledger), rented(cloud, ledger)
    done = stop(cloud, ledger, "lanbot-v3", "--yes")
    assert (
        done.returncode == 2
        and "fits several runs" in done.stderr
        and deleted(cloud) == [False, False]
    )


def test_a_machine_that_we_did_not_start_is_left_alone(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    other = cloud.add_foreign("someone-elses", 100)
    done = stop(cloud, ledger, other.id, "--yes")
    assert (
        done.returncode == 2
        and "was not started from here" in done.stderr
        and deleted(cloud) == [False]
    )


def test_our_machine_that_is_not_in_the_ledger_is_stopped_by_its_id(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger, owner=ledger.owner)
    (ledger.runs / f"{plan.run_id}.json").unlink()
    assert stop(cloud, ledger, cloud.instances[0].id, "--yes").returncode == 0 and deleted(
        cloud
    ) == [True]


def test_a_machine_whose_answer_was_lost_is_found_by_its_run(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    cloud.switch("tags_not_stored")
    assert stop(
        cloud, ledger, rented(cloud, ledger, known=False).run_id, "--yes"
    ).returncode == 0 and deleted(cloud) == [True]


@pytest.mark.parametrize("known, lag", [(True, 60.0), (False, 5.0)])
def test_a_new_machine_that_the_listing_does_not_show_yet_is_stopped_all_the_same(
    cloud: ShadeformServer, ledger: Ledger, known: bool, lag: float
) -> None:
    cloud.switch("list_lag", lag)
    done = stop(cloud, ledger, rented(cloud, ledger, known=known).run_id, "--yes")
    assert done.returncode == 0 and "is gone" in done.stdout and deleted(cloud) == [True]


def attempts(cloud: ShadeformServer, ledger: Ledger) -> tuple[Plan, Any, Any]:
    """A run that has gone on to a second machine: (its plan, the first one, the second one)."""
    first = rented(cloud, ledger)
    plan = rented(cloud, ledger, run_id=first.run_id, attempt=2)
    one, two = cloud.instances
    ledger.put(Entry(plan, two.id, earlier=(Attempt(1, one.id, 85, "it did not come up"),)))
    return plan, one, two


def test_a_run_is_stopped_with_every_machine_of_it_that_bills(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan, one, two = attempts(cloud, ledger)
    done = stop(cloud, ledger, plan.run_id, "--yes")
    assert (
        done.returncode == 0
        and deleted(cloud) == [True, True]
        and one.id in done.stdout
        and two.id in done.stdout
    )
    assert ledger.find(plan.run_id).instance_id == two.id and ledger.find(plan.run_id).gone


def test_what_is_left_of_an_earlier_attempt_does_not_hide_the_machine_that_is_not_listed_yet(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan, one, two = attempts(cloud, ledger)
    one.delays = replace(QUICK, deleting_s=60)
    client(cloud).delete(one.id)
    two.behavior["list_lag"] = 60.0
    done = stop(cloud, ledger, plan.run_id, "--yes")
    assert (
        done.returncode == 0
        and deleted(cloud) == [True, True]
        and f"{two.id}) is gone" in done.stdout
    )


def test_an_earlier_attempts_machine_is_stopped_by_its_id_alone(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    _, one, _ = attempts(cloud, ledger)
    one.behavior["tags_not_stored"] = True
    assert stop(cloud, ledger, one.id, "--yes").returncode == 0 and deleted(cloud) == [True, False]


def test_a_stop_is_noted_before_it_deletes_so_that_a_waiting_launch_rents_no_other(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    cloud.fault(
        "POST /v1/instances/.*/delete",
        "edit",
        change=lambda _: notes.append(ledger.find(plan.run_id)),
    )
    notes: list[Entry] = []
    assert stop(cloud, ledger, plan.run_id, "--yes").returncode == 0
    assert [(e.note, e.gone) for e in notes] == [(STOPPED_BY_USER, False)] and ledger.find(
        plan.run_id
    ).gone


def test_a_run_without_a_machine_has_nothing_to_stop(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    old, passed = iso(now_utc() - timedelta(hours=9)), iso(now_utc() - timedelta(hours=4))
    plan = a_plan(created_at=old, deadline=passed)
    for entry in (
        Entry(plan),
        Entry(plan, "11111111-aaaa"),
        Entry(plan, "11111111-aaaa", gone=True),
    ):
        ledger.put(entry)
        done = stop(cloud, ledger, plan.run_id, "--yes")
        assert done.returncode == 0 and "nothing to stop" in done.stdout
    assert ledger.stop_asked(plan.run_id), (
        "a resume that waits for its user's yes reads it before it creates"
    )


def test_a_run_whose_create_is_unclear_is_not_without_a_machine(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = a_plan(created_at=iso(now_utc() - timedelta(hours=1)), deadline="2099-01-01T00:00:00Z")
    ledger.put(Entry(plan))
    done = stop(cloud, ledger, plan.run_id, "--yes")
    assert (
        done.returncode == 8 and "UNKNOWN" in done.stderr and "nothing to stop" not in done.stdout
    )
    for part in (
        plan.instance_name,
        "$33.60/h",
        f"just stop {plan.run_id} --now",
        f"just status {plan.run_id}",
    ):
        assert part in done.stderr


def test_while_its_launch_is_under_way_it_is_told_and_rents_no_other(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    """Between two attempts there is no machine: that is not "nothing to stop"."""
    plan = rented(cloud, ledger)
    client(cloud).delete(cloud.instances[0].id)
    until(lambda: cloud.instances[0].status == "deleted")
    with ledger.launching(plan.run_id):
        done = stop(cloud, ledger, plan.run_id, "--yes")
    assert (
        done.returncode == 0
        and "its launch was notified and rents no other" in done.stdout
        and "nothing to stop" not in done.stdout
    )
    assert ledger.stop_asked(plan.run_id)


def test_a_create_that_is_under_way_is_waited_for_and_its_machine_is_stopped(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = a_plan(run_id=new_run_id(), created_at=iso(now_utc()), deadline="2099-01-01T00:00:00Z")
    ledger.put(Entry(plan))
    with ThreadPoolExecutor(1) as pool, ledger.launching(plan.run_id):
        with ledger.creating(plan.run_id):
            done = pool.submit(stop, cloud, ledger, plan.run_id, "--yes")
            until(lambda: ledger.stop_asked(plan.run_id))
            ledger.put(Entry(plan, client(cloud).create(create_body(plan, "x"))))
        ended = done.result()
    assert ended.returncode == 0 and deleted(cloud) == [True] and "is gone" in ended.stdout, (
        ended.stderr
    )


@pytest.mark.parametrize(
    "action, words",
    [("unauthorized", ["--now"]), ("unauthorized", []), ("html", ["--now"]), ("status", ["--now"])],
    ids=str,
)
def test_in_an_outage_a_stop_says_what_may_bill_and_exits_8(
    cloud: ShadeformServer, ledger: Ledger, action: str, words: list[str]
) -> None:
    plan = rented(cloud, ledger)
    cloud.fault("/v1/instances", action, times=None)
    done = script("stop", plan.run_id, "--yes", *words, env=environment(cloud, ledger))
    assert done.returncode == 8 and not ledger.find(plan.run_id).gone
    for part in (cloud.instances[0].id, "$33.60/h", f"just stop {plan.run_id} --now"):
        assert part in done.stderr


def test_without_a_network_a_stop_says_what_may_bill_and_exits_8(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    done = stop(cloud, ledger, "--yes", SHADEFORM_API="http://127.0.0.1:9/v1")
    assert (
        done.returncode == 8
        and cloud.instances[0].id in done.stderr
        and f"just stop {plan.run_id} --now" in done.stderr
    )


def test_when_the_listing_cannot_be_read_the_machine_is_deleted_by_the_id_in_the_ledger(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    cloud.instances[0].delays = replace(QUICK, deleting_s=60)
    cloud.fault(LIST, "html", times=None)
    done = stop(cloud, ledger, plan.run_id, "--yes")
    assert done.returncode == 0 and deleted(cloud) == [True] and ledger.find(plan.run_id).gone, (
        done.stderr
    )


@pytest.mark.parametrize("which", ["zzzz", "../x", "$(id)", "-rf"])
def test_an_unknown_run_is_a_usage_error(
    cloud: ShadeformServer, ledger: Ledger, which: str
) -> None:
    rented(cloud, ledger)
    assert stop(cloud, ledger, which, "--yes").returncode == 2 and deleted(cloud) == [False]


def test_when_an_unlisted_machine_cannot_be_looked_at_nobody_says_that_it_is_gone(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    cloud.switch("list_lag", 60.0)
    plan = rented(cloud, ledger)
    cloud.fault(INFO, "html", times=None)
    assert stop(cloud, ledger, plan.run_id, "--yes").returncode == 8 and deleted(cloud) == [False]


def test_a_wrong_key_is_named_and_not_shown(cloud: ShadeformServer, ledger: Ledger) -> None:
    done = stop(
        cloud,
        ledger,
        rented(cloud, ledger).run_id,
        "--yes",
        SHADEFORM_API_KEY=f"{MARKER}-0123456789",
    )
    assert (
        done.returncode == 8
        and "SHADEFORM_API_KEY" in done.stderr
        and MARKER not in done.stdout + done.stderr
    )


def test_without_a_name_it_is_the_newest_run(cloud: ShadeformServer, ledger: Ledger) -> None:
    rented(cloud, ledger, created_at=iso(now_utc() - timedelta(hours=1)))
    newest = rented(cloud, ledger)
    done = stop(cloud, ledger, "--yes")
    assert (
        done.returncode == 0
        and newest.instance_name in done.stdout
        and deleted(cloud) == [False, True]
    )


def test_what_a_deleted_machine_has_cost_is_noted(cloud: ShadeformServer, ledger: Ledger) -> None:
    plan = rented(cloud, ledger)
    cloud.instances[0].created_at -= 3600
    stop(cloud, ledger, plan.run_id, "--yes")
    assert 3360 <= (ledger.find(plan.run_id).spent_cents or 0) <= 3400


def test_a_second_machine_of_a_run_is_stopped_by_its_id_and_the_run_goes_on(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    client(cloud).create(create_body(plan, "x"))
    assert stop(cloud, ledger, cloud.instances[1].id, "--yes").returncode == 0
    assert deleted(cloud) == [False, True] and not ledger.find(plan.run_id).gone
    client(cloud).create(create_body(plan, "x"))
    assert stop(cloud, ledger, plan.run_id, "--yes").returncode == 0
    assert deleted(cloud) == [True, True, True] and ledger.find(plan.run_id).gone
