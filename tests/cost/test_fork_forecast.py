"""A foreign trainer is forecast only from earlier runs of the same checkout on as many of the same GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.forecast import Work, forecaster
from nanolan.cost.history import measured
from nanolan.phases import Phase
from nanolan.plan import Fork, Pinned
from nanolan.run.ledger import Entry
from nanolan.run.record import PhaseReport, Receipt
from nanolan.shadeform.offers import Offer
from tests.support.core_fixtures import a_plan

OWN = Phase("own", "own", "base_checkpoints", "own_checkpoints", module="scripts.own")
FORK = Fork("custom", "my-nanochat", "0" * 40, None, {"own": OWN}, "online")
STAGES = {"boot": 60, "setup": 100, "install": 80, "own.train": 3600, "own.evaluate": 400}
H100 = Offer("hyperstack", "r", "t", "H100", 8, 80, 2400, ())
WORK = Work(("own",), 0, "quick", fork=("custom", "my-nanochat"))


def run(stages: dict[str, int] | None = None, state: str = "proven", **changes: Any) -> Entry:
    plan = a_plan(phases=("own",), fork=FORK, evaluate="quick", parameters=None)
    plan = structs.replace(plan, offer=structs.replace(plan.offer, gpu="H100", num_gpus=8))
    plan = structs.replace(plan, **changes)
    report = {"own": PhaseReport(state)}
    receipt = Receipt(
        "ab12cd34", "succeeded", phases=report, seconds=5000, stages=STAGES | (stages or {})
    )
    return Entry(plan, receipt=receipt)


def test_the_second_run_of_a_checkout_has_the_times_of_the_first() -> None:
    found = forecaster(WORK, [run()])(H100)
    assert found and found.train["own"].likely == 3600 and found.evaluate["own"].likely == 400
    assert found.parts["setup"].likely == 180 and "measured by earlier runs" in found.text()
    assert found.predicted.stage_s["own.train"] == 3600


def test_the_newest_three_runs_count() -> None:
    runs = [run({"own.train": s}) for s in (1000, 2000, 3000, 90_000)]
    found = forecaster(WORK, runs)(H100)
    assert found and found.train["own"].likely == 2000 and found.train["own"].high < 4000


@pytest.mark.parametrize(
    "entry",
    [
        run(fork=None),
        run(fork=structs.replace(FORK, source="another")),
        run(fork=structs.replace(FORK, row="nanochat-2026")),
        run(offer=structs.replace(run().plan.offer, gpu="B200")),
        run(offer=structs.replace(run().plan.offer, num_gpus=4)),
        run(device="cpu"),
        run(evaluate="full"),
        run(resume=Pinned("me/x", "model", "main", ())),
        run(state="failed"),
        run({"own.train": 0}),
        structs.replace(run(), receipt=None),
    ],
    ids=[
        "nanolan's",
        "another checkout",
        "another row",
        "another GPU",
        "another number",
        "a rehearsal",
        "another evaluation",
        "resumed",
        "failed",
        "no time",
        "no receipt",
    ],
)
def test_other_runs_say_nothing(entry: Entry) -> None:
    assert forecaster(WORK, [entry])(H100) is None


def test_a_fork_in_the_ledger_does_not_disturb_the_forecast_of_nanolans_own_trainer() -> None:
    assert measured([run()], 10**9) == {}
    assert forecaster(Work(("sft",)), [run()])(H100) is not None
