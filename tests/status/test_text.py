"""What `just status` prints: within 80 columns, nothing secret, and always the next command."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from nanolan.plan import Pinned, PinnedFile
from nanolan.run.ledger import Entry
from nanolan.run.record import PhaseReport
from nanolan.run.remaining import SavedWork
from nanolan.status.as_json import to_dict
from nanolan.status.text import WIDTH, render, ssh_command
from nanolan.status.view import Overview
from tests.support.text_fixtures import AGAIN, ENDED, ENTRY, PLAN, machine, overview, run, text

WHY = "the instance is gone and left no receipt: a limit of the provider, or it was deleted by hand"


PROBLEM = (
    "the Hub did not answer (ConnectError: [Errno 111] Connection refused) for "
    "me/lanbot-checkpoints/runs/ab12cd34/receipt.json, tried for 45 s. Is the network up? Try again"
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
        "deleted by 28 Jan",
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


@pytest.mark.parametrize(
    "tag, pull", [("d20", "just pull sft;"), ("x1", "just pull sft output-tag=x1;")]
)
def test_a_success_says_what_to_type_next(tag: str, pull: str) -> None:
    entry = structs.replace(ENTRY, plan=structs.replace(PLAN, output_tag=tag))
    shown = text(overview(run(entry=entry, state="succeeded", instance=None, receipt=None)))
    assert f"  next      {pull} just chat; just report ab12cd34" in shown
    assert "next" not in text(overview(run(**ENDED)))


def test_a_line_of_the_log_is_shown_to_its_end_where_the_cause_is() -> None:
    lines = (
        f"2026-01-28T20:53:39.123Z sft: {'/a/long/path' * 9}: RuntimeError: the cause",
        "y" * 5000,
    )
    shown = text(overview(run(**ENDED | {"log_tail": lines})))
    assert "RuntimeError: the cause" in " ".join(shown.replace("|", " ").split())
    assert max(map(len, shown.splitlines())) <= WIDTH and len(shown) < 3000


def test_a_phase_that_its_user_stopped_has_not_failed() -> None:
    ended = {"phases": {"sft": PhaseReport("failed", "runs/x/saved/sft", step=4)}, "receipt": None}
    stopped = text(overview(run(**ENDED | ended | {"state": "stopped", "reason": "user"})))
    assert "unfinished runs/x/saved/sft step 4" in stopped and "failed" not in stopped
    assert "sft       failed" in text(overview(run(**ENDED | ended)))
