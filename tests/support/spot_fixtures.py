"""A spot run in a world without boxes, on a clock that a test moves: launched, taken away, taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec

from nanolan.launch.failover import Launched, rent_with_failover
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.prepare import prepare
from nanolan.manage.run_budget import Agreed
from nanolan.manage.stop import Stop
from nanolan.manage.takeover import TakeOver
from nanolan.plan import Plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.presence import QUIET_LOCAL_S
from nanolan.run.record import PhaseReport, Progress, to_json
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer, Wanted, choose
from nanolan.sim.shadeform.instance import Instance
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.world import World
from nanolan.times import SERVICE_CLOCK, iso, now_utc
from tests.support.core_fixtures import client
from tests.support.launch_fixtures import hub_of, settings
from tests.support.prepare_fixtures import bundled

SPOT = choose([o for e in SAMPLE for o in offers_of(e, "only")], Wanted("B200", 8))[0][0]
BEAT_S = 300.0
LIMIT_CENTS = 15_000
UNLIMITED_S = 600.0  # an instance whose limits the account lost is deleted within this


class SpotRun:
    """One laptop's side of a run; several of them may share a world, and then the clock of the first."""

    def __init__(
        self, world: World, home: Path, *, first: SpotRun | None = None, **flags: str
    ) -> None:
        self.world, self.ledger, self.said = world, Ledger(home), list[str]()
        self.flags = {"spot": "only", "phase": "sft", "eval": "none"} | flags
        self.settings = settings(world, **self.flags)
        self.heard: Callable[[str], object] = lambda text: None
        self.trains, self.beat_s = True, BEAT_S
        self.real_s = 0.0  # that a sleep takes
        self.next: list[tuple[float, Callable[[], object]]] = []  # (moment, what happens then)
        self._first, self._now = first, time.time()
        self._beat = 0.0
        if first is None:
            world.cloud.account.now = lambda: self.now
        self.hub = hub_of(world, patience_s=0.1)
        self.api = client(world.cloud, sleep=self.sleep)
        self.learn()

    # ---- time

    @property
    def now(self) -> float:
        return self._first.now if self._first else self._now

    @now.setter
    def now(self, moment: float) -> None:
        if self._first:
            self._first.now = moment
        else:
            self._now = moment

    def learn(self) -> None:
        """What time it is, as answers of Shadeform would tell."""
        SERVICE_CLOCK.forget()
        SERVICE_CLOCK.learn("Shadeform", formatdate(self.now, usegmt=True))

    def sleep(self, seconds: float) -> None:
        """Time passes in steps of at most a minute; boxes report and what was planned happens."""
        end = self.now + max(seconds, 1.0)
        time.sleep(self.real_s)
        while self.now < end:
            self.now = min(self.now + 60.0, end)
            self.learn()
            self.world.cloud.account.enforce()
            for due in [n for n in self.next if n[0] <= self.now]:
                self.next.remove(due)
                due[1]()
            self._report()

    def _report(self) -> None:
        """The heartbeat of the box that trains."""
        if not self.trains or self.now - self._beat < self.beat_s and self._told:
            return
        for i in self.live:
            if i.status_at(self.now) == "active" and self.plan_of(i):
                self._beat, self._told = self.now, True
                self.tell(i)

    _told = False

    def tell(self, instance: Instance) -> None:
        plan = self.plan_of(instance)
        if plan is None:
            return
        cents = int(instance.cost_at(self.now) * 100)
        beat = Progress(
            plan.run_id,
            "training",
            {"sft": PhaseReport("training")},
            iso(now_utc()),
            spent_cents=cents,
            attempt=plan.attempt,
        )
        self.world.hub.put(plan.runs_repo, {f"{plan.folder}/progress.json": to_json(beat)})

    def plan_of(self, instance: Instance) -> Plan | None:
        """The plan by which an instance was created, by the run folder."""
        run_id = instance.name.rsplit("-", 1)[-1]
        entry = next((e for e in self.ledger.entries() if e.plan.run_id == run_id), None)
        if entry is None:
            return None
        raw = self.world.hub.read(entry.plan.runs_repo, f"{entry.plan.folder}/plan.json")
        plan = msgspec.json.decode(raw, type=Plan)
        return plan if plan.instance_name == instance.name else None

    # ---- the laptop

    def say(self, text: str) -> None:
        self.said.append(text)
        self.heard(text)

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def launch(self, offer: Offer = SPOT, limit_cents: int = LIMIT_CENTS) -> Launched:
        """The first attempt, until it trains."""
        ready = prepare(
            self.settings,
            offer,
            self.ledger.owner,
            self.hub,
            self.api.instances,
            code_of=lambda run_id: bundled(),
        )
        assert ready.failed == [], [c.line() for c in ready.failed]
        return rent_with_failover(
            ready,
            [],
            self.settings,
            self.api,
            self.hub,
            self.ledger,
            self.say,
            FailoverPolicy(3, offer.hourly_cents, limit_cents),
            clock=lambda: self.now,
        )

    @property
    def entry(self) -> Entry:
        return self.ledger.entries()[0]

    def take_over(self, **more: Any) -> TakeOver:
        times: dict[str, Any] = {"now": now_utc, "sleep": self.sleep, "clock": lambda: self.now}
        options = times | {"wait_s": 1800.0} | more
        return TakeOver(self.ledger, self.settings, self.api, self.hub, self.say, **options)

    def take_up(self, agreed: Agreed | None = None) -> Launched | None:
        agreed = agreed or Agreed(SPOT.hourly_cents)
        return self.take_over().run(self.entry, agreed)

    def stop(self, agree: Callable[[str], None] = lambda question: None) -> Stop:
        """`just stop` on this laptop; `agree` is asked its questions."""
        return Stop(
            self.ledger,
            self.api,
            self.settings,
            self.say,
            self.say,
            agree,
            hub=lambda endpoint, token: self.hub,
            clock=lambda: self.now,
        )

    # ---- the account

    @property
    def boxes(self) -> list[Instance]:
        """Every instance that ever was, oldest first."""
        ours = [i for i in self.world.cloud.instances if not i.foreign]
        return sorted(ours, key=lambda i: i.created_at)

    @property
    def live(self) -> list[Instance]:
        return [i for i in self.boxes if i.status_at(self.now) not in ("deleting", "deleted")]

    def preempt(self, notice: bool = True, settle_s: float = QUIET_LOCAL_S) -> None:
        """The provider takes the instance away; with notice it shows why for a moment."""
        for i in self.live:
            i.delete(self.now, "preempted" if notice else "asked")
        if settle_s:
            self.sleep(settle_s)

    # ---- what must be true of any history

    def laws(self, limit_cents: int = LIMIT_CENTS) -> None:
        """Never two instances of the run, and never a create whose worst case, with what was spent before, passes the limit."""
        spent = 0.0
        for number, i in enumerate(self.boxes):
            before = self.boxes[:number]
            alive = [b.name for b in before if b.ends_at > i.created_at]
            assert not alive, f"{i.name} was created while {alive} billed"
            spent = sum(100 * float(b.cost_at(i.created_at)) for b in before)
            worst = _worst_cents(i)
            assert spent + worst <= limit_cents + 1, (
                f"{i.name}: {spent:.0f} + {worst:.0f} of {limit_cents} cents"
            )
        names = [i.name for i in self.boxes]
        assert len(names) == len(set(names)), names


def _worst_cents(i: Instance) -> float:
    """What an instance can cost by the provider's limit; if the account lost that, what it has cost until its early deletion."""
    limits = i.spec.get("auto_delete")
    if limits:
        return 100 * float(limits["spend_threshold"])
    lived_s = i.ends_at - i.created_at
    assert lived_s <= UNLIMITED_S, f"{i.name} has no limit and lived {lived_s:.0f} s"
    return 100 * float(i.cost_at(i.ends_at))
