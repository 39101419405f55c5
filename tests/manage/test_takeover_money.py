"""What a take-over may cost and when it may create, in cases where the ledger, the Hub or the user changes meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling, NanolanError, UsageProblem
from nanolan.launch.create import check_before_create
from nanolan.manage.limit import left_for_attempt, refuse_newer
from nanolan.manage.run_budget import Agreed, with_new_limit
from nanolan.manage.takeover import MOST_INSTANCES
from nanolan.run.ledger import Attempt, Entry
from nanolan.sim.world import World
from nanolan.status.status import look
from tests.support.core_fixtures import creates
from tests.support.resume_fixtures import PLAN
from tests.support.spot_fixtures import SPOT, SpotRun
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


@pytest.fixture
def run(world: World, tmp_path: Path) -> Iterator[SpotRun]:  # noqa: F811
    yield SpotRun(world, tmp_path)
    world.cloud.account.now = time.time


def test_a_bill_that_the_box_could_not_report_counts_in_another_process(run: SpotRun) -> None:
    run.launch()
    run.trains = False
    for _ in range(6):
        run.sleep(900)
        look(run.ledger, [run.entry], run.api, lambda e: run.hub)
    run.preempt(notice=False)
    run.trains = True
    assert run.take_up()  # as a new process would: it has seen nothing itself
    assert (run.entry.earlier[0].spent_cents or 0) >= 100 * float(run.boxes[0].cost_at(run.now))
    run.laws()


@pytest.mark.parametrize("tags", [True, False])
def test_nothing_is_created_beside_an_instance_of_the_run(run: SpotRun, tags: bool) -> None:
    """One that was deleted may be listed again, without its tags, too."""
    if not tags:
        run.world.cloud.switch("tags_not_stored")
    run.launch()
    again = structs.replace(run.entry.plan, attempt=2)
    with pytest.raises(MayBeBilling, match="has an instance already"):
        check_before_create(run.api, run.hub, run.ledger, again, 2, run.say)


def test_fail_over_does_not_exceed_the_number_of_instances(run: SpotRun) -> None:
    run.launch()
    run.sleep(600)
    run.preempt()
    used = tuple(
        Attempt(n, f"i-{n}", 10, "lost: preempted", SPOT.hourly_cents)
        for n in range(1, MOST_INSTANCES - 1)
    )
    plan = structs.replace(run.entry.plan, attempt=MOST_INSTANCES - 1)
    run.ledger.put(structs.replace(run.entry, plan=plan, earlier=used))
    run.world.cloud.switch("goes_to_error")
    with pytest.raises(NanolanError):
        run.take_up()
    assert creates(run.world.cloud) == 2  # the launch, and the last one that is allowed


def test_a_stop_that_was_agreed_to_late_says_that_the_run_went_on(run: SpotRun) -> None:
    run.launch()
    run.sleep(600)
    asked_about, listed = run.entry, run.api.instances()

    def agree(question: str) -> None:
        run.preempt()
        assert run.take_up()

    stop = run.stop(agree)
    with pytest.raises(MayBeBilling, match="went on meanwhile"):
        stop.delete(asked_about, [i for i in listed if i.billing])
    assert run.entry.plan.attempt == 2 and not run.entry.gone


@pytest.mark.parametrize(
    "attempt, limit, whole",
    [(2, 8_000, 10_000), (2, 5_000, 10_000 - 3_000), (2, 20_000, 22_000), (3, 5_000, 10_000)],
    ids=["same", "lower", "higher", "another attempt"],
)
def test_a_limit_that_is_set_meanwhile_replaces_the_agreed_one(
    attempt: int, limit: int, whole: int
) -> None:
    followed = structs.replace(PLAN, attempt=2, limit_cents=8_000)
    now = structs.replace(followed, attempt=attempt, limit_cents=limit)
    entry = Entry(now, "i-2", earlier=(Attempt(1, "i-1", 2_000, ""),))
    assert with_new_limit(Agreed(100, 10_000), followed, entry).whole_cents == whole
    assert with_new_limit(Agreed(100, 10_000), None, entry).whole_cents == 10_000


def test_a_limit_of_the_whole_run_counts_its_earlier_attempts() -> None:
    assert left_for_attempt(PLAN, 6_000, 2_792) == 3_208
    for cents in (2_792, 1_000):
        with pytest.raises(UsageProblem, match="have cost \\$27.92 already"):
            left_for_attempt(PLAN, cents, 2_792)


def test_a_limit_is_not_set_for_an_attempt_that_nobody_was_asked_about() -> None:
    refuse_newer(PLAN, PLAN)
    for change in ({"attempt": PLAN.attempt + 1}, {"limit_cents": PLAN.limit_cents + 1}):
        with pytest.raises(UsageProblem, match="has changed while you were asked"):
            refuse_newer(structs.replace(PLAN, **change), PLAN)
