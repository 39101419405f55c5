"""`just guard --failover`: which runs it takes up, how often it tries, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.overdue import InstanceFacts
from nanolan.cost.spending import seen_cents
from nanolan.errors import (
    MachineFailed,
    MayBeBilling,
    NoOffer,
    PreflightFailed,
    RunFailed,
    Unreachable,
)
from nanolan.launch.claim import LaunchedElsewhere
from nanolan.manage.guard import Event, Guard, facts_reader
from nanolan.manage.guard_failover import (
    Failover,
    GuardWithFailover,
    agreed_for,
    not_as_rented,
    rule_text,
)
from nanolan.manage.takeover import NotYet
from nanolan.run.find import RunSearch
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Entry, Ledger, Waiting
from nanolan.shadeform.models import Limits, instance_of
from nanolan.sim.world import World
from nanolan.status.status import look
from nanolan.status.view import RunView
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import a_plan, creates, script
from tests.support.spot_fixtures import SPOT, SpotRun
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

OWNER = "0badcafe"
PLAN = structs.replace(
    a_plan(owner=OWNER, deadline=iso(now_utc() + timedelta(hours=9))),
    offer=structs.replace(a_plan().offer, spot=True, hourly_cents=2000),
)
TAKEN = (Attempt(1, "i-0", 500, "lost: preempted: x", 2676),)


class Means:
    """What the guard gets for a run: each try ends as the next of `ends` says."""

    hub: Any = None

    def __init__(self, *ends: Any) -> None:
        self.ends, self.tries = list(ends), list[tuple[Entry, Any]]()

    def run(self, entry: Entry, agreed: Any) -> Any:
        self.tries.append((entry, agreed))
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, BaseException):
            raise end
        return end


class Watch:
    """A guard's failover over a ledger, with views that a test chooses."""

    def __init__(self, home: Path, *ends: Any) -> None:
        self.ledger, self.events, self.means = Ledger(home), list[Event](), Means(*ends)
        self.view: Callable[[Entry], RunView] = lambda e: RunView(e, "lost", "preempted: x")
        self.failover = Failover(
            self.ledger,
            OWNER,
            lambda entry: self.means,  # type: ignore[arg-type,return-value]
            lambda entry: self.view(entry),
            self.events.append,
            start=lambda act: act(),
        )

    def rounds(self, count: int, alive: set[str] = frozenset()) -> int:  # type: ignore[assignment]
        for _ in range(count):
            left = self.failover.round(alive)
        return left

    @property
    def what(self) -> list[str]:
        return [e.what for e in self.events]


@pytest.fixture
def entry() -> Entry:
    return Entry(PLAN, "i-1")


# ---- which runs


@pytest.mark.parametrize(
    "entry, alive, view, tries",
    [
        (Entry(PLAN, "i-1"), set(), ("lost", "preempted: x"), 1),
        (Entry(PLAN, None, True, "create refused", None, TAKEN), set(), ("failed", ""), 1),
        (Entry(PLAN, "i-1"), {PLAN.run_id}, ("lost", "preempted: x"), 0),
        (Entry(PLAN, "i-1"), set(), ("lost", "the instance is gone"), 0),
        (Entry(PLAN, "i-1"), set(), ("unknown", "may bill"), 0),
        (Entry(PLAN, "i-1"), set(), ("training", ""), 0),
        (Entry(PLAN, "i-1", True, STOPPED_BY_USER), set(), ("lost", "preempted: x"), 0),
        (Entry(structs.replace(PLAN, owner="deadbeef"), "i-1"), set(), ("lost", "preempted: x"), 0),
        # its date has passed: of weeks ago, maybe
        (
            Entry(structs.replace(PLAN, deadline="2026-01-01T00:00:00Z"), "i-1"),
            set(),
            ("lost", "preempted: x"),
            0,
        ),
        (
            Entry(structs.replace(PLAN, offer=a_plan().offer), "i-1"),
            set(),
            ("lost", "preempted: x"),
            0,
        ),
    ],
)
def test_only_a_spot_run_of_this_owner_that_was_taken_away_is_taken_up(
    tmp_path: Path, entry: Entry, alive: set[str], view: tuple[str, str], tries: int
) -> None:
    watch = Watch(tmp_path, NotYet("later"))
    watch.ledger.put(entry)
    watch.view = lambda e: RunView(e, *view)
    watch.rounds(1, alive)
    assert len(watch.means.tries) == tries


