"""The cost of runs: every instance counts, and an unknown bill is never zero."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nanolan.cost.spending import (
    REST,
    Total,
    attempts,
    by_month,
    by_phase,
    paid_cents,
    phase_sums,
    render,
    run_cost,
    split,
    to_dict,
    waste,
)
from nanolan.run.ledger import Attempt, Entry
from nanolan.run.record import PhaseReport, Receipt
from tests.support.core_fixtures import a_plan


def receipt(**fields: Any) -> Receipt:
    return Receipt(**({"run_id": "ab12cd34", "verdict": "succeeded"} | fields))


def entry(
    run_id: str = "ab12cd34",
    month: int = 11,
    paid: int | None = None,
    phases: dict[str, int] | None = None,
    *,
    earlier: tuple[int | None, ...] = (),
    **fields: Any,
) -> Entry:
    """A run with a bill (None: no receipt was seen) and what its phases cost."""
    plan = a_plan(
        run_id=run_id, created_at=f"2026-{month:02}-23T12:00:00Z", phases=tuple(phases or ("sft",))
    )
    seen = None if paid is None else receipt(metered_cents=paid, phase_cents=phases or {})
    tries = tuple(Attempt(i, f"i-{i}", cents, "sold out") for i, cents in enumerate(earlier, 1))
    return Entry(
        plan, **({"instance_id": "i-9", "gone": True, "earlier": tries, "receipt": seen} | fields)
    )


# ---- one run


@pytest.mark.parametrize(
    "told, paid",
    [
        (dict(metered_cents=10, provider_cents=12, spent_cents=11), 12),
        (dict(metered_cents=10), 10),
        (dict(spent_cents=0), 0),
        ({}, None),
        (dict(provider_cents=None, metered_cents=7), 7),
        (dict(metered_cents=-5), None),
        (dict(metered_cents=-5, provider_cents=3), 3),
    ],
    ids=str,
)
def test_the_bill_is_the_largest_figure_that_anybody_told(
    told: dict[str, Any], paid: int | None
) -> None:
    assert paid_cents(receipt(**told)) == paid


def test_the_split_is_in_the_order_of_the_run_without_empty_stages() -> None:
    assert list(
        split(
            receipt(stages={"boot": 3600, "setup": 0, "mid.train": 1800, "idle": -4}), 2400
        ).items()
    ) == [("boot", 2400), ("mid.train", 1200)]


@pytest.mark.parametrize(
    "stages, seconds, state, share",
    [
        ({"boot": 100, "sft.train": 800, "sft.evaluate": 100}, 1000, "proven", 0.1),
        ({"sft.train": 800}, 1000, "failed", 1.0),
        ({"boot": 100, "sft.train": 300}, None, "proven", 0.25),
        ({}, 1000, "proven", None),
        ({"sft.train": 5}, 0, "proven", None),
        ({"sft.train": 5}, -1, "proven", None),
        ({"sft.train": 2000}, 1000, "proven", None),
        ({"sft.train": -5}, 1000, "proven", 1.0),
    ],
)
def test_waste_is_the_time_that_did_not_train_or_evaluate_a_proven_phase(
    stages: dict[str, int], seconds: int | None, state: str, share: float | None
) -> None:
    got = waste(receipt(stages=stages, seconds=seconds, phases={"sft": PhaseReport(state)}))
    assert got == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    "e, bills, says",
    [
        (entry(paid=2_400), [2_400], "$24.00"),
        (entry(), [None], "?"),
        (entry(gone=False), [None], "?"),
        (entry(paid=2_400, earlier=(100, 50)), [100, 50, 2_400], "$25.50"),
        (entry(paid=2_400, earlier=(None,)), [None, 2_400], "$24.00 + ?"),
        (entry(earlier=(100,)), [100, None], "$1.00 + ?"),
        (entry(paid=0), [0], "$0.00"),
        (entry(instance_id=None, note="create refused: sold out"), [], "$0.00"),
        (
            entry(instance_id=None, note=""),
            [None],
            "?",
        ),  # lost: nobody knows whether there was a machine
        (entry(instance_id=None, note="create refused: sold out", earlier=(70,)), [70], "$0.70"),
    ],
)
def test_every_instance_of_a_run_counts_and_an_unknown_bill_is_a_question_mark(
    e: Entry, bills: list[int | None], says: str
) -> None:
    assert attempts(e) == bills and run_cost(e).text() == says


@pytest.mark.parametrize(
    "e, parts",
    [
        (entry(paid=1000, phases={"mid": 300, "sft": 200}), {"mid": 300, "sft": 200, REST: 500}),
        (entry(paid=1000, phases={"mid": 300}, earlier=(50,)), {"mid": 300, REST: 750}),
        (entry(paid=1000), {"sft": None, REST: None}),
        (entry(), {"sft": None, REST: None}),
        (entry(paid=100, phases={"mid": 300}), {"mid": 300, REST: None}),
        (entry(paid=100, phases={"mid": -3}), {"mid": None, REST: None}),
        (entry(instance_id=None, note="create refused"), {}),
    ],
)
def test_a_bill_is_split_by_phase_as_far_as_it_was_told(
    e: Entry, parts: dict[str, int | None]
) -> None:
    assert by_phase(e) == parts


# ---- the ledger

RUNS = [
    entry("aaaaaaaa", 12, 2_000, {"mid": 900, "sft": 700}),
    entry("bbbbbbbb", 12),
    entry("cccccccc", 11, 1_000, {"sft": 800}, earlier=(30,)),
    entry("dddddddd", 11, instance_id=None, note="create refused: no stock"),
]


def test_sums_by_month_and_phase_add_up_to_all() -> None:
    assert {m: [e.plan.run_id[0] for e in runs] for m, runs in by_month(RUNS).items()} == {
        "2026-12": ["a", "b"],
        "2026-11": ["c", "d"],
    }
    assert (
        phase_sums(RUNS) == {"mid": Total(900, 1), "sft": Total(1500, 2, 1), REST: Total(630, 2, 1)}
        and list(phase_sums(RUNS))[-1] == REST
    )
    told = to_dict(RUNS)
    assert told["all"] == {"usd": "30.30", "unknown": 1} and told["months"]["2026-12"] == {
        "usd": "20.00",
        "unknown": 1,
    }
    assert (
        told["months"]["2026-11"] == {"usd": "10.30", "unknown": 0}
        and told["runs"][1]["usd"] is None
    )
    assert (
        told["runs"][2]["by_phase_usd"] == {"sft": "8.00", REST: "2.30"}
        and told["runs"][2]["tries"] == 2
    )
    assert json.loads(json.dumps(told))["schema_version"] == 1


def test_the_lines_fit_80_columns_and_say_what_is_not_known() -> None:
    long = entry("eeeeeeee", 10, 999_999_99, {"mid": 1, "sft": 1, "rl": 1}, earlier=(None, 5))
    lines = render([*RUNS, long])
    assert max(map(len, lines)) <= 80 and lines[-1].startswith("? is a bill that is not known yet")
    rows = {line.split()[0]: line.split()[-1] for line in lines if line}
    assert (rows["aaaaaaaa"], rows["bbbbbbbb"], rows["cccccccc"], rows["dddddddd"]) == (
        "$20.00",
        "?",
        "$10.30",
        "$0.00",
    )
    assert (
        rows["2026-11"] == "$10.30"
        and rows["mid"] == "$9.01"
        and "+ ?" in next(line for line in lines if line.startswith("all"))
    )
    assert not render(RUNS[2:])[-1].startswith("?")


def test_an_empty_ledger_says_what_to_type() -> None:
    assert "just launch phase=sft" in render([])[0] and to_dict([])["all"] == {
        "usd": "0.00",
        "unknown": 0,
    }
