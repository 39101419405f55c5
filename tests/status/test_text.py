"""What `just status` prints: within 80 columns, nothing secret, and always the next command."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.plan import Pinned, PinnedFile, Predicted
from nanolan.run.ledger import Attempt, Entry
from nanolan.run.record import PhaseReport, Progress, Receipt, leak_warning
from nanolan.run.remaining import SavedWork
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.as_json import to_dict
from nanolan.status.text import WIDTH, render, ssh_command
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import make_plan

PLAN = make_plan(
    "",
    "",
    run_id="ab12cd34",
    phases=("mid", "sft"),
    run_name="lanbot-v3",
    limit_cents=15_000,
    created_at=iso(now_utc() - timedelta(hours=1)),
    deadline="2026-01-28T20:53:39Z",
)
PLAN = structs.replace(
    PLAN,
    offer=structs.replace(
        PLAN.offer, hourly_cents=3_360, cloud="massedcompute", region="desmoines-usa-1"
    ),
)
ENTRY = Entry(PLAN, "5b1ee5e4-9b5e-4b1e-8f2e-6d8a0ff2a2c9")
PROVEN = PhaseReport("proven", "mid_checkpoints/d20", "f" * 40, 90, 2.5, 1.25)
PROGRESS = Progress("ab12cd34", "training", {}, iso(now_utc()), "", 7, 90, 2.125, 100)
LOG = tuple(f"Traceback line {i}: " + "x" * 200 for i in range(5))
WHY = "the instance is gone and left no receipt: a limit of the provider, or it was deleted by hand"
PROBLEM = (
    "the Hub did not answer (ConnectError: [Errno 111] Connection refused) for "
    "me/lanbot-checkpoints/runs/ab12cd34/receipt.json, tried for 45 s. Is the network up? Try again"
)


def machine(**fields: Any) -> Instance:
    return instance_of(
        dict(
            **(
                {
                    "id": ENTRY.instance_id,
                    "name": PLAN.instance_name,
                    "status": "active",
                    "ip": "203.0.113.10",
                    "ssh_user": "shadeform",
                    "ssh_port": 22,
                    "hourly_price": 3_360,
                }
                | fields
            )
        )
    )


def run(**fields: Any) -> RunView:
    return dataclasses.replace(
        RunView(
            ENTRY,
            "training",
            instance=machine(),
            progress=PROGRESS,
            spent_cents=1_234,
            phases={"mid": PROVEN, "sft": PhaseReport("training")},
        ),
        **fields,
    )


ENDED = dict(
    state="failed",
    reason="trainer_failed",
    instance=None,
    log_tail=LOG,
    receipt=Receipt(
        "ab12cd34",
        "failed",
        "trainer_failed",
        log=f"logs/error-{PLAN.instance_name}.log",
        spent_cents=1_234,
        seconds=4_000,
    ),
)


def overview(*runs: RunView, **fields: Any) -> Overview:
    return dataclasses.replace(Overview(runs, (), (), ()), **fields)


def text(o: Overview) -> str:
    return "\n".join(render(o))


EARLIER = Attempt(
    1,
    "i-1",
    85,
    "8x B200 at hyperstack/canada-1: instance 24836664-9753-4e69-aae7-7e06e6db315a did not come up: no "
    "heartbeat for 30 minutes (pending_provider). It is deleted (status deleting)",
)
AGAIN = structs.replace(ENTRY, plan=structs.replace(PLAN, attempt=2), earlier=(EARLIER,))


def test_earlier_attempts_are_told_with_what_they_cost() -> None:
    assert "  earlier   attempt 1: $0.85, 8x B200 at hyperstack/canada-1: instance" in text(
        overview(run(entry=AGAIN))
    )


@pytest.mark.parametrize(
    "shown",
    [
        overview(run(entry=AGAIN)),
        overview(run()),
        overview(run(**ENDED)),
        overview(run(state="lost", reason=WHY, instance=None, problems=(PROBLEM,))),
        overview(
            run(),
            strays=(machine(id="i" * 36),),
            others=(machine(), machine()),
            problems=(PROBLEM,),
        ),
        overview(),
    ],
    ids=["second attempt", "live", "ended", "lost", "others", "nothing"],
)
def test_every_line_but_a_command_to_copy_fits_80_columns(shown: Overview) -> None:
    assert WIDTH == 80
    for line in render(shown):
        assert len(line) <= 80 or line.lstrip().startswith("ssh "), line


def test_a_live_run_shows_state_money_machine_shell_step_and_phases() -> None:
    shown = text(overview(run()))
    for part in (
        "ab12cd34",
        "lanbot-v3",
        "mid+sft",
        "d20",
        "TRAINING",
        "$12.34 of $150.00",
        "$33.60/h",
        "deleted by 2026-01-28T20:53:39Z",
        "8x H100 at massedcompute/desmoines-usa-1: active",
        "ssh -i .ssh_keys/",
        "7/90 (8%), loss 2.125",
        "proven     mid_checkpoints/d20 step 90  loss 2.500 -> 1.250",
        "sft       training",
    ):
        assert part in shown, part


def test_a_run_that_ended_shows_its_verdict_and_the_last_lines_of_its_error_log() -> None:
    shown = text(overview(run(**ENDED)))
    assert (
        "FAILED" in shown
        and "trainer_failed" in shown
        and f"logs/error-{PLAN.instance_name}.log" in shown
    )
    assert (
        "Traceback line 4" in shown
        and "1:06:40 in all" in shown
        and "ssh -i" not in shown
        and "7/90" not in shown
    )
    assert "Traceback" not in text(overview(run(**ENDED | {"state": "succeeded"})))


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
        (dict(predicted=None), "predicted ?"),
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


def test_what_is_unknown_is_a_question_mark_and_never_nothing() -> None:
    shown = text(overview(run(spent_cents=None, instance=None)))
    assert "? of $150.00" in shown and ": gone" in shown
    assert ": none" in text(overview(run(entry=Entry(PLAN), instance=None)))


def test_what_could_not_be_seen_is_said_and_is_never_no_run() -> None:
    shown = " ".join(text(overview(problems=(PROBLEM,))).split())
    assert PROBLEM in shown and "No run yet" not in shown
    assert "unavailable: " in text(overview(run(problems=(PROBLEM,))))


def test_others_are_counted_and_ours_outside_the_ledger_come_with_the_command_that_stops_them() -> (
    None
):
    shown = text(
        overview(
            strays=(machine(id="stray-id"),),
            others=(machine(hourly_price=100), machine(hourly_price=50)),
        )
    )
    assert (
        "2 other instances on this account, $1.50/h, not ours" in shown
        and "just stop stray-id" in shown
    )
    assert "1 other instance on" in text(overview(others=(machine(),)))
    unknown = overview(others=(machine(hourly_price=100), machine(hourly_price=None)))
    assert (
        "account, ?/h, not ours" in text(unknown)
        and to_dict(unknown)["others"]["usd_per_hour"] is None
    ), "unknown is never zero"


def test_what_could_not_be_read_is_said_in_text_and_json() -> None:
    seen = replace(overview(), gaps=("1 record of Shadeform's list could not be read",))
    assert "note: 1 record of Shadeform's list could not be read" in text(seen) and to_dict(seen)[
        "unreadable"
    ] == list(seen.gaps)


def test_nothing_to_show_shows_the_next_command() -> None:
    assert "just launch phase=sft" in text(overview()) and "just rehearse" in text(overview())


@pytest.mark.parametrize(
    "fields, line",
    [
        (dict(), "ssh -i .ssh_keys/NAME.pem shadeform@203.0.113.10"),
        (
            dict(ssh_port=2222, ssh_user="hotaisle", ip="box.example.com"),
            "ssh -i .ssh_keys/NAME.pem -p 2222 hotaisle@box.example.com",
        ),
        (dict(ssh_user="a b; rm -rf ~"), "ssh -i .ssh_keys/NAME.pem 'a b; rm -rf ~@203.0.113.10'"),
    ],
)
def test_the_ssh_line_is_whole_and_quoted(fields: dict[str, Any], line: str) -> None:
    assert ssh_command(machine(**fields), "NAME") == line


def test_json_has_a_schema_version_money_as_text_and_null_for_the_unknown() -> None:
    shown = json.loads(
        json.dumps(
            to_dict(
                overview(
                    run(spent_cents=None, problems=(PROBLEM,)),
                    others=(machine(),),
                    strays=(machine(id="s"),),
                )
            )
        )
    )
    assert (
        shown["schema_version"] == 1
        and shown["others"] == {"count": 1, "usd_per_hour": "33.60"}
        and shown["not_in_the_ledger"] == ["s"]
    )
    one = shown["runs"][0]
    assert (
        one["state"],
        one["spent_usd"],
        one["limit_usd"],
        one["progress"]["step"],
        one["ended"],
    ) == ("training", None, "150.00", 7, False)
    assert one["phases"]["mid"]["state"] == "proven" and one["problems"] == [PROBLEM]


SAVED = SavedWork(
    "sft",
    40,
    "runs/ab12cd34/saved/sft",
    Pinned("me/r", "model", "f" * 40, (PinnedFile("x", 2_100_000_000, None, "y"),)),
)


def test_a_run_that_ended_short_shows_what_is_saved_and_the_line_that_goes_on_with_it() -> None:
    shown = text(overview(run(**ENDED, saved=SAVED)))
    assert (
        "saved     sft step 40 (2,100.0 MB)" in shown and "go on     just resume ab12cd34" in shown
    )
    one = to_dict(overview(run(**ENDED, saved=SAVED)))["runs"][0]
    assert (
        one["saved"] == {"phase": "sft", "step": 40}
        and one["resume"] == "just resume ab12cd34"
        and one["attempt"] == 1
    )
    for nothing in (
        run(**ENDED | {"phases": {"sft": PhaseReport("failed")}}),
        run(**ENDED | {"state": "succeeded"}),
        run(),
    ):
        assert (
            "just resume" not in text(overview(nothing))
            and to_dict(overview(nothing))["runs"][0]["resume"] is None
        )


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
