"""The guard: it deletes overdue instances and no others, and a failed request never causes a deletion or ends it."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.overdue import InstanceFacts
from nanolan.hub.client import Hub
from nanolan.launch.request import create_body
from nanolan.manage.guard import (
    SETTLE_S,
    Event,
    Guard,
    deletion_recorder,
    facts_reader,
    run_forever,
)
from nanolan.plan import Plan, new_run_id
from nanolan.redact import Secret
from nanolan.run.find import RunSearch
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import Receipt, to_json
from nanolan.settings.load import load_settings
from nanolan.shadeform.models import Instance, Limits, instance_of
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import INFO, LIST, QUICK, Waits, a_plan, client, script, started

MINE, THEIRS = "0badcafe", "11111111"
HOUR, LONG_AGO = timedelta(hours=1), "2026-01-01T00:00:00Z"


class Post:
    """The surroundings of a guard: an account, a Hub, a ledger, and the reported events."""

    def __init__(self, root: Path) -> None:
        self.cloud = ShadeformServer(root / "cloud", delays=QUICK, boxes=False)
        self.hub = HubServer(root / "hub", tokens=WRITERS)
        self.ledger, self.said = Ledger(root / "home"), list[Event]()

    def __enter__(self) -> Post:
        self.cloud.start()
        self.hub.start()
        self.hub.put(REPO, {"README.md": b"#"})
        return self

    def __exit__(self, *exc: object) -> None:
        self.cloud.stop()
        self.hub.stop()

    def rent(
        self,
        *,
        known: bool = False,
        deadline: timedelta = HOUR,
        tags: list[str] | None = None,
        **fields: Any,
    ) -> Plan:
        """A run with a machine, its plan on the Hub; `known`: in the guard's ledger too."""
        plan = a_plan(
            **(
                {
                    "run_id": new_run_id(),
                    "created_at": iso(now_utc()),
                    "deadline": iso(now_utc() + deadline),
                    "self_delete": False,
                    "shadeform_api": self.cloud.url,
                    "hf_endpoint": self.hub.url,
                    "hf_repo": REPO,
                    "runs_repo": REPO,
                }
                | fields
            )
        )
        body = create_body(plan, "x")
        self.hub.put(REPO, {f"{plan.folder}/plan.json": plan.to_json()})
        instance_id = client(self.cloud).create(
            body
            | {
                "tags": body["tags"] if tags is None else tags,
                "auto_delete": {"spend_threshold": "150.00"},
            }
        )
        if known:
            self.ledger.put(Entry(plan, instance_id))
        return plan

    def ends(self, plan: Plan, **fields: Any) -> None:
        """Its run is over, long ago: the receipt."""
        told = Receipt(
            plan.run_id,
            **({"verdict": "succeeded", "ended": LONG_AGO, "attempt": plan.attempt} | fields),
        )
        self.hub.put(REPO, {f"{plan.folder}/receipt.json": to_json(told)})

    def guard(self, owner: str | None = MINE, *, limits: Limits | None = None, **how: Any) -> Guard:
        s = load_settings(
            {}, {"HF_REPO": REPO, "HF_ENDPOINT": self.hub.url, "SHADEFORM_API": self.cloud.url}
        )
        api = client(self.cloud, **how)
        there = RunSearch(s, Hub(self.hub.url, Secret(TOKEN), patience_s=0), api.instances)

        def info(instance_id: str) -> Instance:
            found = api.info(instance_id)
            return replace(found, limits=limits or found.limits)

        return Guard(
            api,
            facts_reader(there, self.ledger, owner, info),
            self.said.append,
            gone=deletion_recorder(self.ledger, print),
            slack_s=1.0,
        )

    def alive(self) -> list[bool]:
        return [
            i.status not in ("deleting", "deleted")
            for i in sorted(self.cloud.instances, key=lambda i: i.created_at)
        ]

    @property
    def words(self) -> list[str]:
        return [e.what for e in self.said]

    @property
    def text(self) -> str:
        return "\n".join(e.text for e in self.said)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    with Post(tmp_path) as made:
        yield made


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


def environ(post: Post) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(post.ledger.home),
        "NANOLAN_HOME": str(post.ledger.home),
        "NANOLAN_ENV_FILE": "/dev/null",
        "SHADEFORM_API": post.cloud.url,
        "SHADEFORM_API_KEY": post.cloud.key,
        "HF_ENDPOINT": post.hub.url,
        "HF_TOKEN": TOKEN,
        "HF_REPO": REPO,
    }


def guard(post: Post, *words: str) -> Any:
    return script("guard", *words, env=environ(post))


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
