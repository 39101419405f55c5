"""How a run stands, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from nanolan.run.ledger import Attempt
from tests.support.report_fixtures import PLAN, RECEIPT, a_story, failed, going


def test_the_headline_is_verdict_money_and_time() -> None:
    assert a_story().headline == "Succeeded: $65.40 in 1:56:50"
    assert going().headline == "Training: $12.34 so far"


@pytest.mark.parametrize(
    "spent, metered, told, said",
    [(None, None, None, "cost not known"), (1, 5, 3, "$0.05"), (1, None, 7, "$0.07")],
)
def test_the_bill_is_the_largest_that_is_known_and_never_nothing(
    spent: int | None, metered: int | None, told: int | None, said: str
) -> None:
    receipt = structs.replace(
        RECEIPT, spent_cents=spent, metered_cents=metered, provider_cents=told, seconds=None
    )
    assert a_story(receipt=receipt).headline == f"Succeeded: {said}"
    assert replace(going(), spent_cents=None).headline == "Training: cost not known so far"


def test_a_later_attempt_says_that_its_bill_is_not_all() -> None:
    s = a_story(plan=structs.replace(PLAN, attempt=2))
    assert s.headline == "Succeeded: $65.40 in 1:56:50, this machine alone"
    earlier = (Attempt(1, "i-1", 500, "it hung"), Attempt(2, "i-2", None, "vanished"))
    assert (
        replace(s, earlier=earlier).headline
        == "Succeeded: $70.40 + ? with 3 instances, the last one $65.40 in 1:56:50"
    )


def test_the_way_on_is_said_once() -> None:
    s = failed()
    assert (
        s.go_on == "just resume ab12cd34"
        and "just resume" not in s.why
        and "Saved: runs/ab12cd34/saved/sft step 400" in s.why
    )
    assert replace(s, go_on="").why == s.reason, (
        "a reason is never cut where nothing takes its place"
    )
