"""What the tests of waiting for an offer share: a wait whose time passes by sleeping alone, with events at given seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nanolan.launch.looks import POLITE, Rule
from nanolan.launch.prepare import Prepared
from nanolan.launch.wait import OfferWait
from nanolan.notify import Notifier
from nanolan.redact import Secret
from nanolan.run.ledger import Entry, Ledger
from nanolan.shadeform.offers import Offer, Wanted
from nanolan.sim.world import World
from nanolan.times import now_utc
from tests.support.core_fixtures import Waits, client
from tests.support.launch_fixtures import hub_of, ready, settings

HOUR = 3600.0


class Clock:
    """A clock that only `sleep` and `jump` move; an event happens once its second has passed."""

    def __init__(self) -> None:
        self.start, self.passed_s, self.naps = now_utc(), 0.0, list[float]()
        self._events: list[tuple[float, Callable[[], object]]] = []

    def at(self, second: float, event: Callable[[], object]) -> None:
        self._events.append((second, event))

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.passed_s)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.naps.append(seconds)
        self.passed_s += max(seconds, 0.001)
        due = [e for e in self._events if e[0] <= self.passed_s]
        self._events = [e for e in self._events if e not in due]
        for _, event in due:
            event()

    def jump(self, seconds: float) -> None:
        """The laptop sleeps, or its clock is set."""
        self.passed_s += seconds


def notifier_to(told: list[tuple[str, str, str]]) -> Notifier:
    """A notifier whose service collects (event, text, kind)."""

    def send(url: str, title: str, text: str, kind: str) -> str:
        told.append((title.partition(": ")[2], text, kind))
        return ""

    return Notifier(Secret("json://nowhere"), "run", send=send)


class Waited:
    """One wait in a world without stock, and what became of it."""

    def __init__(self, world: World, home: Path, hours: float = 12.0, **flags: str) -> None:
        world.cloud.switch("no_stock")
        self.world, self.clock, self.ledger = world, Clock(), Ledger(home)
        self.said, self.shown, self.told = list[str](), list[str](), list[tuple[str, str, str]]()
        self.settings = settings(world, **flags)
        self.prepared: Prepared = ready(world, **flags)
        self.run_id = self.prepared.plan.run_id
        self.api, self.hub = client(world.cloud, sleep=Waits()), hub_of(world, patience_s=0.1)
        self.looked: list[float] = []  # seconds at which types were asked for
        until = self.clock.start + timedelta(hours=hours)
        wanted = Wanted("B200", 8, max_price=self.settings.max_price)
        self.wait = OfferWait(
            Rule(wanted, "price", 15_000, until),
            self.settings,
            self.api,
            self.hub,
            self.ledger,
            lambda offer: 2000,
            again="just launch wait=12h",
            pace=POLITE,
            notifier=notifier_to(self.told),
            now=self.clock.now,
            sleep=self.clock.sleep,
            jitter=lambda: 0.5,
        )
        market = self.api.market

        def look(*args: Any) -> Any:
            self.looked.append(round(self.clock.passed_s))
            return market(*args)

        self.api.market = look  # type: ignore[method-assign]  # notes when, and asks the real one

    def stock_at(self, second: float) -> None:
        if second == 0:
            self.world.cloud.switch("no_stock", False)
        self.clock.at(second, lambda: self.world.cloud.switch("no_stock", False))

    def next(self, *, terminal: bool = False) -> tuple[Offer, ...]:
        now_line = self.shown.append if terminal else None
        self.prepared, offers = self.wait.next(
            self.prepared, (), 15_000, self.said.append, now_line
        )
        return offers

    @property
    def entry(self) -> Entry:
        return self.ledger.find(self.run_id)
