"""The same histories without a Shadeform key on the machines, and a guard on another computer that has to delete them.

Its laws beside those of tests/support/life_laws.py: a machine asks Shadeform nothing, and the guard deletes none that is neither over nor
past its limits, whatever it can see.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from nanolan.hub.client import Hub
from nanolan.manage.guard import Event, Guard, facts_reader
from nanolan.run.find import RunSearch
from nanolan.run.ledger import Ledger
from nanolan.run.record import read_receipt
from nanolan.sim.shadeform.http import OPEN
from nanolan.times import parse_time
from tests.promises.test_life import QUIET, STEPS, Life
from tests.support.core_fixtures import PLAN
from tests.support.life_box import Box
from tests.support.life_cloud import Request
from tests.support.life_laptop import KEY, REPO, Outcome
from tests.support.life_laws import Laws
from tests.support.life_world import World

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "a library in the trainer prints the token"
)
EVERY_S, SLACK_S = 60.0, 60.0


class KeylessWorld(World):
    """A world whose machines get no key, with a guard on a computer that has never heard of the runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings = dataclasses.replace(self.settings, self_delete=False)
        self.events = list[Event]()
        self.clock.spawn(self._guard, None, "guard")

    def _plan(self, *args: Any, **fields: Any) -> Any:
        return super()._plan(*args, self_delete=False, **fields)

    def _guard(self) -> None:
        """just guard --owner ..."""
        c, api = self.clock, self.api()
        hub = Hub(
            "https://hub.invalid",
            self.settings.hf_token,
            patience_s=10,
            sleep=c.sleep,
            clock=c.monotonic,
            api=self.hub,
            get=self.hub.get,
        )
        s = dataclasses.replace(
            self.settings, hf_endpoint="https://hub.invalid", shadeform_api="https://api.invalid/v1"
        )
        look = facts_reader(
            RunSearch(s, hub, api.instances), Ledger(self.root / "elsewhere"), PLAN.owner, api.info
        )
        guard = Guard(
            api, look, self.events.append, clock=c.monotonic, slack_s=SLACK_S, sleep=c.sleep
        )
        while True:
            guard.round()
            c.sleep(EVERY_S)


class KeylessLaws(Laws):
    """What differs for them."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.grace_s = (
            2 * EVERY_S + 2 * SLACK_S
        )  # a limit is the guard's to keep where the provider does not

    def _heard(self, request: Request) -> None:
        super()._heard(request)
        box, program = request.who or (None, "")
        if box is not None and not (
            program == "deadman" and request.path.endswith(OPEN)
        ):  # what time it is, without a key
            self.w.broken(
                f"{program} of a machine without a key asks Shadeform: {request.method} {request.path}"
            )
        if program == "guard" and request.path.endswith("/delete"):
            self._by_guard(request.path.split("/")[-2])

    def _by_guard(self, instance_id: str) -> None:
        i = self.w.cloud.account.instances[instance_id]
        plan, now = self._plan_of(i), self.w.clock.utc()
        raw = self.w.hub.head(REPO).files.get(f"{plan.folder}/receipt.json")
        late = (
            now >= parse_time(plan.deadline)
            or float(i.cost_at(self.w.clock.now)) * 100 >= plan.limit_cents
        )
        if not late and not (
            raw and now - parse_time(read_receipt(raw).ended) >= timedelta(seconds=SLACK_S)
        ):
            self.w.broken(f"the guard deletes {i.name}, which is neither over nor past its limits")
        box = self.w.boxes.get(instance_id)
        if box and raw and not late:  # what it leaves behind is on the Hub, or was said
            self._delete(
                Request("POST", f"/{instance_id}/", None, self.w.clock.now, (box, "guard")),
                box,
                "guard",
            )

    def _left(self, box: Box) -> None:
        if (
            self.w.cloud.billing(box.instance)
            and self.w.clock.now < box.deadline
            and "waits for just guard" not in box.said
        ):
            self.w.broken(
                f"the box program left a machine that bills and did not say so: {box.said[-300:]}"
            )

    def _backstop(self, box: Box, what: str) -> None:
        """The provider's limits are one of the two ways in which such a machine ends."""

    def _told(self, o: Outcome) -> None:
        super()._told(o)
        assert KEY not in o.said


class KeylessLife(Life):
    """The histories."""

    def __init__(self) -> None:
        super().__init__()
        self.w.close()
        self.w = KeylessWorld()
        self.laws = KeylessLaws(self.w)

    def no_limit_is_known(self) -> None:
        """A guard that sees neither the plan (on a Hub that is down) nor the provider's limits has no reason to delete."""
        if "auto_delete" in self.w.cloud.odd_fields:
            self.laws.grace_s += max(0.0, self.w.hub.down_until - self.w.clock.now)


def test_a_run_is_over_and_the_guard_deletes_its_machine_a_minute_or_two_later() -> None:
    world = KeylessWorld(provider=False)
    try:
        laws = KeylessLaws(world)
        world.launch(("sft",), {"steps": 10, "step_s": 60, "save_every": 3})
        world.run_on()
        laws.at_the_end()
        (i,) = world.cloud.ours
        assert i.why == "asked" and [e.what for e in world.events] == [
            "guards",
            "guards",
            "deleting",
            "deleted",
        ]
        ended = parse_time(
            read_receipt(world.hub.head(REPO).files[f"{world.plans[0].folder}/receipt.json"]).ended
        ).timestamp()
        assert (
            SLACK_S <= i.deleting_at - ended <= SLACK_S + EVERY_S + 10
            and "sft" in world.boxes[i.id].finished
        )
    finally:
        world.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_promise_holds_without_a_key_on_the_machines_in_500_histories() -> None:
    run_state_machine_as_test(
        KeylessLife, settings=settings(max_examples=500, stateful_step_count=STEPS, **QUIET)
    )  # type: ignore[arg-type]
