"""A run whose box still reports, seen with the key of another account: its instance is listed nowhere."""

from __future__ import annotations

import pytest

from nanolan.run.record import Progress
from nanolan.sim.world import World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import INFO, LIST, creates, script
from tests.support.resume_script_fixtures import launched, leave
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


@pytest.mark.parametrize(
    "words",
    [
        ("stop", "--now", "--yes"),
        ("resume", "--no-wait", "--yes"),
        ("limit", "60", "--yes"),
        ("check_status",),
    ],
)
def test_it_is_unknown_and_nothing_is_rented(world: World, words: tuple[str, ...]) -> None:
    plan = launched(world)
    leave(world, plan, progress=Progress(plan.run_id, "training", {}, iso(now_utc())))
    before = creates(world.cloud)
    world.cloud.fault(LIST, "edit", times=None, change=lambda body: {"instances": []})
    world.cloud.fault(INFO, "not_found", times=None)
    done = script(words[0], plan.run_id, *words[1:], env=world.env())
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, creates(world.cloud)) == (8, before), said
    assert "UNKNOWN whether it has an instance" in said
    assert "SHADEFORM_API_KEY is of another account" in said
