"""The last check before a create, under a lock: no stopped run rents, and no two runs write one folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling, NanolanError, PreflightFailed, RunFailed
from nanolan.manage.stop_request import ask_to_stop
from nanolan.run.ledger import Entry, Ledger
from nanolan.sim.world import World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, LIST, PLAN, creates, until
from tests.support.launch_fixtures import Launch, ready, silent
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def error_of(launch: Launch) -> NanolanError:
    with pytest.raises(NanolanError) as e:
        launch.run()
    return e.value


# ---- a stop


@pytest.mark.parametrize("first", ["out_of_stock", "boot"])
def test_a_stop_between_two_attempts_prevents_the_next_create(
    world: World, tmp_path: Path, first: str
) -> None:
    """`just stop` comes when there is no machine: after the first no, before the second create."""
    if first == "out_of_stock":
        world.cloud.fault(CREATE, "out_of_stock")
    else:
        world.cloud.switch("goes_to_error", times=1)
    launch = Launch(world, tmp_path)
    launch.heard = lambda text: (
        launch.ledger.ask_to_stop(launch.ledger.entries()[0].plan.run_id)
        if text.startswith("attempt 2:")
        else None
    )
    said = error_of(launch)
    assert (
        isinstance(said, RunFailed)
        and "stopped by just stop" in str(said)
        and creates(world.cloud) == 1
        and launch.live == []
    )
    assert launch.ledger.entries()[0].gone


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_stop_from_another_laptop_between_two_attempts_prevents_the_next_create(
    world: World, tmp_path: Path, attempt: int
) -> None:
    """That laptop knows the run by its folder on the Hub alone: it asks the attempt whose plan it reads there."""
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)
    moment = "attempt 2:" if attempt == 1 else "run "

    def heard(text: str) -> None:
        plan = launch.ledger.entries()[0].plan if launch.ledger.entries() else None
        if plan and text.startswith(moment):
            ask_to_stop(launch.hub, structs.replace(plan, attempt=attempt))

    launch.heard = heard
    said = error_of(launch)
    assert isinstance(said, RunFailed) and "stopped by just stop" in str(said)
    assert creates(world.cloud) == 1 and launch.live == []


def test_a_stop_of_an_earlier_launch_does_not_stop_this_one(world: World, tmp_path: Path) -> None:
    launch = Launch(world, tmp_path)

    def heard(text: str) -> None:
        if "plan and code are in" in text:
            ask_to_stop(launch.hub, structs.replace(PLAN, run_id=text[4:12], attempt=0))

    launch.heard = heard
    assert launch.run().instance.id and creates(world.cloud) == 1


def test_a_hub_that_cannot_say_whether_a_stop_was_asked_for_rents_nothing(
    world: World, tmp_path: Path
) -> None:
    launch = Launch(world, tmp_path)
    launch.heard = lambda text: (
        world.hub.fault("GET .*/stop.json", status=503, times=10**6)
        if "plan and code are in" in text
        else None
    )
    said = error_of(launch)
    world.hub.faults.clear()
    assert isinstance(said, PreflightFailed) and "nothing was rented" in str(said)
    assert "stopped on another laptop" in str(said) and creates(world.cloud) == 0


def test_a_stop_before_the_first_create_rents_nothing(world: World, tmp_path: Path) -> None:
    launch = Launch(world, tmp_path)
    launch.heard = lambda text: (
        launch.ledger.ask_to_stop(text[4:12]) if "plan and code are in" in text else None
    )
    assert "stopped by just stop" in str(error_of(launch)) and creates(world.cloud) == 0


def test_a_stop_mark_survives_a_kill_and_is_removed_by_the_next_launch(tmp_path: Path) -> None:
    Ledger(tmp_path).ask_to_stop("ab12cd34")
    assert Ledger(tmp_path).stop_asked("ab12cd34") and not Ledger(tmp_path).stop_asked("ab12cd35")
    Ledger(tmp_path).allow("ab12cd34", Ledger(tmp_path).stop_mark("ab12cd34"))
    assert not Ledger(tmp_path).stop_asked("ab12cd34")
    Ledger(tmp_path).allow("ab12cd34", Ledger(tmp_path).stop_mark("ab12cd34"))


# ---- a folder that two write


def test_of_two_concurrent_launches_only_one_writes_a_folder_despite_a_slow_create(
    world: World, tmp_path: Path
) -> None:
    world.cloud.fault(CREATE, "stall_after_effect", seconds=1.0)
    world.cloud.switch("list_lag", 60.0)
    first, second, ended = (
        Launch(world, tmp_path, silent),
        Launch(world, tmp_path, silent),
        list[Any](),
    )

    def run() -> None:
        try:
            ended.append(first.run(wait=False))
        except NanolanError as e:
            ended.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: creates(world.cloud))
    said = error_of(second)
    thread.join()
    run_id = ended[0].prepared.plan.run_id
    assert isinstance(
        said, PreflightFailed
    ) and f"chatsft_checkpoints/d20 may be written by run {run_id}" in str(said)
    assert "nothing was rented" in str(said) and creates(world.cloud) == 1


@pytest.mark.parametrize("repo", ["me/lanbot-checkpoints", "Me/LanBot-Checkpoints"])
def test_the_folder_of_a_run_with_an_unclear_create_is_taken_in_any_letter_case(
    world: World, tmp_path: Path, repo: str
) -> None:
    launch, plan = Launch(world, tmp_path), ready(world).plan
    unclear = structs.replace(plan, run_id="0000000a", hf_repo=repo, created_at=iso(now_utc()))
    launch.ledger.put(Entry(unclear))
    said = str(error_of(launch))
    assert (
        "may be written by run 0000000a" in said
        and "just stop 0000000a --now" in said
        and creates(world.cloud) == 0
    )
    for harmless in (
        Entry(unclear, gone=True),
        Entry(structs.replace(unclear, output_tag="b")),
        Entry(unclear, "11111111-aaaa"),
    ):
        launch.ledger.put(harmless)
    launch.run()


@pytest.mark.parametrize("action", ["status", "unauthorized", "html", "reset"])
def test_nothing_is_rented_if_the_last_check_of_the_folder_fails(
    world: World, tmp_path: Path, action: str
) -> None:
    world.cloud.fault(LIST, action, times=None)
    assert (
        "cannot check whether" in str(error_of(Launch(world, tmp_path)))
        and creates(world.cloud) == 0
    )


def test_a_second_command_for_a_run_is_refused_during_its_launch(
    world: World, tmp_path: Path
) -> None:
    launch = Launch(world, tmp_path)
    with (
        launch.ledger.launching("ab12cd34"),
        pytest.raises(PreflightFailed, match="nothing was rented"),
        launch.ledger._held(
            launch.ledger.runs / "ab12cd34.launching",
            0.1,
            "another command is launching run ab12cd34",
        ),
    ):
        pass


def test_an_unclear_create_stays_open_in_the_ledger_and_names_what_may_bill(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("list_lag", 600.0)
    world.cloud.fault(CREATE, "reset_after_effect")
    launch = Launch(world, tmp_path)
    said, (entry,) = error_of(launch), launch.ledger.entries()
    assert (
        isinstance(said, MayBeBilling)
        and "$33.60/h" in str(said)
        and f"just stop {entry.plan.run_id} --now" in str(said)
    )
    assert entry.instance_id is None and not entry.gone and creates(world.cloud) == 1
