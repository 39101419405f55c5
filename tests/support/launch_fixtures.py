"""What the tests of renting, probation and fail-over share: a prepared run, and a world whose boxes a test plays by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from nanolan.hub.client import Hub
from nanolan.launch.failover import Launched, rent_with_failover
from nanolan.launch.make_plan import make_plan
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.preflight import Findings
from nanolan.launch.prepare import Prepared
from nanolan.plan import Code, Plan, new_run_id
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.run.record import PhaseReport, Progress, Receipt, to_json
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer, Wanted, choose
from nanolan.sim.hub.state import WRITER
from nanolan.sim.shadeform.instance import Instance
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import Waits, client

CODE = Code("c0ffee" * 6 + "c0ff", "5" * 64, 4, False)
B200 = choose([o for entry in SAMPLE for o in offers_of(entry)], Wanted("B200", 8))[
    0
]  # 33.60 35.84 38.40
NONE: dict[str, PhaseReport] = {"sft": PhaseReport("none")}


def settings(world: World, **flags: str) -> Settings:
    return load_settings(
        flags,
        {
            "SHADEFORM_API": world.cloud.url,
            "SHADEFORM_API_KEY": world.cloud.key,
            "HF_ENDPOINT": world.hub.url,
            "HF_TOKEN": WRITER,
            "HF_REPO": REPO,
        },
    )


def hub_of(world: World, **more: Any) -> Hub:
    return Hub(world.hub.url, Secret(WRITER), **more)


def ready(world: World, offer: Offer = B200[0], **flags: str) -> Prepared:
    """A run as if every check had passed."""
    s = settings(world, **flags)
    return Prepared(
        make_plan(s, offer, "0badcafe", new_run_id(), CODE, Findings([])), offer, [], b"code", False
    )


def tell(world: World, plan: Plan, value: Progress | Receipt, **changes: Any) -> None:
    """What a box leaves in its run folder."""
    value = msgspec.structs.replace(
        value, run_id=plan.run_id, **({"attempt": plan.attempt} | changes)
    )
    name = "receipt" if isinstance(value, Receipt) else "progress"
    world.hub.put(plan.runs_repo, {f"{plan.folder}/{name}.json": to_json(value)})


def progress(
    state: str, updated: str = "2026-01-28T20:53:39Z", phases: dict[str, PhaseReport] = NONE
) -> Progress:
    return Progress("", state, phases, updated)


def receipt(verdict: str, reason: str = "", message: str = "words") -> Receipt:
    return Receipt("", verdict, reason, message)


class Played(Waits):
    """Time that passes by sleeping alone, `least_s` at least; each time the newest box does what its part in `parts` says.

    A part is one for each attempt, the last one for the rest: a function of (world, plan, instance), called while it bills.
    """

    least_s = 60.0

    def __init__(
        self, world: World, ledger: Ledger, *parts: Callable[[World, Plan, Instance], None]
    ) -> None:
        super().__init__(0.02)
        self.now, self.world, self.ledger, self.parts = time.time(), world, ledger, parts

    def __call__(self, seconds: float) -> None:
        super().__call__(seconds)
        self.now += max(seconds, self.least_s)
        for entry in self.ledger.entries()[:1] if self.parts else []:
            boxes = [
                i
                for i in self.world.cloud.instances
                if i.id == entry.instance_id and i.status not in ("deleting", "deleted")
            ]
            if boxes:
                self.parts[min(entry.plan.attempt, len(self.parts)) - 1](
                    self.world, entry.plan, boxes[0]
                )

    def read(self) -> float:
        return self.now


def trains(world: World, plan: Plan, box: Instance) -> None:
    """A box that comes up and trains."""
    if box.status == "active":
        tell(world, plan, progress("training"))


def silent(world: World, plan: Plan, box: Instance) -> None:
    """A box of which nothing is heard."""


def fails(reason: str, verdict: str = "failed") -> Callable[[World, Plan, Instance], None]:
    """A box that comes up, leaves a receipt and deletes itself."""

    def part(world: World, plan: Plan, box: Instance) -> None:
        if box.status == "active":
            tell(world, plan, receipt(verdict, reason))
            world.cloud.account.delete(box.id)

    return part


class Launch:
    """One launch in a world: what it needs, what it said, and what became of it."""

    def __init__(
        self,
        world: World,
        home: Path,
        *parts: Callable[[World, Plan, Instance], None],
        **flags: str,
    ) -> None:
        self.world, self.ledger, self.said = world, Ledger(home), list[str]()
        self.heard: Callable[[str], None] = lambda text: None  # called with each line that is said
        self.time = Played(world, self.ledger, *(parts or (trains,)))
        self.settings, self.flags = settings(world, **flags), flags
        self.api, self.hub = client(world.cloud, sleep=self.time), hub_of(world, patience_s=0.1)

    def run(
        self,
        *,
        price: int = 9999,
        bill: int | None = None,
        offers: list[Offer] | None = None,
        first: Offer | None = None,
        **policy: Any,
    ) -> Launched:
        offers = B200 if offers is None else offers
        prepared = ready(self.world, first or offers[0], **self.flags)
        self.policy = FailoverPolicy(
            self.settings.failover,
            price,
            prepared.plan.limit_cents if bill is None else bill,
            **policy,
        )
        return rent_with_failover(
            prepared,
            offers,
            self.settings,
            self.api,
            self.hub,
            self.ledger,
            self.say,
            self.policy,
            clock=self.time.read,
        )

    def say(self, text: str) -> None:
        self.said.append(text)
        self.heard(text)

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    @property
    def boxes(self) -> list[Instance]:
        """Every machine that was ever rented, oldest first."""
        return sorted(self.world.cloud.instances, key=lambda i: i.created_at)

    @property
    def live(self) -> list[Instance]:
        return [i for i in self.boxes if i.status not in ("deleting", "deleted")]

    def never_two(self) -> bool:
        """Whether each machine stopped billing before the next one was created."""
        return all(
            a.ends_at <= b.created_at for a, b in zip(self.boxes, self.boxes[1:], strict=False)
        )
