"""Over any sequence of preemptions and outcomes: never two instances of a run, never a worst case above its limit, nothing after
a stop or an unclear create.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling, NanolanError, RunFailed
from nanolan.manage.run_budget import Agreed
from nanolan.manage.stop_request import ask_to_stop
from nanolan.manage.takeover import NotYet
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.sim.world import World
from nanolan.status.status import look
from tests.support.core_fixtures import CREATE, LIST, QUICK, creates
from tests.support.spot_fixtures import LIMIT_CENTS, SPOT, SpotRun

ROUNDS = 6


@pytest.fixture
def world(tmp_path: Path, seed_cache: Path) -> Iterator[World]:
    """One for each history: thousands of heartbeats are commits, and each makes the next ones slower."""
    with World(tmp_path / "world", cache=seed_cache, delays=QUICK, boxes=False) as world:
        yield world


class History:
    """A run, a second laptop that has its entry, and what befalls them."""

    def __init__(self, world: World, home: Path, seed: int) -> None:
        self.dice, self.world = random.Random(seed), world
        self.run = SpotRun(world, home / "one")
        self.other = SpotRun(world, home / "other", first=self.run)
        self.stopped_at: int | None = None  # creates until then; None: not stopped
        self.unclear = False

    def live(self) -> None:
        """The instance trains for a while; the laptop looks at it; then it is taken away."""
        self.run.trains = self.dice.random() < 0.8  # else its box cannot report
        for _ in range(self.dice.choice([1, 3, 8])):
            self.run.sleep(self.dice.choice([60, 300, 700]))
            look(self.run.ledger, [self.run.entry], self.run.api, lambda e: self.run.hub)
        self.run.preempt(notice=self.dice.random() < 0.5)
        self.run.trains = True

    # ---- what may go wrong while it is taken up

    def nothing(self) -> None:
        """All goes well."""

    def sold_out(self) -> None:
        self.world.cloud.fault(CREATE, "out_of_stock", times=self.dice.randint(1, 3))

    def answer_lost(self) -> None:
        self.world.cloud.fault(CREATE, "reset_after_effect")

    def never_arrived(self) -> None:
        self.world.cloud.fault(CREATE, self.dice.choice(["reset", "internal_error"]))

    def dearer(self) -> None:
        self.world.cloud.switch("price_differs", 9999, times=1)

    def limits_lost(self) -> None:
        self.world.cloud.switch("auto_delete_not_stored", 2)

    def list_lags(self) -> None:
        self.world.cloud.switch("list_lag", 90.0, times=1)

    def account_down(self) -> None:
        self.world.cloud.fault(LIST, "status", times=self.dice.randint(1, 9))

    def hub_down(self) -> None:
        file = self.dice.choice(["progress", "receipt", "launch", "stop", "plan"])
        self.world.hub.fault(f"GET .*/{file}.json", status=503, times=self.dice.randint(1, 6))

    def commit_lost(self) -> None:
        self.world.hub.fault("POST .*/commit/", "committed_reply_lost")

    def taken_away_while_it_boots(self) -> None:
        self.at("waiting until it trains", lambda: self.run.preempt(settle_s=0))

    def stop(self) -> None:
        def act() -> None:
            plan = self.run.entry.plan
            if self.dice.random() < 0.5:
                self.run.ledger.ask_to_stop(plan.run_id)
            else:
                self.other.hub.commit(
                    plan.runs_repo, {f"{plan.folder}/note": b"x"}, "something else"
                )
                ask_to_stop(self.other.hub, structs.replace(plan, attempt=1))
            self.stopped_at = creates(self.world.cloud)

        moment = self.dice.choice(["", "Bill:", "offer fits"])
        self.at(moment, act) if moment else act()

    def second_laptop(self) -> None:
        """It takes the run up at the same time, from what its ledger has."""
        if not self.other.ledger.entries():
            self.other.ledger.put(self.run.entry)

        def act() -> None:
            try:
                self.other.take_up(Agreed(SPOT.hourly_cents, LIMIT_CENTS))
            except MayBeBilling:
                self.unclear = True
            except NanolanError:
                pass

        self.at(self.dice.choice(["offer fits", "Bill:", "creating lanbot", "read back"]), act)

    def at(self, words: str, act: Callable[[], object]) -> None:
        """Do it once, as soon as the laptop says these words."""
        done = list[str]()

        def heard(text: str) -> None:
            if words in text and not done:
                done.append(text)
                act()

        self.run.heard = heard

    # ---- taking up

    def take_up(self) -> None:
        """As often as a launch or a guard would try."""
        for _ in range(4):
            look(self.run.ledger, [self.run.entry], self.run.api, lambda e: self.run.hub)
            before = creates(self.world.cloud)
            try:
                self.run.take_up(Agreed(SPOT.hourly_cents, LIMIT_CENTS))
                return
            except MayBeBilling:
                self.unclear = True
                return
            except NotYet:
                self.run.sleep(150)
            except RunFailed as e:
                assert STOPPED_BY_USER not in str(e) or self.stopped_at is not None
            except NanolanError:
                pass
            if self.stopped_at is not None:
                assert creates(self.world.cloud) in (before, self.stopped_at)

    def laws(self) -> None:
        self.run.laws()
        if self.stopped_at is not None and not self.unclear:
            assert creates(self.world.cloud) <= self.stopped_at, "a create after a stop"

    def play(self) -> None:
        self.run.launch()
        troubles = [
            self.nothing,
            self.nothing,
            self.sold_out,
            self.answer_lost,
            self.dearer,
            self.limits_lost,
            self.list_lags,
            self.account_down,
            self.hub_down,
            self.commit_lost,
            self.taken_away_while_it_boots,
            self.second_laptop,
            self.second_laptop,
            *([self.never_arrived, self.stop] if self.dice.random() < 0.6 else []),
        ]
        for _ in range(ROUNDS):
            self.live()
            self.laws()
            self.dice.choice(troubles)()
            self.take_up()
            self.laws()
            self.run.heard = lambda text: None
            self.world.hub.faults.clear()
            self.world.cloud.faults.clear()
            if self.unclear or self.stopped_at is not None:
                break
        creates_then = creates(self.world.cloud)
        if self.unclear or self.stopped_at is not None:
            self.run.sleep(200)
            self.take_up()
            assert creates(self.world.cloud) == creates_then, (
                "a create after an unclear one, or a stop"
            )
        self.laws()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 26))]
)
def test_the_laws_hold_over_any_history(world: World, tmp_path: Path, seed: int) -> None:
    try:
        History(world, tmp_path, seed).play()
    finally:
        world.cloud.account.now = time.time
