"""What status says about money, attempts and results."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from nanolan.plan import Predicted
from nanolan.run.ledger import Attempt, Entry
from nanolan.run.record import PhaseReport, Receipt, leak_warning
from nanolan.status.as_json import to_dict
from nanolan.status.text import WIDTH, render
from nanolan.status.view import Overview
from tests.support.text_fixtures import AGAIN, ENDED, ENTRY, PLAN, PROVEN, overview, run, text


def test_earlier_attempts_are_told_with_what_they_cost() -> None:
    assert "  earlier   attempt 1: $0.85, 8x B200 at hyperstack/canada-1: instance" in text(
        overview(run(entry=AGAIN))
    )


STAGES = {
    "boot": 300,
    "setup": 120,
    "download": 30,
    "mid.train": 1800,
    "mid.evaluate": 60,
    "mid.upload": 0,
    "sft.train": 900,
    "idle": 390,
}


PAID = Receipt(
    "ab12cd34",
    "stopped",
    "spend_limit",
    seconds=3600,
    stages=STAGES,
    metered_cents=3_360,
    provider_cents=3_364,
    phases={"mid": PROVEN, "sft": PhaseReport("failed")},
    predicted=Predicted(2_000, 3_000, 4_000),
)


def test_a_run_that_ended_shows_what_was_foretold_what_was_paid_where_it_went_and_what_was_wasted() -> (
    None
):
    shown = " ".join(text(overview(run(**ENDED | {"receipt": PAID}))).split())
    assert "predicted $30.00 ($20.00 to $40.00), metered $33.60, the provider says $33.64" in shown
    assert (
        "boot $2.80, setup $1.12, download $0.28, mid.train $16.80, mid.evaluate $0.56, sft.train $8.40, idle $3.64"
        in shown
    )
    assert "48% of the time neither trained nor evaluated a phase that was proven" in shown, (
        "sft was lost"
    )
    bill = to_dict(overview(run(**ENDED | {"receipt": PAID})))["runs"][0]["bill"]
    assert (
        bill["predicted_usd"] == {"low": "20.00", "likely": "30.00", "high": "40.00"}
        and bill["waste_percent"] == 48
    )
    assert (bill["metered_usd"], bill["provider_usd"], bill["stages"]["boot"]) == (
        "33.60",
        "33.64",
        {"seconds": 300, "usd": "2.80"},
    )


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(provider_cents=None), "the provider says ?"),
        (dict(metered_cents=None), "metered ?"),
        (dict(predicted=None), "not predicted, metered"),
        (dict(seconds=0), "waste ?"),
        (dict(seconds=-5), "waste ?"),
        (dict(seconds=100), "waste ?"),
        (dict(seconds=None), "waste 48%"),
        (dict(phases={}), "waste 100%"),
    ],
    ids=str,
)
def test_what_a_receipt_does_not_tell_is_a_question_mark(
    changes: dict[str, Any], says: str
) -> None:
    shown = " ".join(
        text(overview(run(**ENDED | {"receipt": structs.replace(PAID, **changes)}))).split()
    )
    assert (
        says in shown
        and max(len(line) for line in render(overview(run(**ENDED | {"receipt": PAID})))) <= 80
    )


def test_a_receipt_without_stages_shows_no_split_and_the_plans_forecast_stands_in_for_its_own() -> (
    None
):
    entry = Entry(structs.replace(PLAN, predicted=Predicted(1, 2, 3)), "i-1")
    shown = text(overview(run(**ENDED | {"entry": entry})))
    assert (
        "split" not in shown
        and "waste" not in shown
        and "predicted $0.02 ($0.01 to $0.03)" in " ".join(shown.split())
    )
    assert to_dict(overview(run()))["runs"][0]["bill"] is None


def test_earlier_attempts_are_shown_with_what_they_cost() -> None:
    entry = structs.replace(
        ENTRY,
        earlier=(
            Attempt(1, "i-0", 1234, "lost: the instance is gone" + " x" * 99),
            Attempt(2, None, None, "?"),
        ),
    )
    shown = render(overview(run(entry=entry)))
    assert any(
        line.startswith("  earlier   attempt 1: $12.34, lost: the instance is gone")
        for line in shown
    )
    assert "  earlier   attempt 2: ?, ?" in shown and all(
        len(line) <= 80 or "ssh " in line for line in shown
    )


def test_what_a_phase_measured_stands_below_it_within_80_columns() -> None:
    measured = {
        "val_bpb": 0.772,
        "arc_easy_acc": 0.3876,
        "arc_challenge_acc": 0.2807,
        "mmlu_acc": 0.3151,
        "gsm8k_acc": 0.0455,
        "spellingbee_acc": 0.98,
        "chatcore": 0.0884,
        "chatcore_tasks": 5.0,
    }
    lines = render(
        Overview(
            (
                run(
                    phases={
                        "sft": PhaseReport(
                            "proven", "chatsft_checkpoints/d20", step=90, measured=measured
                        )
                    }
                ),
            ),
            (),
            (),
            (),
        )
    )
    text = " ".join(" ".join(lines).split())
    assert (
        "val_bpb 0.772, arc_easy_acc 0.388" in text
        and "chatcore 0.0884" in text
        and "chatcore_tasks" not in text
    )
    assert all(len(line) <= WIDTH or line.lstrip().startswith("ssh ") for line in lines)


def test_a_secret_in_a_public_log_is_shouted_whatever_the_verdict() -> None:
    warning = leak_warning(structs.replace(PLAN, public=True))
    for verdict in ("succeeded", "failed"):
        view = run(
            state=verdict,
            instance=None,
            receipt=Receipt("ab12cd34", verdict, warning=warning, log="logs/x.log"),
        )
        assert "WARNING   A SECRET WAS PRINTED INTO THE LOG" in text(overview(view))
        assert to_dict(overview(view))["runs"][0]["warning"] == warning
    assert (
        "WARNING" not in text(overview(run(**ENDED)))
        and to_dict(overview(run(**ENDED)))["runs"][0]["warning"] is None
    )
