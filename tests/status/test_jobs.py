"""The state of an exported run, from its run folder alone: a machine that is silent is never taken for gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling
from nanolan.plan import HF_JOB, read_plan
from nanolan.run.jobs import newest_plan
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.run.presence import presence, unresolved
from nanolan.run.record import SILENT_S
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.records import Listing
from nanolan.sim.hub.server import HubServer
from nanolan.status.as_json import to_dict
from nanolan.status.status import look
from nanolan.status.text import render_run
from nanolan.times import now_utc, parse_time
from tests.support.box_fixtures import REPO, WRITERS, make_plan
from tests.support.job_fixtures import JobDesk


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"README.md": b"#"})
        yield server


@pytest.fixture
def desk(tmp_path: Path, server: HubServer) -> JobDesk:
    return JobDesk(tmp_path, server)


def test_before_a_machine_reports_it_is_pending(desk: JobDesk) -> None:
    view = desk.look()
    assert view.state == "pending" and "no machine of attempt 1 has reported" in view.reason
    assert "sky jobs queue" in view.reason and not view.ended and not view.problems


def test_while_a_machine_reports_it_is_in_that_state(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    view = desk.look()
    assert (view.state, view.reason, view.spent_cents) == ("training", "words", 80)
    text = "\n".join(render_run(view))
    assert "SkyPilot rents its machines" in text and "TRAINING" in text


def test_the_ledger_follows_the_attempts_of_the_run_folder(desk: JobDesk) -> None:
    desk.start()
    desk.beat(minutes_ago=40)
    desk.start("sky-1", minutes_ago=10)
    desk.beat(attempt=2)
    view = desk.look()
    assert view.entry.plan.attempt == 2 and view.state == "training"
    assert desk.entry.plan == view.entry.plan, "recorded"
    assert [a.number for a in desk.entry.earlier] == [1]
    assert "attempt 1: $" in "\n".join(render_run(view))


def test_a_silent_machine_may_bill_and_the_message_says_how_to_end_it(desk: JobDesk) -> None:
    desk.start()
    desk.beat(minutes_ago=SILENT_S / 60 + 1)
    seen = look(desk.ledger, [desk.entry], desk.api, lambda _: desk.hub)
    view = seen.runs[0]
    assert view.state == "unknown" and not view.ended and not desk.entry.gone
    error = seen.unresolved()
    assert isinstance(error, MayBeBilling)
    assert f"sky jobs cancel -n lanbot-{desk.plan.run_id}" in str(error)
    assert f"just stop {desk.plan.run_id} --cancelled" in str(error)


def test_a_hugging_face_job_is_over_after_its_timeout(tmp_path: Path, server: HubServer) -> None:
    times = {"created_at": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T01:00:00Z"}
    desk = JobDesk(tmp_path, server, platform=HF_JOB, **times)
    heard = now_utc() - parse_time("2026-01-01T00:50:00Z")
    desk.beat(minutes_ago=heard.total_seconds() / 60)
    view = desk.look()
    assert view.state == "lost" and "its timeout" in view.reason


@pytest.mark.parametrize(
    ("verdict", "reason"), [("succeeded", ""), ("stopped", "spend_limit"), ("failed", "nan")]
)
def test_a_receipt_is_the_end_and_nothing_is_left_to_delete(
    desk: JobDesk, verdict: str, reason: str
) -> None:
    desk.start()
    desk.beat()
    desk.end(verdict, reason)
    view = desk.look()
    assert (view.state, view.reason, view.unknown) == (verdict, reason, "") and view.ended
    assert desk.entry.gone and desk.entry.receipt


def test_a_receipt_of_an_earlier_attempt_does_not_end_a_later_one(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    desk.end("stopped", "spend_limit")
    desk.start("sky-2", minutes_ago=2)
    assert desk.look().state == "pending"


def test_a_cancelled_one_is_stopped(desk: JobDesk) -> None:
    desk.ledger.put(structs.replace(desk.entry, gone=True, note=STOPPED_BY_USER))
    assert desk.look().state == "stopped"


def test_a_hub_that_is_down_is_a_problem_and_never_an_end(desk: JobDesk, server: HubServer) -> None:
    desk.start()
    desk.beat()
    server.stop()
    view = desk.look()
    assert view.problems and not view.ended and not desk.entry.gone


def test_without_a_key_a_run_of_shadeform_is_still_asked_for_and_fails(desk: JobDesk) -> None:
    other = structs.replace(desk.plan, run_id="cafe0123", platform="shadeform")
    entries = [desk.entry, structs.replace(desk.entry, plan=other)]
    seen = look(desk.ledger, entries, Shadeform(None, "http://127.0.0.1:1/v1"), lambda _: desk.hub)
    assert seen.problems, "a failed look is no empty account"


def test_what_else_looks_at_the_account_leaves_jobs_alone(desk: JobDesk) -> None:
    assert unresolved([desk.entry], [], now_utc()) == []
    there = presence(desk.api.info, desk.entry, Listing([]), now_utc())
    assert there.machines == () and not there.gone, "another run must not write its folder"
    over = structs.replace(desk.entry, gone=True)
    assert presence(desk.api.info, over, Listing([]), now_utc()).gone


def test_of_a_plan_on_the_hub_only_what_a_machine_changes_counts() -> None:
    known = make_plan("http://127.0.0.1:1", "", platform="skypilot", phases=("mid", "sft"))
    later = structs.replace(
        known, attempt=2, phases=("sft",), limit_cents=5, hf_repo="evil/repo", run_name="other"
    )
    assert newest_plan(known, later) == structs.replace(
        known, attempt=2, phases=("sft",), limit_cents=5
    )
    for other in (
        structs.replace(later, run_id="cafe0123"),
        structs.replace(later, owner="0ther000"),
        structs.replace(later, platform="shadeform"),
        structs.replace(later, phases=("rl",)),
        structs.replace(known, attempt=0),
    ):
        assert newest_plan(known, other) == known


def test_the_json_of_a_job_names_the_platforms_job(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    seen = look(desk.ledger, [desk.entry], desk.api, lambda _: desk.hub)
    (run,) = to_dict(seen)["runs"]
    assert run["instance_id"] == "sky-1" and run["state"] == "training"
    assert run["machine_unknown"].startswith("SkyPilot rents its machines")


def test_a_plan_that_cannot_be_read_changes_nothing(desk: JobDesk, server: HubServer) -> None:
    server.put(REPO, {f"{desk.plan.folder}/plan.json": b"{"})
    desk.beat()
    assert desk.look().entry == desk.entry
    assert read_plan(desk.plan.to_json()) == desk.plan
