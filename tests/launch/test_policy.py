"""What a launch may do after a rejection, by what the user agreed to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.checklist import Check
from nanolan.errors import CheckUnavailable, MachineFailed, NotRented, OutOfStock
from nanolan.launch.policy import (
    ASK,
    GO,
    STOP,
    FailoverPolicy,
    Step,
    decide,
    failed_attempt,
    goes_on_waiting,
)
from nanolan.launch.prepare import OfferEstimate, Prepared
from nanolan.run.ledger import Attempt
from nanolan.shadeform.offers import Offer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import a_plan
from tests.support.failover_fixtures import FIRST, SECOND, THIRD, spent

TWIN = replace(FIRST, region="canada-2")


FAST = replace(THIRD, gpu="B300", region="cheap-1")  # a GPU without a figure


def yes(p: Prepared) -> bool:
    return True


def estimate_on(offer: Offer, limit_cents: int) -> OfferEstimate:
    """A run that costs $33 where the cost is known."""
    return OfferEstimate(
        checks=(Check("spend limit", None if offer is FAST else limit_cents > 3_300, "words"),)
    )


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


# ---- a launch that waits for offers
class Waits:
    """An OfferWait as `decide` sees it."""

    rule = SimpleNamespace(until=now_utc())

    def __init__(self, over: bool) -> None:
        self.over = over


def waiting(over: bool = False) -> FailoverPolicy:
    wait: Any = Waits(over)
    return FailoverPolicy(1, 3360, 15000, offer_wait=wait)


def test_stock_outs_do_not_count_while_a_launch_waits_and_failed_instances_do() -> None:
    sold_out = tuple(Attempt(n, None, 0, "just sold out") for n in range(1, 9))
    assert decide([TWIN], waiting(), sold_out, estimate_on).action == GO
    failed = (*sold_out, *spent(0, 0))
    assert decide([TWIN], waiting(), failed, estimate_on).why == "failover=1"


def test_no_other_offer_is_tried_after_the_wait_is_over() -> None:
    step = decide([TWIN], waiting(over=True), spent(0), estimate_on)
    assert step.action == STOP and step.why.startswith("the wait ended at ")


@pytest.mark.parametrize(
    "rejection, action, goes_on",
    [
        (OutOfStock("x"), GO, False),  # there is another offer
        (OutOfStock("x"), STOP, True),
        (NotRented("x"), GO, True),  # a service failed: the next offer would meet that, too
        (CheckUnavailable("x"), GO, True),
        (MachineFailed("x"), GO, False),
        (MachineFailed("x"), STOP, False),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else str(v),
)
def test_a_launch_that_waits_looks_again_unless_an_instance_failed(
    rejection: Any, action: str, goes_on: bool
) -> None:
    assert goes_on_waiting(rejection, Step(action)) is goes_on


# ---- what a failed attempt cost
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
