"""The guard: it deletes overdue instances and no others, and a failed request never causes a deletion or ends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.run.record import Receipt, to_json
from nanolan.shadeform.models import Limits
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO
from tests.support.core_fixtures import INFO, LIST, Waits
from tests.support.guard_fixtures import (
    HOUR,
    MINE,
    THEIRS,
    Post,
    post,  # noqa: F401  # a fixture
)


def deletes(post: Post) -> int:
    return sum(r.path.endswith("/delete") for r in post.cloud.requests)


# ---- what is deleted, and what is not
def test_an_instance_whose_run_is_over_is_deleted_and_a_training_one_is_not(post: Post) -> None:
    over, _ = post.rent(), post.rent()
    post.ends(over)
    guard = post.guard()
    assert guard.round() == 1 and post.alive() == [False, True] and deletes(post) == 1
    assert guard.round() == 1 and deletes(post) == 1
    assert (
        post.words == ["deleting", "deleted", "guards"]
        and "its run is over (succeeded)" in post.text
    )


def test_an_instance_past_its_date_is_deleted_while_the_hub_is_down(post: Post) -> None:
    post.rent(deadline=-HOUR, known=True)
    post.hub.stop()
    assert (
        post.guard().round() == 0
        and post.alive() == [False]
        and "should have been deleted at" in post.text
    )


def test_with_the_hub_down_an_instance_within_its_limits_stays_and_the_gap_is_reported(
    post: Post,
) -> None:
    over = post.rent()
    post.ends(over)
    post.hub.stop()
    guard = post.guard()
    assert (
        guard.round() == 1 and guard.round() == 1 and post.alive() == [True] and not deletes(post)
    )
    assert (
        post.words == ["guards"]
        and "UNAVAILABLE: its plan" in post.text
        and "until ? or $150.00" in post.text
    )


def test_with_the_hub_down_an_instance_past_the_providers_limit_is_deleted(post: Post) -> None:
    post.rent()
    post.hub.stop()
    post.cloud.instances[0].created_at -= 120  # two minutes, $1.12
    guard = post.guard(limits=Limits(100, None))  # which the provider has not seen to
    assert (
        guard.round() == 0
        and post.alive() == [False]
        and "is spent, the limit is $1.00" in post.text
    )


def test_a_look_at_the_limits_that_fails_is_told_and_no_reason(post: Post) -> None:
    post.rent()
    post.cloud.fault(INFO, "unauthorized", times=9)
    assert (
        post.guard().round() == 1
        and post.alive() == [True]
        and "UNAVAILABLE: the provider's limits" in post.text
    )


def test_when_the_hub_is_back_it_sees_that_the_run_is_over(post: Post) -> None:
    post.ends(post.rent())
    post.hub.fault("GET /me/", status=503, times=1)
    guard = post.guard()
    assert guard.round() == 1 and post.alive() == [True]
    assert (
        guard.round() == 0
        and post.alive() == [False]
        and post.words == ["guards", "deleting", "deleted"]
    )


@pytest.mark.parametrize(
    "fault",
    [
        dict(action="status", status=500, times=9),
        dict(action="html", times=9),
        dict(action="unauthorized"),
        dict(action="status", status=200, body={}),
        dict(action="cut", times=9),
    ],
    ids=str,
)
def test_an_account_that_cannot_be_seen_is_no_empty_account(
    post: Post, fault: dict[str, Any]
) -> None:
    post.ends(post.rent())
    post.cloud.fault(LIST, **fault)
    guard = post.guard()
    assert (
        guard.round() is None
        and guard.failed
        and post.alive() == [True]
        and post.words == ["trouble"]
    )
    post.cloud.faults.clear()
    assert (
        guard.round() == 0
        and not guard.failed
        and post.words == ["trouble", "guards", "deleting", "deleted"]
    )


@pytest.mark.parametrize("changes", [dict(attempt=2), dict(run_id="00000001")], ids=str)
def test_the_receipt_of_another_attempt_or_run_is_no_reason(
    post: Post, changes: dict[str, Any]
) -> None:
    plan = post.rent()
    post.hub.put(
        REPO,
        {
            f"{plan.folder}/receipt.json": to_json(
                Receipt(**({"run_id": plan.run_id, "verdict": "failed"} | changes))
            )
        },
    )
    assert post.guard().round() == 1 and post.alive() == [True]


def test_an_instance_of_an_earlier_attempt_is_judged_by_the_providers_limits_only(
    post: Post,
) -> None:
    plan = post.rent()
    later = structs.replace(plan, attempt=2, deadline=iso(now_utc() - HOUR))
    post.hub.put(REPO, {f"{plan.folder}/plan.json": later.to_json()})
    post.ends(later)
    assert (
        post.guard().round() == 1
        and post.alive() == [True]
        and "the run folder has that of attempt 2" in post.text
    )


@pytest.mark.parametrize(
    "junk",
    [b"", b"{", b"[" * 100_000, b'{"run_id": 5}', b"null"],
    ids=["empty", "cut", "deep", "wrong", "null"],
)
@pytest.mark.parametrize("name", ["plan", "receipt"])
def test_invalid_files_in_the_run_folder_delete_nothing_and_do_not_end_the_guard(
    post: Post, name: str, junk: bytes
) -> None:
    plan = post.rent()
    post.hub.put(REPO, {f"{plan.folder}/{name}.json": junk})
    post.ends(post.rent())
    assert (
        post.guard().round() == 1 and post.alive() == [True, False] and "UNAVAILABLE" in post.text
    )


# ---- whose
def test_instances_of_other_owners_and_tools_are_left_alone_and_other_owners_are_named(
    post: Post,
) -> None:
    post.cloud.add_foreign("someone-elses", 100)
    post.ends(post.rent(owner=THEIRS))
    guard = post.guard()
    assert (
        guard.round() == 0
        and guard.round() == 0
        and post.alive() == [True, True]
        and not deletes(post)
    )
    assert post.words == ["left alone"] and f"just guard --owner {THEIRS}" in post.text


def test_every_owners_instances_are_guarded_only_on_request_and_never_other_tools(
    post: Post,
) -> None:
    post.cloud.add_foreign("someone-elses", 100)
    post.ends(post.rent(owner=THEIRS))
    assert post.guard(None).round() == 0 and post.alive() == [True, False]


@pytest.mark.parametrize("owner, touched", [(MINE, True), (THEIRS, False)])
def test_where_tags_are_lost_the_plan_says_whose_it_is(
    post: Post, owner: str, touched: bool
) -> None:
    post.ends(post.rent(owner=owner, tags=[]))
    post.guard().round()
    assert post.alive() == [not touched]


def test_an_instance_without_tags_or_plan_belongs_to_nobody(post: Post) -> None:
    post.rent(tags=[], deadline=-HOUR)
    post.hub.stop()
    assert (
        post.guard().round() == 0
        and post.alive() == [True]
        and "belongs to owner ?: left alone" in post.text
    )


# ---- deleting
def test_a_deletion_is_reported_only_when_confirmed_and_retried_until_then(post: Post) -> None:
    post.cloud.switch("delete_ignored", 50)
    post.ends(post.rent())
    guard = post.guard(sleep=Waits(0.0))
    clock = iter(range(0, 10**6, 30))
    guard._clock = lambda: next(clock)
    assert (
        guard.round() == 1
        and "could not be deleted" in guard.failed[0]
        and post.words == ["deleting", "failed"]
    )
    post.cloud.switch("delete_ignored", False)
    assert guard.round() == 0 and not guard.failed and post.words[-1] == "deleted"


def test_a_deletion_is_noted_in_the_ledger_that_knows_the_run(post: Post) -> None:
    plan = post.rent(known=True)
    post.ends(plan)
    post.guard().round()
    entry = post.ledger.find(plan.run_id)
    assert (
        entry.gone
        and entry.receipt
        and entry.spent_cents is not None
        and "deleted by just guard: its run is over" in entry.note
    )


def test_a_machine_that_goes_by_itself_is_told_once(post: Post) -> None:
    post.rent()
    guard = post.guard()
    guard.round()
    post.cloud.account.delete(post.cloud.instances[0].id)
    assert guard.round() == 0 and guard.round() == 0
    assert post.words == ["guards", "gone"] and not deletes(post)


# ---- odd answers

ODD = {
    "a bill in cents": {"cost_estimate": "15230"},
    "a price x1000": {"hourly_price": 3_360_000},
    "a date in the past": {
        "auto_delete": {"spend_threshold": "150.00", "date_threshold": "2026-01-01T00:00:00Z"}
    },
    "a limit that is used up": {"auto_delete": {"spend_threshold": "0.01"}},
    "a creation in another zone": {"created_at": "2026-01-01T02:00:00"},
}


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_answer_deletes_nothing(post: Post, odd: str) -> None:
    post.rent(known=True, self_delete=True, deadline=timedelta(hours=4))
    guard = post.guard()
    guard.round()
    post.cloud.fault(INFO, "edit", times=1, change=lambda body: body | ODD[odd])
    guard.round()
    guard.round()
    assert post.alive() == [True] and "deleting" not in post.words


def test_a_bill_that_neither_price_nor_age_explains_deletes_nothing(post: Post) -> None:
    post.rent(known=True, self_delete=True, deadline=timedelta(hours=4))
    change = {"cost_estimate": "15230"}
    post.cloud.fault(INFO, "edit", times=None, change=lambda body: body | change)
    guard = post.guard()
    assert [guard.round() for _ in range(3)] == [1, 1, 1] and post.alive() == [True]


@pytest.mark.parametrize("name", ["my-box", "lanbot-sft-20261128-12"])
def test_an_instance_of_the_ledger_is_known_by_its_id_when_name_and_tags_are_lost(
    post: Post, name: str
) -> None:
    post.ends(post.rent(known=True))
    post.cloud.instances[0].spec.update(name=name, tags=[])
    assert post.guard().round() == 0 and post.alive() == [False]
    assert post.words == ["deleting", "deleted"]


def test_one_odd_answer_and_a_failed_second_look_delete_nothing(post: Post) -> None:
    post.rent(known=True, self_delete=True, deadline=timedelta(hours=4))
    change = {"auto_delete": {"date_threshold": "2026-01-01T00:00:00Z"}}
    post.cloud.fault(INFO, "edit", times=1, change=lambda body: body | change)
    post.cloud.fault(INFO, "status", times=None, skip=1, status=500)
    assert post.guard().round() == 1 and post.alive() == [True]


def test_an_instance_past_its_date_is_deleted_though_the_second_look_fails(post: Post) -> None:
    post.rent(known=True, deadline=-timedelta(hours=1))
    post.cloud.fault(INFO, "status", times=None, status=500)
    post.guard().round()
    assert post.alive() == [False]
