"""What a rehearsal does to its local Shadeform: acts of the rows in nanolan/sim/scenarios.py."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nanolan.settings.settings import ROOT

if TYPE_CHECKING:
    from nanolan.sim.world import World

Act = Callable[["World"], object]
CREATE = "POST /v1/instances/create"


def refused(action: str, times: int = 1) -> Act:
    """The next creates are answered so."""
    return lambda world: world.cloud.fault(CREATE, action, times=times)


def switched(name: str, value: object = True, times: int | None = None) -> Act:
    """The cloud behaves so, for the next `times` instances."""
    return lambda world: world.cloud.switch(name, value, times)


def all_of(*acts: Act) -> Act:
    """One after the other."""

    def act(world: World) -> None:
        for each in acts:
            each(world)

    return act


def slow_between_attempts(seconds: float) -> Act:
    """The look at the account between two attempts takes so long; it is the launch's third, after the checks' and the create's."""
    return lambda world: world.cloud.fault("GET /v1/instances$", "stall", skip=2, seconds=seconds)


def stop_after_the_first_machine(world: World) -> None:
    """`just stop` in another terminal, once the first machine is gone again."""

    def act() -> None:
        while not any(i.status in ("deleting", "deleted") for i in world.cloud.instances):
            time.sleep(0.05)
        subprocess.run(
            [sys.executable, str(ROOT / "scripts/stop.py"), "--yes"],
            env=world.env(),
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    threading.Thread(target=act, daemon=True).start()


def odd_records(world: World) -> None:
    """A colleague's machines, and what is none, that no strict reader takes."""
    odd: dict[str, Any] = {
        "id": "i-odd",
        "name": None,
        "status": "active",
        "tags": {"team": "a"},
        "hourly_price": 33.6,
        "cost_estimate": "1,234.50",
        "created_at": "yesterday",
        "auto_delete": [],
        "configuration": None,
        "ip": 7,
    }
    world.cloud.account.odd_records += [None, "odd", 5, [], {}, {"id": None}, odd]


def troubled(name: str) -> Act:
    """Every machine has this trouble of nanolan/sim/box_trouble.py."""
    return switched("box_trouble", name)


def dear(factor: int) -> Act:
    """Every offer costs so much more: limits are reached in seconds."""

    def act(world: World) -> None:
        for entry in world.cloud.account.catalogue:
            entry["hourly_price"] *= factor

    return act


def ask_to_stop(world: World) -> None:
    """As `just stop` does from any laptop."""
    from nanolan.sim.world import REPO

    run_id = newest_run(world)
    world.hub.put(REPO, {f"runs/{run_id}/stop.json": b'{"attempt": 1, "at": "in a rehearsal"}'})


def newest_run(world: World) -> str:
    """The id at the end of the newest instance's name."""
    return (
        next(i for i in reversed(world.cloud.instances) if i.machine)
        .spec["name"]
        .rsplit("-", 1)[-1]
    )


def vanish(world: World) -> None:
    """The provider takes the machine away, without a word."""
    instance = next(i for i in reversed(world.cloud.instances) if i.machine)
    instance.delete(world.cloud.account.now(), "preempted")


def clock_differs(hours: float) -> Act:
    """The service's clock is so far ahead of this machine's, and of the box's."""

    def act(world: World) -> None:
        world.cloud.account.now = lambda: time.time() + 3600 * hours

    return act
