"""The laptop of a world: what its user types, each command to its end or until it is cut off."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from functools import partial
from typing import Any

from msgspec.structs import replace

from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.launch.failover import rent_with_failover
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.prepare import Prepared
from nanolan.manage.stop import Stop
from nanolan.manage.stop_request import stop_launch
from nanolan.manage.stop_target import find_target
from nanolan.plan import Pinned, Plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance as Seen
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer
from nanolan.sim.marker import MARKER, TWIST
from nanolan.status.orphans import compare
from nanolan.times import SERVICE_CLOCK, iso, now_utc, parse_time
from tests.support.core_fixtures import PLAN
from tests.support.life_clock import Actor, Clock
from tests.support.life_cloud import OFFERS, Cloud
from tests.support.life_hub import MemoryHub

START = 2_208_988_800.0  # 2040: no time of today gets in unseen
KEY, TOKEN = f"sk-{MARKER}/of+the=cloud{TWIST}", f"hf_{MARKER}_of_the_Hub"
REPO = PLAN.hf_repo
SEED = {
    "base_checkpoints/d20/model_000009.pt": b"a base " * 9,
    "base_checkpoints/d20/meta_000009.json": b"{}",
    "mid_checkpoints/d20/model_000010.pt": b"a model " * 9,
    "mid_checkpoints/d20/meta_000010.json": b"{}",
    "tokenizer/tokenizer.pkl": b"a tokenizer",
}
LIMIT_CENTS = 5000  # at $33.60 an hour: 89 minutes, of which training gets 61
TEND_S = 15.0  # how often the provider looks at its machines
LONGEST_S = 24 * 3600.0


@dataclass
class Outcome:
    """What one command on the laptop came to."""

    run_id: str
    value: Any = None
    error: BaseException | None = None
    off: bool = False  # the laptop was shut while it ran
    said: str = ""
    launch: bool = False
    kept: tuple[int, set[str]] = (
        0,
        set(),
    )  # price and limits of the machine it made, when it had ended


class Laptop:
    """Its commands; tests/support/life_world.py makes the rest of the world."""

    clock: Clock
    cloud: Cloud
    hub: MemoryHub
    ledger: Ledger
    settings: Settings
    plans: list[Plan]
    outcomes: list[Outcome]
    stopped: set[str]
    run: Callable[..., None]
    new_process: Callable[..., None]
    _saying: Outcome

    def laptop(
        self, run_id: str, act: Callable[[Outcome], object], cut: tuple[str, float] | None = None
    ) -> Outcome:
        """A command, to its end; cut=("ctrl-c" or "off", after seconds)."""
        outcome = self._saying = Outcome(run_id)
        self.new_process(None, "laptop")

        def command() -> None:
            outcome.value = act(outcome)

        actor = self.clock.spawn(command, None, "laptop")
        if cut:
            self.clock.at(self.clock.now + cut[1], partial(self._cut, actor, outcome, cut[0]))
        self.run(LONGEST_S, lambda: actor.done)
        outcome.error = actor.error
        if made := self.cloud.account.instances.get(getattr(outcome.value, "id", "")):
            outcome.kept = made.price_cents, set(made.spec.get("auto_delete") or {})
        if isinstance(actor.error, Exception) and not isinstance(actor.error, NanolanError):
            raise actor.error
        self.outcomes.append(outcome)
        return outcome

    def _cut(self, actor: Actor, outcome: Outcome, how: str) -> None:
        if actor.done:
            return
        if how == "ctrl-c":
            actor.throw = KeyboardInterrupt()
            self.clock.ready(actor)
        else:
            outcome.off = True
            self.clock.kill(lambda a: a is actor)

    def api(self) -> Shadeform:
        return Shadeform(
            self.settings.shadeform_api_key,
            PLAN.shadeform_api,
            session=self.cloud,
            sleep=self.clock.sleep,  # type: ignore[arg-type]
            jitter=lambda: 0.5,
        )

    def hub_client(self) -> Hub:
        return Hub(
            PLAN.hf_endpoint,
            self.settings.hf_token,
            sleep=self.clock.sleep,
            clock=self.clock.monotonic,
            api=self.hub,
            get=self.hub.get,
        )

    def launch(
        self,
        phases: tuple[str, ...],
        recipe: dict[str, int],
        cut: tuple[str, float] | None = None,
        stop_s: float | None = None,
        wait: bool = False,
        **fields: Any,
    ) -> Outcome:
        """just launch, from the consent on, with one other offer to fail over to; `stop_s` seconds later just stop, from elsewhere."""
        plan = self._plan(phases, recipe, **fields)
        self.plans.append(plan)
        offers = offers_here()
        policy = FailoverPolicy(1, offers[-1].hourly_cents, LIMIT_CENTS, wait=wait)

        def act(outcome: Outcome) -> Seen:
            outcome.launch = True
            SERVICE_CLOCK.learn(
                "Shadeform", formatdate(self.clock.now, usegmt=True)
            )  # the checks before the consent
            return rent_with_failover(
                Prepared(plan, offers[0], [], b"a bundle", False),
                offers,
                self.settings,
                self.api(),
                self.hub_client(),
                self.ledger,
                self.say,
                policy,
                clock=self.clock.monotonic,
            ).instance

        if stop_s is not None:
            self.clock.at(self.clock.now + stop_s, partial(self._stop_meanwhile, plan.run_id))
        return self.laptop(plan.run_id, act, cut)

    def _plan(self, phases: tuple[str, ...], recipe: dict[str, int], **fields: Any) -> Plan:
        born, number = self.clock.now, len(self.plans) + 1
        inputs = tuple(f for path, f in self.hub.pinned(REPO).items() if path in SEED)
        return replace(
            PLAN,
            run_id=f"{number:07d}a",
            created_at=iso(self.clock.utc()),
            limit_cents=LIMIT_CENTS,
            phases=phases,
            deadline=iso(
                parse_time(iso(self.clock.utc()))
                + _seconds(LIMIT_CENTS * 3600 / PLAN.offer.hourly_cents)
            ),
            output_tag=f"d20-{number}",
            recipe=recipe,
            hf_endpoint="https://hub.invalid",
            shadeform_api="https://api.invalid/v1",
            inputs=(Pinned(REPO, "model", self.hub.head(REPO).revision, inputs),) if born else (),
            upload_minutes=5.0,
            **fields,
        )

    def stop(self, entry: Entry, cut: tuple[str, float] | None = None) -> Outcome:
        """just stop --now, after its yes."""
        return self.laptop(entry.plan.run_id, lambda outcome: self._stop(entry.plan.run_id), cut)

    def _stop(self, run_id: str) -> None:
        """Every instance of the run, until it is seen to be gone; a launch that is under way rents no other."""
        api, clock, sleep = self.api(), self.clock.monotonic, self.clock.sleep
        if launching := self.ledger.is_launching(run_id):
            stop_launch(self.ledger, run_id, self.say, clock=clock, sleep=sleep)
        entry, present = find_target(self.ledger, api, self.settings, run_id, None, self.say)
        stop = Stop(
            self.ledger,
            api,
            self.settings,
            self.say,
            self.say,
            agree=lambda question: None,
            hub=lambda endpoint, token: self.hub_client(),
            clock=clock,
        )
        stop.delete(entry, list(present.billing))
        if launching:
            self.stopped.add(run_id)

    def _stop_meanwhile(self, run_id: str) -> None:
        def act() -> None:
            with contextlib.suppress(NanolanError):  # it says that it has not stopped it
                self._stop(run_id)

        self.new_process(None, "stop")
        self.clock.spawn(act, None, "stop")

    def orphans(self) -> Outcome:
        """just orphans."""
        return self.laptop(
            "",
            lambda outcome: compare(
                self.ledger.entries(), self.api().instances(), PLAN.owner, now_utc()
            ),
        )

    def entry(self, plan: Plan) -> Entry | None:
        """What the ledger knows of a run."""
        return next((e for e in self.ledger.entries() if e.plan.run_id == plan.run_id), None)

    def request_stop(self, plan: Plan) -> Outcome:
        """The user's word on the Hub."""
        word = json.dumps({"attempt": plan.attempt, "at": iso(self.clock.utc())}).encode()
        return self.laptop(
            plan.run_id,
            lambda outcome: self.hub_client().commit(
                plan.runs_repo, {f"{plan.folder}/stop.json": word}, "stop"
            ),
        )

    def say(self, text: str) -> None:
        self._saying.said += text + "\n"


def offers_here() -> list[Offer]:
    """The account's, by price."""
    found = [offer for entry in OFFERS for offer in offers_of(entry)]
    return [dataclasses.replace(offer, os_options=(PLAN.offer.os,)) for offer in found]


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=int(number))
