"""Measurements of earlier runs: the figures of a receipt, without implausible ones."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from nanolan.checkpoint.model_size import D20
from nanolan.cost.history import TOKENS, figures_of, measured
from nanolan.plan import Pinned, PinnedFile, Plan
from nanolan.run.ledger import Entry
from nanolan.run.record import PhaseReport, Receipt
from tests.support.core_fixtures import a_plan

FILES = Pinned(
    "me/x",
    "model",
    "e" * 40,
    (PinnedFile("a", 2_000_000, None, "a"), PinnedFile("b", 1_000_000, None, "b")),
)
STAGES = {
    "boot": 100,
    "setup": 60,
    "download": 30,
    "mid.train": 1000,
    "mid.evaluate": 50,
    "mid.upload": 1,
    "sft.train": 500,
    "sft.evaluate": 40,
    "sft.upload": 20,
    "idle": 7,
}
PHASES = {"mid": PhaseReport("proven", tokens=400_000_000), "sft": PhaseReport("proven")}


def plan(**changes: Any) -> Plan:
    made = a_plan(phases=("mid", "sft"), inputs=(FILES,), datasets=(FILES,), evaluate="quick")
    return structs.replace(made, offer=structs.replace(made.offer, gpu="H100"), **changes)


def receipt(stages: dict[str, int] | None = None, **changes: Any) -> Receipt:
    whole = Receipt(
        "ab12cd34", "succeeded", phases=PHASES, seconds=2000, stages=STAGES | (stages or {})
    )
    return structs.replace(whole, **changes)


def of(p: Plan, r: Receipt) -> dict[tuple[str, ...], float]:
    return dict(figures_of(p, r))


def test_a_receipt_gives_speeds_of_one_gpu_and_bytes_a_second() -> None:
    assert of(plan(), receipt()) == {
        ("boot", "hyperstack"): 100,
        ("setup",): 67,
        ("download",): 200_000,
        ("upload",): pytest.approx(D20 * 3.71 / 20),
        ("speed", "H100", "mid"): 50_000,
        ("tokens", "mid"): 400_000_000,
        ("evaluate", "H100", "mid", "quick"): 400,
        ("speed", "H100", "sft"): TOKENS["sft"] / 4000,
        ("tokens", "sft"): TOKENS["sft"],
        ("evaluate", "H100", "sft", "quick"): 320,
    }


def test_speeds_are_those_of_a_d20_whatever_the_model() -> None:
    twice = of(plan(parameters=2 * D20), receipt())
    assert (
        twice["speed", "H100", "mid"] == 100_000
        and twice["evaluate", "H100", "mid", "quick"] == 200
    )


@pytest.mark.parametrize(
    "stages, changes, missing",
    [
        ({"mid.train": 0}, {}, {"speed mid", "tokens mid"}),
        ({"mid.train": -1000}, {}, {"speed mid", "tokens mid"}),
        (
            {"sft.train": 9},
            {},
            {"speed sft", "tokens sft"},
        ),  # started, compiled and trained in 9 seconds
        (
            {"mid.train": 20},
            {},
            {"speed mid", "tokens mid"},
        ),  # 2.5 million tokens a second on one GPU
        ({"mid.train": 2001}, {}, {"speed mid", "tokens mid"}),  # longer than the whole run
        ({"mid.evaluate": 0}, {}, {"evaluate mid"}),
        ({"boot": 0}, {}, {"boot"}),
        ({"boot": -3}, {}, {"boot"}),
        ({"setup": 0}, {}, {"setup"}),
        ({"download": 0}, {}, {"download"}),
        ({"sft.upload": 0}, {}, {"upload"}),
        ({"boot": 10**9}, {"seconds": None}, {"boot"}),
        ({}, {"seconds": 0}, {"everything"}),
        ({}, {"seconds": -5}, {"everything"}),
        (dict.fromkeys(STAGES, 0), {}, {"everything"}),
        (
            {},
            {"phases": {}},
            {"speed mid", "tokens mid", "evaluate mid", "speed sft", "tokens sft", "evaluate sft"},
        ),
        (
            {},
            {"phases": PHASES | {"sft": PhaseReport("failed", tokens=5)}},
            {"speed sft", "tokens sft", "evaluate sft"},
        ),
        (
            {},
            {"phases": PHASES | {"mid": PhaseReport("proven", tokens=0)}},
            {"speed mid", "tokens mid"},
        ),
        (
            {},
            {"phases": PHASES | {"mid": PhaseReport("proven", tokens=-1)}},
            {"speed mid", "tokens mid"},
        ),
        (
            {},
            {"phases": PHASES | {"mid": PhaseReport("proven", tokens=10**18)}},
            {"speed mid", "tokens mid"},
        ),
        ({"mid.train": 1500}, {"phases": PHASES | {"other": PhaseReport("proven")}}, set()),
    ],
    ids=lambda v: " ".join(sorted(map(str, v))),
)  # sets have no order
def test_implausible_figures_are_dropped_and_the_rest_counts(
    stages: dict[str, int], changes: dict[str, Any], missing: set[str]
) -> None:
    everything = {
        " ".join(p for p in k if p not in ("H100", "quick", "hyperstack"))
        for k in of(plan(), receipt())
    }
    got = {
        " ".join(p for p in k if p not in ("H100", "quick", "hyperstack"))
        for k in of(plan(), receipt(stages, **changes))
    }
    assert (
        everything - got == (everything if missing == {"everything"} else missing)
        and got <= everything
    )


def test_a_resumed_phase_yields_its_speed_only_with_reported_tokens_and_never_a_token_count() -> (
    None
):
    resumed = of(plan(resume=FILES), receipt())
    assert (
        ("speed", "H100", "mid") in resumed
        and ("tokens", "mid") not in resumed
        and ("tokens", "sft") in resumed
    )
    untold = of(plan(resume=FILES), receipt(phases={"mid": PhaseReport("proven")}))
    assert ("speed", "H100", "mid") not in untold


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"recipe": {"max_steps": 3}},
        {"parameters": D20 * 5},
        {"parameters": D20 // 5},
        {"model_tag": "d64"},
    ],
    ids=str,
)
def test_rehearsals_other_recipes_and_other_model_sizes_do_not_count(
    changes: dict[str, Any],
) -> None:
    assert (
        measured([Entry(plan(**changes), receipt=receipt())], D20)
        == {}
        != measured([Entry(plan(), receipt=receipt())], D20)
    )


def test_the_newest_three_runs_with_a_receipt_count() -> None:
    entries = [
        Entry(plan()),
        *(Entry(plan(), receipt=receipt({"boot": s})) for s in (10, 20, 30, 40)),
    ]
    assert measured(entries, D20)["boot", "hyperstack"] == (10, 20, 30)


def test_rehearsals_count_only_for_rehearsals_of_the_same_recipe() -> None:
    recipe: dict[str, Any] = {"max_steps": 24}
    rehearsed = Entry(
        plan(device="cpu", recipe=recipe),
        receipt=receipt({"mid.train": 3}, phases={"mid": PhaseReport("proven", tokens=1000)}),
    )
    real = Entry(plan(), receipt=receipt())
    assert ("speed", "H100", "mid") in measured([rehearsed], D20, recipe), (
        "three seconds are long for a rehearsal"
    )
    assert not measured([rehearsed], D20) and not measured([real], D20, recipe)
    assert not measured([rehearsed], D20, {"max_steps": 25})
