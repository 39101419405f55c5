"""The records of a run are decoded strictly, and the verdict is an exit code."""

from __future__ import annotations

import pytest

from nanolan.checkpoint.manifest import Manifest
from nanolan.errors import BadAnswer
from nanolan.run.record import (
    FAILED,
    LOST,
    STOPPED,
    SUCCEEDED,
    PhaseReport,
    Progress,
    Receipt,
    error_of,
    log_path,
    phase_report,
    read_progress,
    read_receipt,
    to_json,
)
from tests.support.box_fixtures import make_plan


def test_progress_and_receipt_come_back_as_they_were_written() -> None:
    phases = {"sft": PhaseReport("proven", "chatsft_checkpoints/d20", "f" * 40, 90, 2.5, 1.5)}
    progress = Progress("ab12cd34", "training", phases, "2026-01-28T20:53:39Z", step=3, loss=2.5)
    receipt = Receipt(
        "ab12cd34",
        STOPPED,
        "spend_limit",
        "words",
        phases,
        "logs/x.log",
        1234,
        99,
        "2026-01-28T20:53:39Z",
    )
    assert (
        read_progress(to_json(progress)) == progress and read_receipt(to_json(receipt)) == receipt
    )


@pytest.mark.parametrize(
    "extra, tokens",
    [
        ({"tokens": 424_000_000}, 424_000_000),
        ({}, None),
        ({"tokens": "many"}, None),
        ({"tokens": None}, None),
        ({"tokens": 1.5}, None),
        ({"tokens": True}, None),
    ],
    ids=str,
)
def test_the_trainers_token_count_is_in_the_phase_report(
    extra: dict[str, object], tokens: int | None
) -> None:
    manifest = Manifest("ab12cd34", "sft", 90, (), extra={"loss_start": 2.0, **extra})
    report = phase_report("proven", "chatsft_checkpoints/d20", manifest)
    assert report.tokens == tokens and report.loss_start == 2.0
    assert (
        read_receipt(to_json(Receipt("ab12cd34", "succeeded", phases={"sft": report}))).phases[
            "sft"
        ]
        == report
    )


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"<html>", b'{"run_id": 5}', b'{"run_id": "a"}', b"\xff"]
)
def test_anything_else_is_a_bad_answer(text: bytes) -> None:
    for read in (read_progress, read_receipt):
        with pytest.raises(BadAnswer, match="cannot be read"):
            read(text)  # type: ignore[operator]


@pytest.mark.parametrize("updated", ["", "soon", "2026-13-01T00:00:00Z", "x" * 9999])
def test_a_heartbeat_without_a_time_is_refused(updated: str) -> None:
    with pytest.raises(BadAnswer, match="cannot be read"):
        read_progress(to_json(Progress("ab12cd34", "training", {}, updated)))


@pytest.mark.parametrize(
    "verdict, reason, code",
    [
        (SUCCEEDED, "", 0),
        (FAILED, "trainer_failed", 5),
        (FAILED, "boot_failed", 5),
        (FAILED, "upload_failed", 5),
        (LOST, "", 5),
        (STOPPED, "spend_limit", 6),
        (STOPPED, "max_duration", 6),
        (STOPPED, "limit_lost", 7),
        (FAILED, "limit_lost", 7),
        (STOPPED, "user", 5),
    ],
)
def test_every_verdict_has_its_exit_code(verdict: str, reason: str, code: int) -> None:
    error = error_of(Receipt("ab12cd34", verdict, reason, "what happened"))
    assert (error.exit_code if error else 0) == code
    assert error is None or str(error) == f"run ab12cd34 {verdict}: what happened"


def test_the_log_path_is_that_of_the_guide() -> None:
    plan = make_plan(
        "", "", run_id="ab12cd34", phases=("mid", "sft"), created_at="2026-01-28T20:53:39Z"
    )
    assert log_path(plan, STOPPED, "user").startswith("logs/stopped-lanbot-mid-sft-")
    assert log_path(plan, STOPPED, "spend_limit").startswith("logs/error-")
    assert log_path(plan, SUCCEEDED) == "logs/success-lanbot-mid-sft-20260128-2053-ab12cd34.log"
    assert {log_path(plan, v) for v in (FAILED, STOPPED, LOST)} == {
        "logs/error-lanbot-mid-sft-20260128-2053-ab12cd34.log"
    }
