"""A launch that waits for an offer: at most one create an attempt, none after a stop or the end of its time."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import (
    InsufficientFunds,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    NoOffer,
    RunFailed,
)
from nanolan.launch.failover import Launched
from nanolan.launch.looks import POLITE, Rule
from nanolan.launch.wait import OfferWait
from nanolan.run.ledger import STOPPED_BY_USER, Entry
from nanolan.shadeform.offers import Wanted
from nanolan.sim.world import World
from tests.support.core_fixtures import CREATE, LIST, creates
from tests.support.failover_fixtures import FIRST, SECOND
from tests.support.launch_fixtures import Launch, fails, trains
from tests.support.wait_fixtures import HOUR, Clock, notifier_to
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


class WaitingLaunch(Launch):
    """A launch that waits up to 12 hours by its own clock; `created` are the seconds at which it sent a create."""

    def __init__(self, world: World, home: Path, *parts: Any, **flags: str) -> None:
        super().__init__(world, home, *parts, **flags)
        self.clock, self.created, self.sent = Clock(), list[float](), list[tuple[str, str, str]]()
        create = self.api.create

        def noted(body: dict[str, Any]) -> str:
            self.created.append(self.clock.passed_s)
            return create(body)

        self.api.create = noted  # type: ignore[method-assign]  # notes when, and sends it

    def wait_and_rent(self, hours: float = 12.0, price: int = 0, **policy: Any) -> Launched:
        until = self.clock.start + timedelta(hours=hours)
        wait = OfferWait(
            Rule(Wanted("B200", 8), "price", 15_000, until),
            self.settings,
            self.api,
            self.hub,
            self.ledger,
            lambda offer: 2000,
            pace=POLITE,
            notifier=notifier_to(self.sent),
            now=self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: 0.5,
        )
        return self.run(price=price, offers=[FIRST], offer_wait=wait, **policy)

    @property
    def told(self) -> list[str]:
        return [event for event, _, _ in self.sent]

    @property
    def entry(self) -> Entry:
        return self.ledger.entries()[0]


@pytest.fixture
def launch(world: World, tmp_path: Path) -> WaitingLaunch:
    return WaitingLaunch(world, tmp_path)


def stock_at(launch: WaitingLaunch, second: float, there: bool = True) -> None:
    launch.clock.at(second, lambda: launch.world.cloud.switch("no_stock", not there))


# ---- it rents
def test_it_rents_once_there_is_stock_and_ends_like_any_launch(launch: WaitingLaunch) -> None:
    launch.world.cloud.switch("no_stock")
    stock_at(launch, 3 * HOUR)
    launched = launch.wait_and_rent()
    assert (launched.prepared.offer, launched.earlier) == (FIRST, ()) and len(launch.live) == 1
    assert launch.entry.instance_id == launched.instance.id and launch.entry.waiting is None
    assert launch.told == ["rented"] and launch.created == [pytest.approx(3 * HOUR, abs=190)]


def test_the_plan_is_made_when_it_rents_so_that_its_deadline_is_no_hours_old(
    launch: WaitingLaunch,
) -> None:
    launch.heard = lambda text: None
    launched = launch.wait_and_rent()
    assert launched.prepared.life_s > HOUR and launched.prepared.plan.attempt == 1


# ---- the create is refused
def test_a_stock_out_at_the_create_goes_on_waiting_and_never_ends_the_launch(
    launch: WaitingLaunch,
) -> None:
    launch.world.cloud.fault(CREATE, "out_of_stock", times=9)
    launched = launch.wait_and_rent()
    assert launched.prepared.plan.attempt == 10 == len(launch.created)
    assert [a.spent_cents for a in launched.earlier] == [0] * 9 and len(launch.live) == 1


def test_an_offer_that_never_is_what_the_list_says_costs_few_creates(launch: WaitingLaunch) -> None:
    launch.world.cloud.fault(CREATE, "out_of_stock", times=None)
    with pytest.raises(NoOffer):
        launch.wait_and_rent(hours=3)
    assert creates(launch.world.cloud) <= 3 * 7 and launch.told == ["gave up"]  # three offers


@pytest.mark.parametrize(
    "action, params",
    [
        ("rate_limit", {}),
        ("status", {"status": 400, "body": {"error": "no such os"}}),
        ("not_found", {}),
    ],
    ids=str,
)
def test_other_definite_refusals_of_a_create_go_on_waiting_too(
    launch: WaitingLaunch, action: str, params: dict[str, Any]
) -> None:
    launch.world.cloud.fault(CREATE, action, times=2, **params)
    assert launch.wait_and_rent().prepared.plan.attempt == 3 and len(launch.live) == 1


def test_an_empty_wallet_ends_it(launch: WaitingLaunch) -> None:
    launch.world.cloud.fault(CREATE, "insufficient_funds")
    with pytest.raises(InsufficientFunds):
        launch.wait_and_rent()
    assert len(launch.created) == 1 and launch.told == ["gave up"]


def test_a_lost_answer_to_a_create_never_leads_to_another_look_or_create(
    launch: WaitingLaunch,
) -> None:
    launch.world.cloud.fault(CREATE, "reset")
    looks = []
    launch.heard = lambda text: looks.append(text) if "offers fit" in text else None
    with pytest.raises(MayBeBilling):
        launch.wait_and_rent()
    assert len(launch.created) == len(looks) == 1
    assert not launch.entry.gone and launch.entry.waiting is None and launch.told == ["gave up"]


def test_a_lost_answer_whose_instance_is_listed_is_that_instance(launch: WaitingLaunch) -> None:
    launch.world.cloud.fault(CREATE, "reset_after_effect")
    launched = launch.wait_and_rent()
    assert len(launch.created) == 1 and launch.live == launch.boxes and launched.earlier == ()


# ---- before the create
@pytest.mark.parametrize(
    "service, match",
    [("hub", "POST .*/commit/"), ("cloud", LIST)],
)
def test_a_service_that_fails_just_before_the_create_is_waited_for(
    launch: WaitingLaunch, service: str, match: str
) -> None:
    times = 4 if service == "cloud" else 1  # the client repeats a read
    getattr(launch.world, service).fault(match, "status", times=times, status=503)
    launched = launch.wait_and_rent()
    assert len(launch.created) == 1 and len(launch.live) == 1
    plan = launched.prepared.plan
    assert launch.hub.read(plan.runs_repo, f"{plan.folder}/code.bundle") == b"code"


def test_a_stop_between_the_look_and_the_create_rents_nothing(launch: WaitingLaunch) -> None:
    launch.heard = lambda text: (
        launch.ledger.ask_to_stop(launch.entry.plan.run_id) if "creating lanbot" in text else None
    )
    with pytest.raises(RunFailed, match=STOPPED_BY_USER):
        launch.wait_and_rent()
    assert launch.created == [] and launch.entry.note == STOPPED_BY_USER and launch.told == []


def test_a_time_that_ends_between_the_look_and_the_create_rents_nothing(
    launch: WaitingLaunch,
) -> None:
    launch.heard = lambda text: launch.clock.jump(13 * HOUR) if "creating lanbot" in text else None
    with pytest.raises(NoOffer):
        launch.wait_and_rent()
    assert launch.created == []


# ---- after the create
def test_an_instance_that_fails_probation_is_followed_by_the_next_offer(
    world: World, tmp_path: Path
) -> None:
    launch = WaitingLaunch(world, tmp_path, fails("boot_failed"), trains)
    launched = launch.wait_and_rent(price=4000)
    assert launched.prepared.offer == SECOND and launched.prepared.plan.attempt == 2
    assert launch.never_two() and len(launch.live) == 1


def test_when_no_further_offer_may_be_tried_a_failed_instance_ends_it_as_in_any_launch(
    world: World, tmp_path: Path
) -> None:
    launch = WaitingLaunch(world, tmp_path, fails("boot_failed"))
    with pytest.raises(MachineFailed, match=r"dearer than the \$33.60/h agreed to"):
        launch.wait_and_rent()
    assert len(launch.created) == 1 and launch.live == []


def test_no_other_offer_is_tried_after_the_time_is_over(world: World, tmp_path: Path) -> None:
    def late(world: World, plan: Any, box: Any) -> None:
        launch.clock.jump(13 * HOUR)
        fails("boot_failed")(world, plan, box)

    launch = WaitingLaunch(world, tmp_path, late)
    with pytest.raises(MachineFailed, match="the wait ended at"):
        launch.wait_and_rent(hours=12)
    assert len(launch.created) == 1 and launch.live == []


def test_what_a_failed_instance_cost_counts_when_it_waits_again(
    world: World, tmp_path: Path
) -> None:
    launch = WaitingLaunch(world, tmp_path, fails("boot_failed"), trains)
    launch.world.cloud.fault(CREATE, "out_of_stock", skip=1, times=2)
    launched = launch.wait_and_rent(price=9999)
    spent = sum(a.spent_cents or 0 for a in launched.earlier)
    assert len(launched.earlier) == 3 and launched.prepared.plan.limit_cents == 15_000 - spent


# ---- the law, over many random launches
def trouble(world: World, dice: random.Random) -> None:
    """A few creates that go wrong, each in its own way."""
    for _ in range(dice.randint(0, 4)):
        action, params = dice.choice(
            [
                ("out_of_stock", {}),
                ("rate_limit", {}),
                ("status", {"status": 400}),
                ("reset_after_effect", {}),
                ("reset", {}),
                ("status", {"status": 500}),
                ("insufficient_funds", {}),
            ]
        )
        world.cloud.fault(CREATE, action, skip=dice.randint(0, 1), **params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 5)) for seed in range(40)]
)
def test_creates_are_at_most_one_an_attempt_and_none_after_a_stop_or_the_end(
    world: World, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    ends_h, stop_s = dice.choice([0.02, 1, 4]), dice.choice([None, 100.0, 2 * HOUR])
    part: Callable[..., None] = dice.choice([trains, fails("boot_failed")])
    launch = WaitingLaunch(world, tmp_path, part)
    trouble(world, dice)
    world.cloud.switch("no_stock")
    for number in range(6):
        stock_at(launch, dice.uniform(0, 1.5) * number * HOUR, dice.random() < 0.7)
    if stop_s is not None:
        launch.clock.at(stop_s, lambda: launch.ledger.ask_to_stop(launch.entry.plan.run_id))
    try:
        launch.wait_and_rent(hours=ends_h)
    except NanolanError as e:
        ended: NanolanError | None = e
    else:
        ended = None
    attempts = [e.get("tags") for e in (r.body for r in world.cloud.requests) if e and "tags" in e]
    numbers = [
        next(t for t in tags if t.startswith("nanolan-attempt=")) for tags in attempts if tags
    ]
    assert len(numbers) == len(set(numbers)) == len(launch.created)
    assert all(second < ends_h * HOUR for second in launch.created)
    assert stop_s is None or all(second <= stop_s + 1 for second in launch.created)
    assert len(launch.live) <= 1 and launch.never_two()
    assert bool(launch.live) <= (ended is None or ended.exit_code == 8), "it says what bills"
