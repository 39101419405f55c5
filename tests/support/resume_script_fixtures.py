"""Shared by tests/scripts/test_resume*.py."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import Any

from nanolan.hub.client import Hub
from nanolan.launch.make_plan import Rehearsal
from nanolan.launch.prepare import prepare
from nanolan.launch.rent import rent
from nanolan.plan import Plan
from nanolan.run.ledger import Ledger
from nanolan.run.presence import QUIET_LOCAL_S
from nanolan.run.record import Progress, Receipt, to_json
from nanolan.settings.load import load_settings
from nanolan.sim.world import World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import client, script, until


def ledger(world: World) -> Ledger:
    return Ledger(world.root / "nanolan-home")


def launched(world: World, **flags: str) -> Plan:
    """A run as `just launch` makes it in a rehearsal."""
    s = load_settings(flags, world.env())
    api, hub = client(world.cloud), Hub(world.hub.url, s.hf_token)
    offer = next(o for o in api.offers()[0] if o.gpu == s.gpu and o.num_gpus == 8)
    made = prepare(
        s, offer, ledger(world).owner, hub, api.instances, rehearsal=Rehearsal(**world.rehearsal)
    )
    rent(made, s, api, hub, ledger(world), lambda text: None)
    return made.plan


def ended(world: World, receipt: bool = True, **flags: str) -> Plan:
    """A run whose machine is gone, in mid-phase; with a receipt of $12.34."""
    plan, long_ago = launched(world, **flags), now_utc() - timedelta(seconds=QUIET_LOCAL_S)
    leave(
        world,
        plan,
        progress=Progress(plan.run_id, "training", {}, iso(long_ago), spent_cents=1200),
        **(
            {"receipt": Receipt(plan.run_id, "failed", "hang", spent_cents=1234)} if receipt else {}
        ),
    )
    gone(world)
    return plan


def leave(world: World, plan: Plan, **files: Any) -> None:
    world.hub.put(
        plan.runs_repo,
        {f"{plan.folder}/{name}.json": to_json(value) for name, value in files.items()},
    )


def gone(world: World) -> None:
    for i in world.cloud.instances:
        if i.status not in ("deleting", "deleted"):
            world.cloud.account.delete(i.id)
    until(lambda: not world.cloud.account.listed()["instances"])


def resume(world: World, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return script("resume", "--no-wait", *words, env=world.env() | env)
