"""The guard over time, as a command, and what no listing shows."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from nanolan.cost.overdue import InstanceFacts
from nanolan.launch.request import create_body
from nanolan.manage.guard import (
    SETTLE_S,
    Event,
    Guard,
    run_forever,
)
from nanolan.run.ledger import Entry
from nanolan.shadeform.models import Instance, Limits, instance_of
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import TOKEN
from tests.support.core_fixtures import INFO, LIST, QUICK, Waits, a_plan, client, started
from tests.support.guard_fixtures import (
    HOUR,
    MINE,
    THEIRS,
    Post,
    environ,
    guard,
    post,  # noqa: F401  # a fixture
)


# ---- how long it goes on
@pytest.mark.parametrize(
    "every_s, seen, rounds",
    [
        (60, [1, 0, 0, 0], 4),
        (60, [0, None, 0, 0, 0], 5),
        (60, [0, 0, 1, 0, 0, None, 0, 0, 0], 9),
        (60, [0, 0, 0], 3),
        (10, [0] * 13, 13),
        (3600, [0, 0], 2),
    ],
    ids=str,
)
def test_until_none_ends_after_two_minutes_without_instances_and_failed_reads_do_not_count(
    every_s: float, seen: list[int | None], rounds: int
) -> None:
    class Played:
        left = iter(seen)

        def round(self) -> int | None:
            return next(self.left)

    waits = Waits()
    run_forever(Played(), every_s, until_none_s=SETTLE_S, sleep=waits, clock=lambda: sum(waits))  # type: ignore[arg-type]
    assert waits == [every_s] * (rounds - 1)


def test_otherwise_it_ends_never_and_once_is_once() -> None:
    class Played:
        rounds = 0

        def round(self) -> int | None:
            self.rounds += 1
            return None if self.rounds == 2 else 0

    def until_five(seconds: float) -> None:
        if played.rounds == 5:
            raise KeyboardInterrupt

    played = Played()
    with pytest.raises(KeyboardInterrupt):
        run_forever(played, 60.0, sleep=until_five)  # type: ignore[arg-type]
    run_forever(played, 60.0, once=True)  # type: ignore[arg-type]
    assert played.rounds == 6


def test_a_fault_of_our_own_is_told_and_the_next_round_follows(post: Post) -> None:
    post.ends(post.rent())
    guard = post.guard()
    facts_of = guard._facts_of

    def breaks_once(i: Instance) -> InstanceFacts | None:
        guard._facts_of = facts_of
        raise RuntimeError("words")

    guard._facts_of = breaks_once
    run_forever(guard, 60.0, until_none_s=0.0, sleep=Waits(), clock=itertools.count().__next__)
    assert (
        post.words == ["trouble", "guards", "deleting", "deleted"]
        and "RuntimeError: words. Trying again" in post.text
    )
    assert post.alive() == [False]


# ---- the command
def test_a_single_round_prints_each_change_as_json_without_secrets(post: Post) -> None:
    plan = post.rent()
    post.ends(plan, message="NOT saved: sft step 5. \x1b[2Jwords")
    done = guard(post, "--once", "--owner", MINE, "--json")
    assert done.returncode == 0 and post.alive() == [False], done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["deleting", "deleted"] and {
        line["run_id"] for line in lines
    } == {plan.run_id}
    assert (
        "NOT SAVED, lost with the instance: sft step 5" in lines[0]["text"]
        and lines[0]["usd_per_hour"]
    )
    assert (
        post.cloud.key not in done.stdout + done.stderr and TOKEN not in done.stdout + done.stderr
    )


@pytest.mark.slow
def test_without_a_name_it_guards_this_laptops_own(post: Post) -> None:
    post.ends(post.rent(owner=post.ledger.owner))
    post.ends(post.rent(owner=THEIRS))
    done = guard(post, "1", "--until-none")
    assert (
        done.returncode == 0
        and post.alive() == [False, True]
        and f"guard of owner {post.ledger.owner}" in done.stderr
    )


def test_a_failed_single_round_names_what_may_bill(post: Post) -> None:
    post.cloud.fault(LIST, "unauthorized")
    done = guard(post, "--once")
    assert (
        done.returncode == 8
        and "the account could not be read" in done.stderr
        and "just orphans" in done.stderr
    )


def test_it_goes_on_through_trouble_and_ctrl_c_ends_it(post: Post) -> None:
    post.cloud.fault(LIST, "unauthorized")
    post.ends(post.rent())
    with started("guard", "1", "--owner", MINE, env=environ(post)) as process:
        assert process.stdout
        out = "".join(
            itertools.takewhile(lambda line: "is gone" not in line, process.stdout)
        )  # until it says so
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert (
        process.returncode == 130
        and "Trying again" in out
        and "DELETING" in out
        and post.alive() == [False]
    )


def test_ctrl_c_during_a_deletion_ends_the_guard_and_names_the_instance(
    post: Post,
) -> None:
    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    post.rent(deadline=-HOUR, known=True)
    post.cloud.fault("POST /v1/instances/.*/delete", "status", times=None, status=500)
    with pytest.raises(KeyboardInterrupt, match="was being deleted.*may still bill"):
        run_forever(post.guard(sleep=pressed), 1.0)
    assert post.words == ["deleting"]


def test_what_nobody_guards_any_more_can_be_said(post: Post) -> None:
    post.rent()
    guard = post.guard()
    assert guard.unguarded == "" and guard.round() == 1
    assert guard.unguarded.startswith(
        f"no longer guarding instance {post.cloud.instances[0].id} of run "
    )


def test_a_deletion_that_cannot_be_recorded_counts_and_the_next_instance_follows(
    post: Post,
) -> None:
    plans = [post.rent(deadline=-HOUR, known=True) for _ in range(2)]
    for plan in plans:
        path = post.ledger.runs / f"{plan.run_id}.json"
        path.with_suffix(f".{os.getpid()}.tmp").mkdir()  # the place of a write is taken
    guard = post.guard()
    assert guard.round() == 0 and post.alive() == [False, False] and guard.failed == []


# ---- what no listing shows
def test_a_guard_that_cannot_read_the_account_names_the_ledgers_instances_and_commands(
    tmp_path: Path,
) -> None:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as cloud:
        cloud.fault(LIST, "unauthorized", times=None)
        told: list[Event] = []
        rounds = Guard(
            client(cloud), lambda i: None, told.append, entries=lambda: [Entry(a_plan(), "i-7")]
        )
        assert rounds.round() is None
        for part in ("i-7 ($33.60/h)", "just stop ab12cd34 --now"):
            assert part in rounds.failed[0] and part in told[0].text


def test_an_empty_listing_does_not_end_the_guard(
    tmp_path: Path,
) -> None:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as cloud:
        plan = a_plan(created_at=iso(now_utc()), deadline="2099-01-01T00:00:00Z")
        id = client(cloud).create(create_body(plan, "x"))
        told: list[Event] = []
        rounds = Guard(
            client(cloud),
            lambda i: InstanceFacts(i, plan),
            told.append,
            entries=lambda: [Entry(plan, id)],
        )
        assert rounds.round() == 1
        cloud.fault(LIST, "edit", change=lambda body: {"instances": []}, times=2)
        assert rounds.round() == 1 and [e.what for e in told] == ["guards"], (
            "it is looked at by its id"
        )
        cloud.fault(INFO, "html", times=None)
        assert (
            rounds.round() == 1
            and id in rounds.failed[0]
            and f"just stop {id} --now" in rounds.failed[0]
        )
        cloud.faults.clear()
        cloud.account.instances.clear()
        assert rounds.round() == 0 and told[-1].what == "gone"


def test_an_unclear_create_prevents_the_report_that_nothing_bills(
    tmp_path: Path,
) -> None:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as cloud:
        plan = a_plan(created_at=iso(now_utc()), deadline="2099-01-01T00:00:00Z")
        told: list[Event] = []
        rounds = Guard(client(cloud), lambda i: None, told.append, entries=lambda: [Entry(plan)])
        assert (
            rounds.round() == 1 and "UNKNOWN" in rounds.failed[0] and "$33.60/h" in rounds.failed[0]
        )
        rounds.round()
        assert [e.what for e in told] == ["unknown"], "it is told once"


@pytest.mark.parametrize(
    "price, stored, said",
    [
        (3360, "agreed", ""),
        (9999, "agreed", "it costs $99.99/h instead of $33.60/h"),
        (3360, None, "keeps no spend limit and no date"),
    ],
    ids=str,
)
def test_a_changed_price_or_limit_is_reported_once(
    price: int, stored: str | None, said: str
) -> None:
    plan = a_plan(
        created_at=iso(now_utc() - timedelta(minutes=10)), deadline="2099-01-01T00:00:00Z"
    )
    limits = Limits(plan.limit_cents, parse_time(plan.deadline)) if stored else None
    box = replace(
        instance_of(dict(id="i-7", name=plan.instance_name, status="active", hourly_price=price)),
        limits=limits,
    )
    told: list[Event] = []
    rounds = Guard(Account(box), lambda i: InstanceFacts(i, plan), told.append, now=now_utc)  # type: ignore[arg-type]
    rounds.round()
    rounds.round()
    assert [e.what for e in told] == ["guards"] + ["changed"] * bool(said) and said in told[-1].text


class Account:
    """An account with one machine."""

    def __init__(self, box: Instance) -> None:
        self.box = box

    def instances(self) -> list[Instance]:
        return [self.box]
