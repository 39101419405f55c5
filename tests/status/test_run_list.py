"""`just runs`: one line a run, with date, verdict and cost."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from nanolan.run.ledger import STOPPED_BY_USER, Entry
from nanolan.run.record import Receipt
from nanolan.status.run_list import render, to_dict, verdict_of
from tests.support.core_fixtures import a_plan

PLAN = a_plan(run_id="ab12cd34", created_at="2026-11-23T12:00:00Z")
DONE = Receipt("ab12cd34", "succeeded", spent_cents=2400)


@pytest.mark.parametrize(
    "fields, verdict, cost",
    [
        (dict(receipt=DONE, gone=True), "succeeded", "$24.00"),
        (dict(gone=False, instance_id="i-1"), "open", "?"),
        (dict(gone=True, instance_id="i-1", note=STOPPED_BY_USER, spent_cents=35), "stopped", "$0.35"),
        (dict(gone=True, note="create refused: sold out"), "not rented", "$0.00"),
        (dict(gone=True, instance_id="i-1"), "lost", "?"),
        (dict(gone=True, instance_id="i-1", note="deleted by just guard", spent_cents=9), "failed", "$0.09"),
        (dict(receipt=structs.replace(DONE, attempt=7), instance_id="i-1"), "open", "$24.00"),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_has_a_verdict_and_a_cost(fields: dict[str, Any], verdict: str, cost: str) -> None:
    entry = Entry(PLAN, **fields)
    assert verdict_of(entry) == verdict
    row = render([entry])[1]
    assert row.split()[0] == "ab12cd34" and verdict in row and row.endswith(f" {cost}")
    assert to_dict([entry])["runs"][0]["verdict"] == (None if verdict == "open" else verdict)


def test_the_table_fits_80_columns_and_names_its_zone() -> None:
    plan = structs.replace(PLAN, run_name="n" * 60, phases=("mid", "sft", "rl"))
    lines = render([Entry(plan, "i-1")])
    assert max(map(len, lines)) <= 80 and lines[0].startswith("run       launched (")
    assert lines[-1].endswith("just status ab12cd34") and "just launch" in render([])[0]
