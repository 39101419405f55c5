"""What `just why` says is lost, and what a run cost."""

from __future__ import annotations

import pytest
from msgspec import structs

from nanolan.run.ledger import Attempt
from nanolan.run.postmortem import Postmortem
from nanolan.status.view import RunView
from nanolan.status.why import answer, render, to_dict
from tests.support.why_fixtures import (
    ALL,
    ENTRY,
    LOST,
    box,
    ended,
    progress,
    run,
)


@pytest.mark.parametrize(
    "view, postmortem, lost",
    [
        (ended("failed", "oom"), box("oom", "x", 57), "steps 41 to 57 of sft"),
        (ended("failed", "oom"), box("oom", "x", 40), "nothing that was trained"),
        (ended("failed", "oom", saved=None), box("oom", "x", 57), "steps 1 to 57 of sft"),
        (ended("failed", "oom"), None, "nothing that was trained"),
        (
            ended("failed", "upload_failed", "x. NOT saved: sft step 57. Go on: just resume x"),
            None,
            "sft step 57",
        ),
        (
            run("lost", LOST, progress=progress(57)),
            None,
            "steps 41 to 57 of sft, and what it did after its last report",
        ),
        (run("lost", LOST), None, "nothing that was trained"),
        (run("lost", LOST, progress=progress(None)), None, "unknown: it did not report in time"),
    ],
    ids=[
        "after the state",
        "all kept",
        "no state",
        "no box",
        "not saved",
        "vanished",
        "never reported",
        "no step",
    ],
)
def test_what_is_lost_is_told_as_far_as_it_is_known(
    view: RunView, postmortem: Postmortem | None, lost: str
) -> None:
    assert answer(view, postmortem).lost == lost


def test_it_shows_money_by_stage_what_is_saved_the_exception_and_the_kernel() -> None:
    found = answer(
        ended("failed", "gpu_error"),
        box(
            "gpu_error",
            "a GPU failed",
            exception=("Traceback", "RuntimeError: CUDA"),
            seen={"kernel": ["NVRM: Xid 79"]},
        ),
    )
    shown = "\n".join(render(found))
    for part in (
        "ab12cd34 failed",
        "cause     a GPU failed",
        "error     RuntimeError: CUDA",
        "kernel    NVRM: Xid 79",
        "$3.10 of $150.00 spent: boot $0.03, sft.train $0.14",
        "mid whole, mid_checkpoints/d20 step 90",
        "sft step 40, runs/ab12cd34/saved/sft",
        "lost      steps 41 to 57",
        "advice",
        "next      just resume ab12cd34",
        "log       just logs ab12cd34",
    ):
        assert part in shown
    assert (
        to_dict(found)["stages_usd"] == {"boot": "0.03", "sft.train": "0.14"}
        and to_dict(found)["reason"] == "gpu_error"
    )


def test_earlier_attempts_are_told_and_count_for_the_limit_of_the_whole_run() -> None:
    entry = structs.replace(
        ENTRY,
        earlier=(Attempt(1, "i-0", 8_500, "failed: hang"), Attempt(2, None, None, "sold out")),
    )
    found = answer(ended("stopped", "spend_limit", entry=entry), None)
    assert found.next == "just resume ab12cd34 spend-limit=239"
    assert found.notes == (
        "attempt 1 before it: $85.00, failed: hang",
        "attempt 2 before it: ?, sold out",
    )


def test_an_evaluation_that_failed_in_a_run_that_succeeded_is_noted() -> None:
    found = answer(
        ended("succeeded", "", phases=ALL, saved=None),
        None,
        "2026-01-28T20:53:39Z box: phase sft: not evaluated: CUDA out "
        "of memory in evaluation at step 900\n",
    )
    assert found.notes == ("sft was not evaluated: CUDA out of memory in evaluation at step 900",)
