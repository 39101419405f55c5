"""`just launch spot=only` as a user types it: followed, taken up again on the next offer, detached by Ctrl-C."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from nanolan.sim.world import World
from tests.support.core_fixtures import creates, started, until
from tests.support.launch_script_fixtures import boxes_that_train, entries
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def looks(world: World) -> int:
    """How often the account's list was read after the newest create."""
    paths = [r.path for r in world.cloud.requests]
    newest = max(n for n, path in enumerate(paths) if path.endswith("/create"))
    return sum(path.endswith("/instances") for path in paths[newest:])


def spot_run(world: World, **more: Any) -> Any:
    return started("launch", "--yes", "phase=sft", "spot=only", env=world.env(), **more)


@pytest.mark.parametrize("preempted", [0, 2])
def test_a_spot_launch_takes_its_run_up_again_and_ctrl_c_only_detaches(
    world: World, preempted: int
) -> None:
    with boxes_that_train(world), spot_run(world) as process:
        for number in range(1, preempted + 2):
            until(lambda number=number: creates(world.cloud) == number and looks(world) >= 3)
            if number <= preempted:
                (box,) = (i for i in world.cloud.instances if i.status == "active")
                box.delete(world.cloud.account.now(), "preempted")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    (entry,) = entries(world)
    assert process.returncode == 0 and creates(world.cloud) == preempted + 1, said
    assert "Spot: while this command runs" in said and "detached; run" in said
    assert said.count("Taking it up again") == preempted
    assert entry.plan.attempt == preempted + 1 and not entry.gone
    assert [i.status for i in world.cloud.instances].count("active") == 1
