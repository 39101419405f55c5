"""Fail-over: after a rejection the next offer, within what was agreed to, and never two instances at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import NanolanError, OutOfStock, RunFailed
from nanolan.launch.failover import rent_with_failover
from nanolan.launch.policy import FailoverPolicy
from nanolan.launch.prepare import Prepared
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.sim.shadeform.instance import NEVER
from nanolan.sim.world import World
from tests.support.core_fixtures import CREATE, QUICK, creates
from tests.support.failover_fixtures import FIRST, SECOND, spent
from tests.support.launch_fixtures import B200, Launch, ready
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


# ---- asking
def test_a_dearer_offer_is_asked_about_with_its_worst_case(world: World, tmp_path: Path) -> None:
    asked: list[Prepared] = []

    def ask(p: Prepared) -> bool:
        asked.append(p)
        assert "just sold out" in launch.text, "the reason is said before the question"
        return True

    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)
    launched = launch.run(price=FIRST.hourly_cents, bill=4000, ask=ask)
    assert [p.offer for p in asked] == [SECOND] == [
        launched.prepared.offer
    ] and launched.prepared.worst_cents == asked[0].worst_cents


def test_a_no_rents_nothing_and_shows_the_command(world: World, tmp_path: Path) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)
    with pytest.raises(
        OutOfStock, match=r"for \$35.84/h \(not agreed to\): just launch cloud=datacrunch"
    ):
        launch.run(price=FIRST.hourly_cents, ask=lambda p: False)
    assert creates(world.cloud) == 1


def test_the_bill_that_was_agreed_to_holds_for_all_attempts_together(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("price_differs", 500_000, times=1)
    launch = Launch(world, tmp_path)
    launched = launch.run(bill=5000)
    assert launched.prepared.plan.limit_cents == 5000 - (launched.earlier[0].spent_cents or 0)


# ---- the same run, and nothing of another one
def test_a_lost_answer_to_the_second_create_never_adopts_the_first_instance(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("price_differs", 500_000, times=1)
    world.cloud.switch("list_lag", 0.2)
    world.cloud.account.delays = replace(
        QUICK, deleting_s=600
    )  # the first one stays listed, as deleting
    try:
        world.cloud.fault(CREATE, "reset_after_effect", skip=1)
        launch = Launch(world, tmp_path)
        launch.time.really = 0.08
        launched = launch.run()
        assert (
            launched.instance.id == launch.boxes[1].id != launch.boxes[0].id
            and creates(world.cloud) == 2
        )
    finally:
        world.cloud.account.delays = QUICK


def test_an_instance_that_bills_again_is_deleted_before_the_next_create(
    world: World, tmp_path: Path
) -> None:
    def back_from_the_dead(text: str) -> None:
        if text.startswith("attempt 2:"):
            launch.boxes[0].deleting_at = NEVER

    world.cloud.switch("goes_to_error", times=1)
    launch = Launch(world, tmp_path)
    launch.heard = back_from_the_dead
    launch.run()
    assert (
        "is listed as error again; deleting it" in launch.text
        and launch.never_two()
        and len(launch.live) == 1
    )


def test_nothing_is_created_while_an_earlier_instance_may_bill(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("goes_to_error", times=1)
    world.cloud.fault(
        "GET /v1/instances$", "unauthorized", times=None, skip=1
    )  # the look before the first create
    with pytest.raises(NanolanError):
        Launch(world, tmp_path).run()
    assert creates(world.cloud) == 1


def test_a_run_that_was_stopped_on_purpose_is_not_rented_again(
    world: World, tmp_path: Path
) -> None:
    def stopped(world: World, plan: Any, box: Any) -> None:
        launch.ledger.put(
            structs.replace(launch.ledger.find(plan.run_id), note=STOPPED_BY_USER)
        )  # as `just stop` does
        world.cloud.account.delete(box.id)

    launch = Launch(world, tmp_path, stopped)
    with pytest.raises(RunFailed, match="stopped by just stop; none of its instances bills"):
        launch.run()
    assert (
        creates(world.cloud) == 1
        and launch.live == []
        and launch.ledger.entries()[0].note == STOPPED_BY_USER
    )


def test_attempts_before_this_launch_are_kept_and_not_counted(world: World, tmp_path: Path) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    launch, before = Launch(world, tmp_path, failover="1"), spent(12_000, 2_900)
    p = ready(world)
    launched = rent_with_failover(
        p,
        B200,
        launch.settings,
        launch.api,
        launch.hub,
        launch.ledger,
        launch.said.append,
        FailoverPolicy(1, 9999, 15_000),
        before=before,
        clock=launch.time.read,
    )
    assert launched.earlier[:2] == before and len(launched.earlier) == 3 == len(
        launch.ledger.entries()[0].earlier
    )
    assert launched.prepared.plan.limit_cents == 15_000
