"""What `just why` reads, and where from."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from nanolan.run.record import to_json
from nanolan.sim.hub.server import HubServer
from nanolan.status.text import render_run
from nanolan.status.why import answer, look_into, render
from tests.support.box_fixtures import REPO
from tests.support.why_fixtures import (
    ALL,
    TORCHRUN,
    at,
    box,
    ended,
    progress,
    run,
    server,  # noqa: F401  # a fixture
)


def test_the_postmortem_of_this_attempt_counts_and_no_other(server: HubServer) -> None:
    server.put(REPO, {"runs/ab12cd34/postmortem.json": to_json(box("oom", "CUDA out of memory"))})
    hub, view = at(server, ended("failed", "hang", "x"))
    assert look_into(hub, view).cause == "CUDA out of memory"
    server.put(
        REPO,
        {
            "runs/ab12cd34/postmortem.json": to_json(
                structs.replace(box("oom", "CUDA out of memory"), attempt=2)
            )
        },
    )
    assert look_into(hub, view).cause == "the trainer made no progress"


def test_without_a_postmortem_the_error_log_is_read(server: HubServer) -> None:
    server.put(REPO, {"logs/error-x.log": TORCHRUN.encode()})
    found = look_into(*at(server, ended("failed", "trainer_failed")))
    assert (
        found.cause == "CUDA out of memory"
        and found.exception.startswith("torch.OutOfMemoryError")
        and not found.problems
    )


def test_a_hub_that_does_not_answer_is_a_problem_and_never_nothing(server: HubServer) -> None:
    hub, view = at(server, ended("failed", "hang", "x"))
    server.fault(r".", status=503, times=1000)
    found = look_into(hub, view, ("the account could not be read",))
    assert found.cause == "the trainer made no progress" and len(found.problems) >= 2
    assert "unavailable: the Hub is down" in "\n".join(render(found))
    server.faults.clear()


def test_a_damaged_postmortem_is_a_problem_and_the_rest_is_told(server: HubServer) -> None:
    server.put(REPO, {"runs/ab12cd34/postmortem.json": b"{"})
    found = look_into(*at(server, ended("failed", "hang", "x")))
    assert (
        found.cause == "the trainer made no progress"
        and "postmortem.json cannot be read" in found.problems[0]
    )


def test_a_secret_in_a_public_log_is_told() -> None:
    view = ended("succeeded", "", phases=ALL, saved=None)
    assert view.receipt
    told = replace(
        view, receipt=structs.replace(view.receipt, warning="A SECRET WAS PRINTED INTO THE LOG")
    )
    assert "A SECRET WAS PRINTED" in "\n".join(
        render(answer(told, None))
    ) and "SECRET" not in "\n".join(render(answer(view, None)))


def test_an_upload_that_fails_is_told_by_why_and_status_and_is_not_called_well() -> None:
    told = structs.replace(
        progress(),
        trouble="sft: HTTP 403: storage limit reached; it is tried again",
        trouble_since="2026-01-02T03:04:05Z",
    )
    view = run("uploading", progress=told)
    assert (
        "storage limit reached" in answer(view, None).cause
        and "nothing is wrong" not in answer(view, None).cause
    )
    text = " ".join(" ".join(render_run(view)).split())
    assert "TROUBLE sft: HTTP 403: storage limit reached; it is tried again (since 2 Jan " in text
