"""Why a run is where it is: for every way that a run can be, one line of cause, the money, what is left, and what to type."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from nanolan.run.postmortem import Postmortem
from nanolan.run.record import PhaseReport
from nanolan.shadeform.models import instance_of
from nanolan.status.view import RunView
from nanolan.status.why import WIDTH, answer, render, to_dict
from nanolan.times import iso, now_utc
from tests.support.why_fixtures import (
    ALL,
    BORN,
    ENTRY,
    LOST,
    PLAN,
    PROVEN,
    TORCHRUN,
    box,
    ended,
    progress,
    run,
)

MACHINE = instance_of(dict(id="i-1", name="x", status="active", hourly_price=100))


@pytest.mark.parametrize(
    "view, postmortem, log, cause, following",
    [
        # it goes on
        (
            run("training", progress=progress()),
            None,
            "",
            "nothing is wrong: training, step 57 of 90, reported 0:00:00 ago",
            "just watch ab12cd34",
        ),
        (
            run("pending", "creating"),
            None,
            "",
            "nothing is wrong: pending (creating)",
            "just watch ab12cd34",
        ),
        (run("booting"), None, "", "nothing is wrong: booting", "just watch ab12cd34"),
        (
            run("training", "Shadeform could not be asked", problems=("no network",)),
            None,
            "",
            "training, as far as is known (Shadeform could not be asked)",
            "just watch ab12cd34",
        ),
        # it succeeded
        (
            ended("succeeded", "", phases=ALL, saved=None),
            None,
            "",
            "nothing went wrong: every phase is proven on the Hub",
            "",
        ),
        # it ended short, with a black box
        (
            ended("failed", "oom", "phase sft: x"),
            box("oom", "CUDA out of memory in evaluation at step 900"),
            "",
            "CUDA out of memory in evaluation at step 900",
            "just resume ab12cd34 batch=4",
        ),
        (
            ended("failed", "a_reason_of_later", "words"),
            box("a_name_of_later", "words of later"),
            "",
            "words of later",
            "just resume ab12cd34",
        ),
        (
            ended("stopped", "spend_limit", "x"),
            box("spend_limit", "the spend limit was reached in training at step 57"),
            "",
            "the spend limit was reached in training at step 57",
            "just resume ab12cd34 spend-limit=154",
        ),
        (
            ended("stopped", "max_duration", "x"),
            box("max_duration", "the time limit was reached"),
            "",
            "the time limit was reached",
            "just resume ab12cd34 max-duration=8h",
        ),
        # with the rescue program's, which knows no cause
        (
            ended("failed", "boot_failed", "the machine gave up: fetch the code"),
            box("boot_failed", "", None),
            "",
            "fetch the code",
            "just resume ab12cd34",
        ),
        (
            ended("failed", "killed", "x", progress=progress()),
            box("killed", "", seen={"kernel": ["oom-kill:x"]}),
            "",
            "the machine's own memory was full and the kernel killed a process in training at step 57",
            "just resume ab12cd34 batch=4",
        ),
        # without one: older, or gone
        (
            ended("failed", "trainer_failed", "phase sft: exit code 1"),
            None,
            TORCHRUN,
            "CUDA out of memory",
            "just resume ab12cd34 batch=4",
        ),
        (
            ended("failed", "bad_data", "phase sft: data set x is missing"),
            None,
            "",
            "data set x is missing",
            "just launch phase=mid+sft",
        ),
        (
            ended("stopped", "user", "x", progress=progress()),
            None,
            "",
            "it was stopped by just stop at step 57",
            "just resume ab12cd34",
        ),
        (
            run("stopped", "stopped by just stop"),
            None,
            "",
            "it was stopped by just stop",
            "just resume ab12cd34",
        ),
        (
            run("lost", LOST, progress=progress()),
            None,
            "",
            "the instance is gone and left no receipt: taken by its provider, ended by a "
            "limit, or deleted by hand",
            "just resume ab12cd34",
        ),
        (
            run("lost", "no instance was ever seen"),
            None,
            "",
            "nothing was rented",
            "just resume ab12cd34",
        ),
        (
            run("failed", "create refused: just sold out; nothing was rented"),
            None,
            "",
            "the offer was sold out",
            "just resume ab12cd34",
        ),
        (
            run("failed", "instance i did not come up: no heartbeat. It is deleted (gone)"),
            None,
            "",
            "the instance never booted",
            "just resume ab12cd34",
        ),
        (
            run(
                "failed",
                "the provider says: no capacity; stop it: just stop ab12cd34 --now",
                instance=MACHINE,
            ),
            None,
            "",
            "the provider says: no capacity; stop it: just stop ab12cd34 --now",
            "just stop ab12cd34 --now",
        ),
    ],
)
def test_every_way_that_a_run_can_be_has_its_cause_and_its_next_command(
    view: RunView, postmortem: Postmortem | None, log: str, cause: str, following: str
) -> None:
    now = BORN + timedelta(minutes=1)
    if view.progress:
        view = replace(view, progress=structs.replace(view.progress, updated=iso(now_utc())))
    found = answer(view, postmortem, log, now)
    assert (re.sub("0:00:0.", "0:00:00", found.cause), found.next) == (cause, following)
    for line in render(found):
        assert len(line) <= WIDTH or line.startswith("  next"), line
    assert json.loads(json.dumps(to_dict(found)))["cause"] == found.cause


@pytest.mark.parametrize(
    "view, minutes, cause, following",
    [
        (
            run("training", instance=MACHINE, progress=progress()),
            21,
            "no heartbeat for 21 minutes: training, step 57 of 90. It",
            "just ssh ab12cd34",
        ),
        (
            run("training", instance=MACHINE, progress=progress()),
            19,
            "nothing is wrong",
            "just watch ab12cd34",
        ),
        (
            run("booting", instance=MACHINE),
            46,
            "no heartbeat for 46 minutes: booting. It deletes itself at $150.00 or",
            "just ssh ab12cd34",
        ),
        (
            run("pending"),
            46,
            "no heartbeat for 46 minutes: pending",
            "just watch ab12cd34",
        ),
        (run("booting"), 44, "nothing is wrong: booting", "just watch ab12cd34"),
    ],
    ids=["silent", "in time", "boots", "no machine", "boots yet"],
)
def test_a_run_that_is_silent_for_too_long_is_not_called_well(
    view: RunView, minutes: int, cause: str, following: str
) -> None:
    since = now_utc() if view.progress else BORN
    if view.progress:
        view = replace(view, progress=structs.replace(view.progress, updated=iso(since)))
    found = answer(view, None, "", since + timedelta(minutes=minutes, seconds=1))
    assert found.cause.startswith(cause) and found.next == following


@pytest.mark.parametrize("batch, want", [(8, "batch=4"), (2, "batch=1")])
def test_fewer_rows_are_half_of_those_that_were_asked_for(batch: int, want: str) -> None:
    entry = structs.replace(ENTRY, plan=structs.replace(PLAN, batch=batch))
    assert answer(ended("failed", "oom", entry=entry), None).next == f"just resume ab12cd34 {want}"


GATED = structs.replace(ENTRY, plan=structs.replace(PLAN, gate="val_bpb<0.4"))


MEASURED = {
    "mid": structs.replace(PROVEN, measured={"val_bpb": 0.4567}),
    "sft": PhaseReport("none"),
}


@pytest.mark.parametrize(
    "view, following",
    [
        (
            ended("failed", "oom", "CUDA is out of memory at 1 row(s) a micro-batch"),
            "just offers --all-configs",
        ),
        (
            ended("failed", "boot_failed", "1.0 GB of disk are free, 9 GB are needed"),
            "just offers --all-configs",
        ),
        (ended("failed", "disk_full", "x"), "just offers --all-configs"),
        (ended("failed", "nan", "x"), "just launch phase=mid+sft"),
        (
            ended(
                "failed",
                "bad_data",
                "a model of 9M parameters needs 43 GiB of GPU memory, this one has 40",
            ),
            "just offers --all-configs",
        ),
        (
            ended(
                "failed", "bad_data", "cannot go on from the saved step 9: data was 'a' and is 'b'"
            ),
            "just launch phase=mid+sft",
        ),
        (
            ended(
                "failed",
                "limit_lost",
                "9 minutes used of max-duration, the instance deletes itself at x. NOT saved: sft step 9",
            ),
            "just resume ab12cd34 max-duration=8h",
        ),
        (
            ended(
                "failed",
                "limit_lost",
                "9 minutes used, the instance deletes itself at x. NOT saved: sft step 9",
            ),
            "just resume ab12cd34 spend-limit=154",
        ),
        (
            ended("failed", "limit_lost", "$9 of the limit of $10 used. NOT saved: sft step 9"),
            "just resume ab12cd34 spend-limit=154",
        ),
        (
            ended(
                "stopped",
                "gate",
                "sft was not started: val_bpb is 0.4567",
                entry=GATED,
                phases=MEASURED,
            ),
            "just resume ab12cd34 'gate=val_bpb<0.458'",
        ),
        (
            ended(
                "stopped",
                "gate",
                "sft was not started: x. Go on: just resume ab12cd34 'gate=val_bpb<0.9'",
                entry=GATED,
                phases=MEASURED,
            ),
            "just resume ab12cd34 'gate=val_bpb<0.9'",
        ),
        (
            ended(
                "stopped",
                "gate",
                "sft was not started: x. Go on: just resume ab12cd34 gate=$(reboot)",
                entry=GATED,
            ),
            "just resume ab12cd34 gate=none",
        ),
        (run("failed", "create refused: HTTP 400 quota"), "just offers --all-configs"),
    ],
)
def test_the_next_command_is_none_that_must_end_in_the_same_way(
    view: RunView, following: str
) -> None:
    assert answer(view, None).next == following


def test_a_postmortem_of_a_lost_limit_names_the_limit_that_was_hit_too() -> None:
    told = "9 minutes used of max-duration, the instance deletes itself at x"
    assert (
        answer(
            ended("failed", "limit_lost", told), box("limit_lost", "the time limit was reached")
        ).next
        == "just resume ab12cd34 max-duration=8h"
    )


@pytest.mark.parametrize("rows, want", [(8, "batch=4"), (3, "batch=1")])
def test_fewer_rows_are_half_of_those_that_the_trainer_tried_last(rows: int, want: str) -> None:
    view = ended(
        "failed",
        "oom",
        f"phase sft: CUDA is out of memory at {rows} row(s) a micro-batch; try a smaller --batch",
    )
    assert answer(view, None).next == f"just resume ab12cd34 {want}".rstrip()
