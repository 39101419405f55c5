"""What a spot run costs in expectation: preemptions, and what is done again after them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from nanolan.cost.forecast import Forecast, Work, forecaster, work_of
from nanolan.cost.ranges import Range
from nanolan.cost.spot import (
    NOTE,
    PREEMPTED_EVERY_H,
    Preemptions,
    preemptions,
    repeated_s,
)
from nanolan.run.ledger import Attempt, Entry, was_preempted
from nanolan.run.record import Receipt
from nanolan.settings.load import load_settings
from nanolan.settings.settings import TABLE
from nanolan.shadeform.offer_table import table
from nanolan.shadeform.offers import Offer
from tests.support.core_fixtures import a_plan

HOUR = 3600.0


def offer(cents: int = 2400, spot: bool = True, **more: Any) -> Offer:
    return Offer("c", "r", "t", "H100", 8, 80, cents, ("os",), spot=spot, **more)


def entry(note: str, cents: int | None, price: int = 1000, **more: Any) -> Entry:
    plan = a_plan()
    return Entry(
        structs.replace(plan, offer=structs.replace(plan.offer, spot=True, hourly_cents=price)),
        "i-1",
        True,
        note,
        cents,
        **more,
    )


def on(offer: Offer, *entries: Entry, **work: Any) -> Forecast:
    found = forecaster(Work(("sft",), **work), entries)(offer)
    assert found
    return found


# ---- the rate


def test_without_history_the_documented_assumption_counts() -> None:
    assert preemptions([]) == Preemptions(6.0, 0.0) and PREEMPTED_EVERY_H == 6.0
    assert "every 6.0 h assumed" in preemptions([]).text
    assert "6 h" in NOTE and "6 h" in TABLE["spot"]["help"]


@pytest.mark.parametrize(
    "entries, every_h",
    [
        ([entry("preempted: x", 1000)], (6 + 1) / 2),
        ([entry("", 9000)], 15.0),  # nine hours without one
        ([entry("preempted", 200)] * 5, (6 + 1) / 6),
        ([entry("preempted", None)], 6.0),  # of unknown length
        ([entry("preempted", 0)], 6.0),
        ([Entry(a_plan(), "i-1", True, "preempted", 9000)], 6.0),  # on demand
        ([entry("", 1000, earlier=(Attempt(1, "i-0", 2000, "lost: preempted: x", 1000),))], 9 / 2),
        ([entry("", 1000, earlier=(Attempt(1, "i-0", 2000, "failed: oom", 1000),))], 9.0),
        ([entry("", 1000, earlier=(Attempt(1, "i-0", 2000, "lost: preempted"),))], 7.0),
        (
            [entry("", None, receipt=Receipt("ab12cd34", "stopped", "preempted", spent_cents=500))],
            (6 + 0.5) / 2,
        ),
        ([entry("", None, receipt=Receipt("ab12cd34", "succeeded", spent_cents=3000))], 9.0),
    ],
)
def test_the_hours_and_preemptions_of_our_own_spot_instances_are_added_to_it(
    entries: list[Entry], every_h: float
) -> None:
    assert preemptions(entries).every_h == pytest.approx(every_h)


@pytest.mark.parametrize(
    "note, taken",
    [
        ("preempted", True),
        ("preempted: the provider took it", True),
        ("lost: preempted: x", True),
        ("stopped: preempted", True),
        ("stopped by just stop", False),
        ("failed: it was not preempted", False),
        ("preemptedly", False),
        ("", False),
    ],
)
def test_the_note_of_an_attempt_says_whether_it_was_taken_away(note: str, taken: bool) -> None:
    assert was_preempted(note) is taken


def test_an_attempt_on_demand_is_written_as_before() -> None:
    old = b'{"number":1,"instance_id":"i","spent_cents":5,"note":"n"}'
    assert msgspec.json.decode(old, type=Attempt) == Attempt(1, "i", 5, "n")
    assert msgspec.json.encode(Attempt(1, "i", 5, "n")) == old


# ---- what is done again


def test_on_demand_nothing_is_repeated() -> None:
    assert "again" not in on(offer(spot=False)).parts
    assert "spot" not in on(offer(spot=False)).text()


def test_a_preemption_costs_a_new_start_and_half_the_interval_between_uploads() -> None:
    base = on(offer(spot=False))
    begin = sum(base.parts[p].likely for p in ("boot", "setup", "download"))
    cost_s = begin + 30 * 60 / 2
    share = cost_s / (6 * HOUR)
    found = on(offer(), upload_minutes=30.0)
    assert found.parts["again"].likely == pytest.approx(base.seconds.likely * share / (1 - share))
    assert found.parts["again"].low == 0 and found.low_cents == base.low_cents
    assert base.likely_cents < found.likely_cents and base.high_cents < found.high_cents
    assert "again" not in found.stage_s  # no stage that a run goes through


def test_the_interval_is_the_plans_the_longer_of_saving_and_uploading() -> None:
    def again(**work: Any) -> float:
        return on(offer(), **work).parts["again"].likely

    assert again(upload_minutes=60.0) > again(upload_minutes=20.0)
    assert again(upload_minutes=1.0, save_minutes=30.0) == again(upload_minutes=30.0)
    assert again() == again(upload_minutes=12.5)  # $5 at $24 an hour
    settings = load_settings({"upload_minutes": "7", "save_minutes": "3"}, {})
    assert (work_of(settings).upload_minutes, work_of(settings).save_minutes) == (7.0, 3.0)


def test_a_trainer_that_cannot_resume_repeats_half_a_phase() -> None:
    from nanolan.cost.forecast import _on_spot

    base = on(offer(spot=False))
    fork = _on_spot(base, Work(("sft",), fork=("row", "source")), offer(), Preemptions())
    assert fork and fork.parts["again"].likely > on(offer()).parts["again"].likely
    assert _on_spot(None, Work(("sft",)), offer(), Preemptions()) is None


@pytest.mark.parametrize("every_h", [0.01, 0.1, 1.0, 6.0, 1e6])
@pytest.mark.parametrize("again_s", [1.0, 600.0, 10 * HOUR])
def test_any_rate_gives_finite_numbers_in_order(every_h: float, again_s: float) -> None:
    r = repeated_s(Range(1800, 3600, 7200), Range(again_s / 2, again_s, 2 * again_s), every_h)
    assert 0 == r.low <= r.likely <= r.high < 1e9
    assert r.likely <= 9 * 3600 + 1


def test_the_star_goes_to_the_cheapest_run_with_its_repeats() -> None:
    """A spot offer hardly below the price on demand costs more in all."""
    spot, demand = offer(2350), offer(2400, spot=False)
    cents = forecaster(Work(("sft",)), [])

    def total(o: Offer) -> int | None:
        found = cents(o)
        return found.likely_cents if found else None

    lines = table([spot, demand], total)
    assert [("*" in line) for line in lines[2:]] == [False, True]
    assert [("*" in line) for line in table([offer(1200), demand], total)[2:]] == [True, False]


def test_the_forecast_says_what_it_assumes() -> None:
    assert "(by the guide; spot, a preemption every 6.0 h assumed)" in on(offer()).text()
    assert "every 3.5 h with your own runs" in on(offer(), entry("preempted", 1000)).text()
