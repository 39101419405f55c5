"""`just resume --wait` as a user types it: the next attempt of a run waits for an offer, within what the run's limit has left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.sim.world import World
from tests.support.core_fixtures import creates, script, started, until
from tests.support.launch_script_fixtures import Terminal, entries
from tests.support.resume_script_fixtures import ended, resume
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def test_it_waits_shows_so_and_rents_the_next_attempt_for_what_is_left(world: World) -> None:
    old = ended(world, spend_limit="90")
    before = creates(world.cloud)
    world.cloud.switch("no_stock")
    with started("resume", "--yes", "--no-wait", "wait=10m", env=world.env()) as process:
        until(lambda: entries(world)[0].waiting, 60)
        status = script("check_status", env=world.env()).stdout
        world.cloud.switch("no_stock", False)
        _, said = process.communicate(timeout=60)
    assert "waiting for an offer until" in " ".join(status.split())
    assert (process.returncode, creates(world.cloud)) == (0, before + 1), said
    (entry,), machine = entries(world), world.cloud.instances[-1]
    assert (entry.plan.run_id, entry.plan.attempt) == (old.run_id, 2) and len(entry.earlier) == 1
    assert machine.spec["auto_delete"]["spend_threshold"] == "77.66"
    assert "at most $77.66, the spend limit" in said


def test_at_its_time_nothing_is_rented_and_the_run_can_still_be_resumed(world: World) -> None:
    old = ended(world, spend_limit="90")
    before = creates(world.cloud)
    world.cloud.switch("no_stock")
    done = resume(world, "--yes", "wait=3s")
    assert (done.returncode, creates(world.cloud)) == (3, before)
    again = f"Wait again: just resume {old.run_id} wait=3s"
    assert done.stderr.strip().splitlines()[-1].endswith(again)
    world.cloud.switch("no_stock", False)
    done = resume(world, "--yes")
    assert (done.returncode, creates(world.cloud)) == (0, before + 1), done.stderr
    assert "$77.66 left of $90.00" in done.stderr


def test_just_stop_ends_the_wait(world: World) -> None:
    old = ended(world)
    before = creates(world.cloud)
    world.cloud.switch("no_stock")
    with started("resume", "--yes", "--no-wait", "wait=10m", env=world.env()) as process:
        until(lambda: entries(world)[0].waiting, 60)
        stop = script("stop", old.run_id, "--yes", env=world.env())
        world.cloud.switch("no_stock", False)
        process.communicate(timeout=60)
    assert (stop.returncode, process.returncode, creates(world.cloud)) == (0, 5, before)
    assert entries(world)[0].note == STOPPED_BY_USER


@pytest.mark.parametrize("asked_before", [False, True])
def test_just_stop_on_another_laptop_ends_the_wait_and_an_older_request_does_not(
    world: World, tmp_path: Path, asked_before: bool
) -> None:
    """That laptop sees no instance, and the number of the next attempt is not on the Hub yet."""
    old = ended(world)
    before = creates(world.cloud)
    elsewhere = world.env() | {"NANOLAN_HOME": str(tmp_path)}
    words = (old.run_id, "--owner", old.owner, "--yes")
    if asked_before:
        assert script("stop", *words, env=elsewhere).returncode == 0
    world.cloud.switch("no_stock")
    with started("resume", "--yes", "--no-wait", "wait=10m", env=world.env()) as process:
        until(lambda: entries(world)[0].waiting, 60)
        time.sleep(1.1)  # requests have a time in seconds
        stop = script("stop", *words, env=elsewhere)
        world.cloud.switch("no_stock", False)
        _, said = process.communicate(timeout=60)
    assert (stop.returncode, process.returncode, creates(world.cloud)) == (0, 5, before), said
    assert "stopped by just stop" in said
    assert resume(world, "--yes").returncode == 0 and creates(world.cloud) == before + 1


@pytest.mark.parametrize("wait", [(), ("wait=10m",)], ids=["now", "wait"])
def test_just_stop_on_another_laptop_while_resume_asks_is_obeyed(
    world: World, tmp_path: Path, wait: tuple[str, ...]
) -> None:
    old = ended(world)
    before = creates(world.cloud)
    elsewhere = world.env() | {"NANOLAN_HOME": str(tmp_path)}
    asks = Terminal(world.env(), "--no-wait", *wait, name="resume")
    if not wait:
        asks.expect("Select instance")
        asks.type("1\n")
    asks.expect("[y/N]", 60)
    stop = script("stop", old.run_id, "--owner", old.owner, "--yes", env=elsewhere)
    asks.type("y\n")
    code = asks.close()
    assert (stop.returncode, code, creates(world.cloud)) == (0, 5, before), asks.text
    assert "stopped by just stop" in " ".join(asks.text.split())
