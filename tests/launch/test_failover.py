"""Fail-over: after a rejection the next offer, within what was agreed to, and never two instances at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from nanolan.checklist import Check
from nanolan.errors import MachineFailed, NanolanError, OutOfStock, RunFailed
from nanolan.launch.failover import rent_with_failover
from nanolan.launch.policy import ASK, GO, STOP, FailoverPolicy, decide, failed_attempt
from nanolan.launch.prepare import OfferEstimate, Prepared
from nanolan.run.ledger import STOPPED_BY_USER, Attempt
from nanolan.shadeform.offers import Offer
from nanolan.sim.shadeform.instance import NEVER
from nanolan.sim.world import World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, QUICK, a_plan, creates
from tests.support.failover_fixtures import (
    FIRST,
    SECOND,
    THIRD,
)
from tests.support.launch_fixtures import B200, Launch, ready
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

TWIN = replace(FIRST, region="canada-2")


FAST = replace(THIRD, gpu="B300", region="cheap-1")  # a GPU without a figure


def yes(p: Prepared) -> bool:
    return True


def estimate_on(offer: Offer, limit_cents: int) -> OfferEstimate:
    """A run that costs $33 where the cost is known."""
    return OfferEstimate(
        checks=(Check("spend limit", None if offer is FAST else limit_cents > 3_300, "words"),)
    )


def spent(*cents: int) -> tuple[Attempt, ...]:
    return tuple(Attempt(n, f"i-{n}", c, "words") for n, c in enumerate(cents, 1))


@pytest.mark.parametrize(
    "left, policy, earlier, act, offer, why",
    [
        # as dear as agreed, or cheaper: by itself
        ([TWIN, SECOND], FailoverPolicy(3, 3360, 15000), spent(0), GO, TWIN, ""),
        ([FIRST, SECOND], FailoverPolicy(3, 3584, 15000), spent(0), GO, FIRST, ""),
        (
            [SECOND, THIRD],
            FailoverPolicy(3, 4000, 15000),
            spent(0),
            GO,
            SECOND,
            "",
        ),  # up to max-price
        ([FAST], FailoverPolicy(3, 4000, 15000), spent(0), GO, FAST, ""),
        # dearer: somebody is asked, or it ends
        ([SECOND, THIRD], FailoverPolicy(3, 3360, 15000, yes), spent(0), ASK, SECOND, ""),
        (
            [SECOND, THIRD],
            FailoverPolicy(3, 3360, 15000),
            spent(0),
            STOP,
            SECOND,
            "dearer than the $33.60/h agreed to",
        ),
        (
            [SECOND, TWIN],
            FailoverPolicy(3, 3360, 15000),
            spent(0),
            GO,
            TWIN,
            "",
        ),  # ranked by total, nobody to ask
        ([SECOND, TWIN], FailoverPolicy(3, 3360, 15000, yes), spent(0), ASK, SECOND, ""),
        # as often as agreed
        ([SECOND], FailoverPolicy(0, 9999, 15000), spent(0), STOP, SECOND, "failover=0"),
        ([THIRD], FailoverPolicy(1, 9999, 15000), spent(0, 0), STOP, THIRD, "failover=1"),
        ([THIRD], FailoverPolicy(2, 9999, 15000), spent(0, 0), GO, THIRD, ""),
        ([], FailoverPolicy(3, 9999, 15000), spent(0), STOP, None, ""),
        # as much as agreed: what was spent counts
        ([SECOND], FailoverPolicy(3, 9999, 15000), spent(11000), GO, SECOND, ""),
        (
            [SECOND],
            FailoverPolicy(3, 9999, 15000),
            spent(11000, 1000),
            STOP,
            SECOND,
            "its checks fail with the $30.00 left of the limit",
        ),
        (
            [SECOND],
            FailoverPolicy(3, 9999, 15000),
            spent(16000),
            STOP,
            SECOND,
            "its checks fail",
        ),
        (
            [FAST],
            FailoverPolicy(3, 9999, 15000),
            spent(15000),
            STOP,
            FAST,
            "its checks fail with the $0.00",
        ),
        (
            [SECOND],
            FailoverPolicy(3, 3360, 3000, yes),
            spent(0),
            STOP,
            SECOND,
            "its checks fail",
        ),
    ],
    ids=lambda v: None if isinstance(v, FailoverPolicy) else str(v)[:40],
)  # a function has another address in each process
def test_the_step_after_a_rejection(
    left: list[Offer],
    policy: FailoverPolicy,
    earlier: tuple[Attempt, ...],
    act: str,
    offer: Offer | None,
    why: str,
) -> None:
    step = decide(left, policy, earlier, estimate_on)
    assert (
        (step.action, step.offer) == (act, offer)
        and why in step.why
        and bool(step.why) == bool(why)
    )


def gave_up(*steps: str) -> tuple[Attempt, ...]:
    """Attempts whose boots failed at these steps of boot.sh."""
    note = "somewhere: instance i did not come up: boot failed: the machine gave up: {}. It is deleted (seen)"
    return tuple(Attempt(n, f"i-{n}", 0, note.format(step)) for n, step in enumerate(steps, 1))


@pytest.mark.parametrize(
    "steps, act",
    [
        (("fetch the code",), GO),
        (("fetch the code", "install the 'train' set"), GO),
        (("install a C compiler", "install the 'train' set", "install a C compiler"), GO),
        (("install the 'train' set", "install the 'train' set"), STOP),
        (("fetch the code", "wait for the NVIDIA driver", "wait for the NVIDIA driver"), STOP),
    ],
)
def test_two_boots_that_fail_at_the_same_step_end_the_launch(
    steps: tuple[str, ...], act: str
) -> None:
    step = decide([TWIN], FailoverPolicy(9, 3360, 15000), gave_up(*steps), estimate_on)
    assert step.action == act and (act == GO or f'step, "{steps[-1]}"' in step.why)


def test_other_failures_go_on_to_the_next_offer() -> None:
    others = tuple(
        Attempt(
            n,
            f"i-{n}",
            0,
            "instance i did not come up: the provider says: error. It is deleted (x)",
        )
        for n in (1, 2)
    )
    assert decide([TWIN], FailoverPolicy(9, 3360, 15000), others, estimate_on).action == GO


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


@pytest.mark.parametrize(
    "rejection, cents",
    [
        (MachineFailed("x", "i-1", 1234), 1234),
        (MachineFailed("x", "i-1", 0), 0),
        (MachineFailed("x", "i-1"), 2 * 3360),
        (OutOfStock("x"), 0),
    ],
    ids=["known", "known to be nothing", "not known", "never rented"],
)
def test_a_failed_attempt_costs_its_known_bill_or_else_price_times_age(
    rejection: Any, cents: int
) -> None:
    plan = a_plan(created_at=iso(now_utc() - timedelta(hours=2)))
    p: Any = SimpleNamespace(plan=plan, offer=replace(FIRST, hourly_cents=3360))
    kept = failed_attempt(rejection, p)
    assert abs(kept.spent_cents - cents) <= 20 * bool(cents == 6720) and kept.number == plan.attempt
    assert (kept.instance_id is None) is isinstance(rejection, OutOfStock)