@pytest.mark.parametrize(
    "end, again, what",
    [
        (NotYet("an offer"), True, "not yet"),
        (LaunchedElsewhere("by another"), True, "not yet"),
        (RunFailed("it has ended meanwhile"), True, "not taken up"),
        (Unreachable("the Hub is down"), True, "not yet"),
        (PreflightFailed("nothing is left"), False, "not taken up"),
        (NoOffer("no offer in a day"), False, "not taken up"),
        (MayBeBilling("UNKNOWN"), False, "unknown"),
        (MachineFailed("it was taken away while it booted"), True, "not taken up"),
        (RunFailed(f"run x was {STOPPED_BY_USER}"), False, "not taken up"),
        (ValueError("a bug"), False, "not taken up"),
        (None, True, "taken up"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else str(v),
)
def test_a_try_is_repeated_only_if_another_may_succeed_and_is_said_once(
    tmp_path: Path, entry: Entry, end: Any, again: bool, what: str
) -> None:
    watch = Watch(tmp_path, end)
    watch.ledger.put(entry)
    assert watch.rounds(3) == 0
    assert len(watch.means.tries) == (3 if again else 1)
    assert watch.what == ["taking up", what]


def test_a_failed_look_takes_nothing_up(tmp_path: Path, entry: Entry) -> None:
    watch = Watch(tmp_path, NotYet("later"))
    watch.ledger.put(entry)

    def fails(e: Entry) -> RunView:
        raise Unreachable("the Hub is down")

    for view in (fails, lambda e: RunView(e, "lost", "preempted: x", problems=("down",))):
        watch.view = view
        watch.rounds(2)
    assert watch.means.tries == [] and watch.what == ["trouble", "trouble"]


def test_a_run_is_never_taken_up_twice_at_once(tmp_path: Path, entry: Entry) -> None:
    waiting = list[Callable[[], None]]()
    watch = Watch(tmp_path, NotYet("later"))
    watch.failover._start = waiting.append
    watch.ledger.put(entry)
    assert watch.rounds(3) == 1 and len(waiting) == 1
    assert f"just status {PLAN.run_id}" in watch.failover.unfinished
    waiting.pop()()
    assert watch.failover.active == 0 and watch.failover.unfinished == ""


# ---- what it may cost


def test_the_price_is_the_dearest_that_was_agreed_to_and_the_limit_is_the_runs_own() -> None:
    assert agreed_for(Entry(PLAN, "i-1")).hourly_cents == 2000
    assert agreed_for(Entry(PLAN, "i-1", earlier=TAKEN)).hourly_cents == 2676
    assert agreed_for(Entry(PLAN, "i-1", earlier=TAKEN)).whole_cents is None
    # the offer of a run that waits is an example
    example = structs.replace(PLAN, offer=structs.replace(PLAN.offer, hourly_cents=13_000))
    waits = Entry(example, earlier=TAKEN, waiting=Waiting("", "", ""))
    assert agreed_for(waits).hourly_cents == 2676
    text = rule_text([Entry(PLAN, "i-1", earlier=TAKEN), Entry(a_plan(), "i-2")])
    assert "$26.76/h" in text and "$155.00" in text and text.count("run ab12cd34") == 1


def guarded(spend: int | None = 15_000, **changes: Any) -> InstanceFacts:
    instance = instance_of(
        {"id": "i-1", "name": PLAN.instance_name, "status": "active", "hourly_price": 2000}
    )
    limits = Limits(spend, None) if spend else None
    seen = structs.replace(PLAN, **changes)
    return InstanceFacts(replace(instance, limits=limits), seen)


@pytest.mark.parametrize(
    "facts, refused",
    [
        (guarded(), False),
        (guarded(limit_cents=15_001), True),  # somebody has written another plan
        (guarded(limit_cents=100), False),
        (guarded(None), False),
    ],
)
def test_a_plan_with_a_higher_limit_than_the_provider_keeps_is_not_taken_up(
    tmp_path: Path, facts: InstanceFacts, refused: bool
) -> None:
    assert bool(not_as_rented(facts)) is refused
    watch = Watch(tmp_path, NotYet("later"))
    watch.ledger.put(Entry(facts.plan or PLAN, "i-1"))
    watch.failover.watching(lambda i: facts)(facts.instance)
    watch.rounds(1)
    assert len(watch.means.tries) == (0 if refused else 1)


def test_what_the_guard_has_seen_of_the_bill_counts(tmp_path: Path) -> None:
    watch = Watch(tmp_path, NotYet("later"))
    facts = guarded()
    seen = replace(facts.instance, cost_cents=777, created_at=now_utc())
    watch.ledger.put(Entry(PLAN, "i-1"))
    watch.failover.watching(lambda i: InstanceFacts(seen, PLAN))(seen)
    cents = seen_cents(watch.ledger.find(PLAN.run_id), now_utc())
    assert 777 <= cents <= 777 + 2000 * 660 // 3600 + 1


# ---- the whole of it, in a world


@pytest.fixture
def run(world: World, tmp_path: Path) -> Iterator[SpotRun]:
    yield SpotRun(world, tmp_path / "home")
    world.cloud.account.now = time.time


@pytest.mark.slow
def test_a_guard_on_another_machine_takes_up_a_run_that_it_has_guarded(
    run: SpotRun, world: World, tmp_path: Path
) -> None:
    """Its ledger is empty: it knows the run from the account and the run folder."""
    run.launch()
    other = SpotRun(world, tmp_path / "guard", first=run)
    search = RunSearch(other.settings, other.hub, other.api.instances)
    events = list[Event]()
    failover = Failover(
        other.ledger,
        run.ledger.owner,
        lambda entry: other.take_over(),
        lambda entry: look(other.ledger, [entry], other.api, lambda e: other.hub).runs[0],
        events.append,
        start=lambda act: act(),
    )
    facts = facts_reader(search, other.ledger, run.ledger.owner, other.api.info)
    guard = GuardWithFailover(
        Guard(other.api, failover.watching(facts), events.append, now=now_utc), failover
    )
    assert guard.round() == 1
    other.sleep(900)
    other.preempt()
    assert guard.round() == 0
    assert guard.round() == 1
    assert [e.what for e in events if "tak" in e.what] == ["taking up", "taken up"]
    (entry,) = other.ledger.entries()
    assert entry.plan.attempt == 2 and entry.plan.owner == run.ledger.owner
    assert entry.plan.offer.hourly_cents <= SPOT.hourly_cents and creates(world.cloud) == 2
    run.laws()


def test_an_account_that_cannot_be_read_takes_nothing_up(tmp_path: Path, entry: Entry) -> None:
    watch = Watch(tmp_path, NotYet("later"))
    watch.ledger.put(entry)

    class Blind:
        alive: set[str] = set()

        def round(self) -> None:
            return None

        def report_failure(self, text: str) -> None: ...

    guard = GuardWithFailover(Blind(), watch.failover)  # type: ignore[arg-type]
    assert guard.round() is None and watch.means.tries == []


# ---- the command


def command(tmp_path: Path, *words: str) -> tuple[int, str]:
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_HOME": str(tmp_path),
        "NANOLAN_ENV_FILE": "/dev/null",
    }
    done = script("guard", *words, env=env)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["--failover"], "not agreed to: pass --yes; nothing was rented"),
        (["--failover", "--unit"], "not agreed to"),
        (["--yes"], "--yes is for --failover"),
        (["--failover", "--yes", "--any-owner"], "--any-owner goes without"),
    ],
)
def test_a_guard_that_may_rent_needs_a_yes_at_its_start(
    tmp_path: Path, words: list[str], said: str
) -> None:
    code, text = command(tmp_path, *words)
    assert code == 2 and said in text


def test_what_it_may_cost_is_said_before_the_question(tmp_path: Path, entry: Entry) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(Entry(structs.replace(PLAN, owner=ledger.owner), "i-1"))
    code, text = command(tmp_path, "--failover")
    assert code == 2 and "at most $20.00/h, $150.00 for all attempts of the run together" in text
    assert "12 instances a run" in text


def test_the_unit_of_a_guard_that_may_rent_says_so(tmp_path: Path) -> None:
    _, text = command(tmp_path, "--failover", "--yes", "--unit")
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert '"--failover" "--yes"' in start
    _, text = command(tmp_path, "--unit")
    assert "failover" not in text
