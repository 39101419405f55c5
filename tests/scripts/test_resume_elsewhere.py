"""`just resume` from another laptop."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.run.ledger import Ledger
from nanolan.run.record import Receipt
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import creates
from tests.support.resume_script_fixtures import (
    ended,
    gone,
    leave,
    resume,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def elsewhere(world: World, tmp_path: Path) -> dict[str, str]:
    return {"NANOLAN_HOME": str(tmp_path / "another-home")}


def test_a_run_of_another_laptop_goes_on_when_its_owner_is_named(
    world: World, tmp_path: Path
) -> None:
    old = ended(world)
    env = elsewhere(world, tmp_path)
    done = resume(world, "--yes", old.run_id, **env)
    assert (
        done.returncode == 2 and f"--owner {old.owner}" in done.stderr and creates(world.cloud) == 1
    )
    done = resume(world, "--yes", old.run_id, "--owner", old.owner, **env)
    assert done.returncode == 0, done.stderr
    assert f"anyone who may write {REPO} can change it" in done.stderr
    here = Ledger(tmp_path / "another-home")
    entry = here.find(old.run_id)
    assert (
        entry.plan.owner == here.owner != old.owner
        and entry.earlier[0].spent_cents == 1234
        and not entry.rebuilt
    )


@pytest.mark.slow
def test_what_earlier_attempts_cost_is_known_there_too(world: World, tmp_path: Path) -> None:
    old = ended(world)
    assert resume(world, "--yes").returncode == 0
    leave(world, old, receipt=Receipt(old.run_id, "failed", "hang", spent_cents=1000, attempt=2))
    gone(world)
    done = resume(
        world, "--dry-run", old.run_id, "--owner", old.owner, **elsewhere(world, tmp_path)
    )
    assert "$127.66 left of $150.00 for the whole run ($22.34 spent)" in done.stderr


@pytest.mark.parametrize("data", [b"{}", b"[" * 100_000, b" " * 2_000_000])
@pytest.mark.slow  # tests/attacks/test_documents.py reads the same plans
def test_a_hostile_plan_on_the_hub_is_refused_in_one_line(
    world: World, tmp_path: Path, data: bytes
) -> None:
    old = ended(world)
    world.hub.put(REPO, {f"{old.folder}/plan.json": data})
    done = resume(world, "--yes", old.run_id, "--owner", old.owner, **elsewhere(world, tmp_path))
    assert (
        done.returncode == 1
        and "plan.json" in done.stderr
        and done.stderr.count("\n") == 1
        and creates(world.cloud) == 1
    )
