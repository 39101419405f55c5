"""Actions on the local Shadeform, for the rows in nanolan/sim/scenarios.py."""

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
    """Answer the next creates with this fault."""
    return lambda world: world.cloud.fault(CREATE, action, times=times)


def switched(name: str, value: object = True, times: int | None = None) -> Act:
    """Set a switch of the cloud, for the next `times` instances."""
    return lambda world: world.cloud.switch(name, value, times)


def all_of(*acts: Act) -> Act:
    """Run the actions one after the other."""

    def act(world: World) -> None:
        for each in acts:
            each(world)

    return act


def slow_between_attempts(seconds: float) -> Act:
    """Delay the listing between two attempts; it is the launch's third, after those of the checks and the create."""
    return lambda world: world.cloud.fault("GET /v1/instances$", "stall", skip=2, seconds=seconds)


def stop_after_the_first_machine(world: World) -> None:
    """Run `just stop` in another process once the first instance is deleted."""

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
    """List a colleague's instances and other records that a strict parser would reject."""
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
    """Give every instance this problem of nanolan/sim/box_trouble.py."""
    return switched("box_trouble", name)


def multiply_prices(factor: int) -> Act:
    """Multiply every price, so that limits are reached in seconds."""

    def act(world: World) -> None:
        for entry in world.cloud.account.catalogue:
            entry["hourly_price"] *= factor

    return act


def ask_to_stop(world: World) -> None:
    """Write the stop request, as `just stop` does on any laptop."""
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
    """Remove the instance at the provider without notice."""
    instance = next(i for i in reversed(world.cloud.instances) if i.machine)
    instance.delete(world.cloud.account.now(), "preempted")


def preempt(world: World) -> bool:
    """The same, unless the newest instance is being removed already; whether it is removed."""
    running = [i for i in world.cloud.instances if i.machine and i.status == "active"]
    if running:
        vanish(world)
    return bool(running)


def clock_differs(hours: float) -> Act:
    """Set the service's clock ahead of this machine's and the box's."""

    def act(world: World) -> None:
        world.cloud.account.now = lambda: time.time() + 3600 * hours

    return act
