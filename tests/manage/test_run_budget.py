"""The money of a run over all its attempts: what each has cost, what is left, and whether that covers the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.forecast import Forecast, Work, forecast
from nanolan.errors import PreflightFailed
from nanolan.manage.run_budget import (
    RunBudget,
    attempts,
    budget_of,
    cost_of,
    kept_limits,
    limit_checks,
    whole_cents_of,
)
from nanolan.plan import Limits
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, WAITED, Attempt, Seen, Waiting
from nanolan.run.record import Progress, Receipt
from nanolan.shadeform.offers import Offer
from nanolan.status.view import RunView
from nanolan.times import iso
from tests.support.resume_fixtures import LIVE, NOW, PLAN


def ended(state: str = "lost", reason: str = "gone", **fields: Any) -> RunView:
    entry = structs.replace(
        LIVE,
        **{k: fields.pop(k) for k in ("gone", "note", "spent_cents", "earlier") if k in fields},
    )
    return RunView(entry, state, reason, **fields)


def told(minutes_ago: float, cents: int | None) -> Progress:
    return Progress(
        PLAN.run_id, "training", {}, iso(NOW - timedelta(minutes=minutes_ago)), spent_cents=cents
    )


@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=123)), 123),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=0)), 0),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=-9)), 0),
        (ended(gone=True, note=STOPPED_BY_USER, spent_cents=77), 77),
        (ended(gone=True, note=f"{REFUSED}: sold out"), 0),
        # it vanished: as long as it can have lived, at the agreed price of $1 an hour
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(60, 190)), 190),
        (ended(progress=told(0, 150)), 200),
        (ended(progress=told(60, None)), 117),
        (ended(), 200),
        (ended(receipt=Receipt(PLAN.run_id, "failed")), 200),
    ],
)
def test_an_attempts_cost_is_its_receipts_or_an_upper_estimate(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW) == cents


@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(0, 150)), 217),  # ten minutes after its last report
        (ended(), 1000),
    ],
)  # nobody can say: the provider's limit
def test_a_month_later_it_cost_no_more_than_it_can_have_lived(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW + timedelta(days=30)) == cents


def test_every_attempt_is_remembered_with_what_became_of_it() -> None:
    first = Attempt(1, "i-0", 50, "lost: gone")
    view = ended(
        "stopped",
        "spend_limit",
        earlier=(first,),
        receipt=Receipt(PLAN.run_id, "stopped", spent_cents=123),
    )
    assert attempts(view, NOW) == (first, Attempt(1, "i-1", 123, "stopped: spend_limit"))


@pytest.mark.parametrize(
    "past, whole, left",
    [
        ([400], None, 600),
        ([50, 400], None, 600),  # the old limit counted what was spent before
        ([400], 2000, 1600),
        ([50, 400], 2000, 1550),
        ([None, 400], 5000, 3600),
    ],
)  # unknown: as much as a whole limit
def test_the_limit_counts_the_whole_run(
    past: list[int | None], whole: int | None, left: int
) -> None:
    budget = budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    assert budget.left_cents == left


@pytest.mark.parametrize(
    "past, whole", [([1000], None), ([1001], None), ([50, 1000], None), ([400], 400), ([400], 399)]
)
def test_when_nothing_is_left_the_refusal_has_the_numbers_and_the_command(
    past: list[int | None], whole: int | None
) -> None:
    with pytest.raises(PreflightFailed) as e:
        budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    spent = sum(c or 0 for c in past)
    assert f"has spent ${spent / 100:.2f}" in str(e.value) and "nothing was rented" in str(e.value)
    assert f"just resume ab12cd34 spend-limit={spent // 100 + 11}" in str(e.value)


H100 = Offer("c", "r", "t", "H100", 8, 80, 2400, ())


SFT = forecast(Work(("sft",)), H100, {})  # likely $24.09; $11.20 are kept for saving


@pytest.mark.parametrize(
    "left, expected, ok",
    [
        (3530, SFT, True),
        (3529, SFT, False),
        (600, SFT, False),
        (1121, None, None),
        (1120, None, False),
    ],
)
def test_the_rest_less_saving_must_be_above_the_likely_cost(
    left: int, expected: Forecast | None, ok: bool | None
) -> None:
    check = RunBudget(left + 400, 400).check(2400, expected)
    assert (
        check.ok is ok
        and f"${left / 100:.2f} left of ${left / 100 + 4:.2f} for the whole run ($4.00 spent)"
        in check.text
    )
    assert ("Try: spend-limit=" in check.text) == (ok is False)
    if ok is False:
        tried = int(check.text.rsplit("=", 1)[1])
        assert RunBudget(100 * tried, 400).check(2400, expected).ok is not False


def test_training_that_is_saved_need_not_be_paid_again() -> None:
    assert SFT
    train_s = SFT.train["sft"].likely
    left = 1800
    assert RunBudget(left, 0).check(2400, SFT).ok is False
    check = RunBudget(left, 0).check(2400, SFT, 0.95 * train_s)
    assert check.ok is True and "of it is saved" in check.text
    assert RunBudget(left, 0).check(2400, SFT, 10 * train_s).ok is True  # never less than nothing
    assert RunBudget(1120, 0).check(2400, SFT, 10 * train_s).ok is False  # saving costs, too


def test_a_wait_for_an_offer_has_cost_nothing() -> None:
    waiting = Waiting(iso(NOW), iso(NOW), "no stock")
    entry = structs.replace(LIVE, instance_id=None, gone=True, note=WAITED, waiting=waiting)
    assert cost_of(RunView(entry, "failed"), NOW) == 0


def test_the_whole_limit_is_the_newest_attempts_and_what_was_spent_before() -> None:
    earlier = (Attempt(1, "i-0", 50, "x"), Attempt(2, None, None, "x"))
    assert whole_cents_of(structs.replace(LIVE, earlier=earlier)) == PLAN.limit_cents + 50


@pytest.mark.parametrize(
    "minutes_ago, price, more",
    [(0, 6000, 0), (5, 6000, 500), (11, 6000, 1100), (12, 6000, 1100), (99, 6000, 1100)],
)
def test_the_larger_of_estimate_and_sighting_counts(
    minutes_ago: int, price: int, more: int
) -> None:
    """An instance that was seen is counted for two heartbeats, and the minute between two records."""
    view = ended(progress=told(999, 100))
    estimate = cost_of(view, NOW)
    at = iso(NOW - timedelta(minutes=minutes_ago))
    for cents in (0, estimate + 1):
        seen = structs.replace(view.entry, seen=Seen(cents, price, at))
        counted = cost_of(replace(view, entry=seen), NOW)
        assert counted == min(PLAN.limit_cents, max(estimate, cents + more))


def test_a_spot_attempt_is_remembered_with_its_price() -> None:
    plan = structs.replace(PLAN, offer=structs.replace(PLAN.offer, spot=True))
    view = RunView(structs.replace(LIVE, plan=plan), "lost", "preempted: x")
    (attempt,) = attempts(view, NOW)
    assert attempt.spot_cents == PLAN.offer.hourly_cents and attempt.note == "lost: preempted: x"


# ---- the other limits of the launch
LIMITS = Limits(3000, 4000, 7200, "hyperstack", "canada-1")


@pytest.mark.parametrize(
    "limits, typed, kept",
    [
        (None, {}, {}),
        (Limits(), {}, {}),
        (
            LIMITS,
            {},
            {
                "max_price": 3000,
                "max_total": 4000,
                "max_duration": 7200,
                "cloud": "hyperstack",
                "region": "canada-1",
            },
        ),
        (
            LIMITS,
            {"max_price": "60", "max_duration": "4h"},
            {"max_total": 4000, "cloud": "hyperstack", "region": "canada-1"},
        ),
        (
            LIMITS,
            {"cloud": "lambda"},
            {"max_price": 3000, "max_total": 4000, "max_duration": 7200},
        ),
        (
            LIMITS,
            {"instance_type": "8x_b200"},
            {"max_price": 3000, "max_total": 4000, "max_duration": 7200},
        ),
    ],
)
def test_the_limits_of_the_launch_hold_unless_they_are_typed_again(
    limits: Limits | None, typed: dict[str, str], kept: dict[str, Any]
) -> None:
    assert kept_limits(typed, structs.replace(PLAN, limits=limits)) == kept


@pytest.mark.parametrize(
    "old, new, said",
    [
        (
            LIMITS,
            LIMITS,
            [
                "max-price=30, max-total=40, max-duration=120m, cloud=hyperstack, region=canada-1",
            ],
        ),
        (Limits(), Limits(), []),
        (LIMITS, Limits(max_duration=90), ["max-duration=90s"]),
        (
            None,
            Limits(max_price=3000),
            [
                "max-price=30",
                "not kept from the launch, by an older nanolan: max-total, max-duration, cloud, region; "
                "type those that you want",
            ],
        ),
    ],
)
def test_the_checks_show_the_limits_that_hold_and_those_that_are_lost(
    old: Limits | None, new: Limits, said: list[str]
) -> None:
    checks = limit_checks(structs.replace(PLAN, limits=old), structs.replace(PLAN, limits=new))
    assert [c.text for c in checks] == said
