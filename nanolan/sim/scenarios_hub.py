"""Actions on the local Hub, for the rows in nanolan/sim/scenarios.py."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanolan.sim.world import World

DOWN_S = 6.0  # until a Hub that is down comes back
ROOM_S = 12.0  # until space is freed


def hub_down(world: World) -> None:
    """Answer 503 to every request for a while."""
    fault = world.hub.fault(r".", status=503, times=10**9)
    timer = threading.Timer(DOWN_S, world.hub.faults.remove, [fault])
    timer.daemon = True
    timer.start()


def hub_refuses(world: World) -> None:
    """Refuse writes, and reads of the repo, for 15 s, with one status after the other."""
    for what, status in (
        ("POST .*(preupload|lfs|xet)", 400),
        ("GET .*xet-write-token", 401),
        ("POST .*commit", 403),
        (r"GET /api/models/[^/]*/[^/]*$", 401),
    ):
        world.hub.fault(what, status=status, times=10**9, lasts_s=15.0)


def refused_after_commit(world: World) -> None:
    """Refuse reads of the repo for 10 s, except the first, which is the upload's own."""
    world.hub.fault(r"GET /api/models/[^/]*/[^/]*$", status=403, times=10**9, lasts_s=10.0, skip=1)


def hub_drips(world: World) -> None:
    """Answer the next two reads with a byte every two seconds."""
    world.hub.fault(r"GET /api/models/[^/]*/[^/]*$", "drip", seconds=2.0, times=2)


def storage_full(world: World) -> None:
    """Refuse large files until space is freed."""
    world.hub.storage_full = True
    timer = threading.Timer(ROOM_S, setattr, [world.hub, "storage_full", False])
    timer.daemon = True
    timer.start()


def renamed(world: World) -> None:
    """Rename HF_REPO."""
    from nanolan.sim.world import REPO

    world.hub.rename(REPO, "me/lanbot-renamed")


def upload_cut(world: World) -> None:
    """Break the connections of the next uploads midway."""
    world.hub.fault(r"(PUT|POST) /.*(lfs|xorb|shard|commit)", "reset", after=1000, times=3)
