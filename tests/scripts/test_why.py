"""`just why`: an answer for every run, from whatever is left of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.run.postmortem import Postmortem
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO
from tests.support.core_fixtures import script
from tests.support.ssh_fixtures import environment
from tests.support.status_fixtures import RUN, TRAINING, Desk, new_desk, receipt

BOX = Postmortem(RUN, "oom", "CUDA out of memory in evaluation at step 900", phase="sft", step=900)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made


def why(desk: Desk, *words: str) -> Any:
    return script("why", *words, env=environment(desk))


def gone(desk: Desk) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")


def test_a_run_that_goes_on_has_nothing_wrong(desk: Desk) -> None:
    desk.tell(progress=structs.replace(TRAINING, step=410, steps=900, updated=iso(now_utc())))
    done = why(desk)
    assert (
        done.returncode == 0
        and "nothing is wrong: training, step 410 of 900" in done.stdout
        and "just watch" in done.stdout
    )


def test_a_failed_run_has_its_cause_in_one_line_also_as_json(desk: Desk) -> None:
    desk.tell(receipt=receipt("failed", "oom"), postmortem=BOX)
    gone(desk)
    done = why(desk, RUN[:4])
    assert (
        done.returncode == 0
        and "  cause     CUDA out of memory in evaluation at step 900\n" in done.stdout
    )
    assert f"  next      just resume {RUN} batch=4\n" in done.stdout
    told = json.loads(why(desk, "--json").stdout)
    assert (told["schema_version"], told["reason"], told["cause"]) == (
        1,
        "oom",
        BOX.cause,
    ) and told["next"].startswith("just resume")
    assert told["spent_usd"] == "1.23" and told["problems"] == []


def test_a_machine_that_vanished_is_explained_by_what_it_reported(desk: Desk) -> None:
    desk.tell(progress=structs.replace(TRAINING, step=57, steps=90, stage="train"))
    gone(desk)
    done = why(desk)
    assert (
        done.returncode == 0
        and "gone and left no receipt" in done.stdout
        and "steps 1 to 57 of sft, and what it did after" in done.stdout
    )


def test_what_could_not_be_read_is_said_and_is_exit_code_1(desk: Desk) -> None:
    desk.tell(receipt=receipt("failed", "hang"))
    gone(desk)
    desk.hub.put(REPO, {f"runs/{RUN}/postmortem.json": b"nonsense"})
    done = why(desk)
    assert (
        done.returncode == 1
        and "the trainer made no progress" in done.stdout
        and "unavailable: " in done.stdout
    )


def test_what_a_run_tells_drives_no_terminal(desk: Desk) -> None:
    desk.tell(
        receipt=receipt("failed", "oom"), postmortem=structs.replace(BOX, cause="evil \x1b]0;x\x07")
    )
    gone(desk)
    assert "\x1b" not in why(desk).stdout


@pytest.mark.parametrize("words", [("zz",), ("a", "b"), ("--nonsense",)], ids=str)
def test_bad_words_are_usage_errors(desk: Desk, words: tuple[str, ...]) -> None:
    assert why(desk, *words).returncode == 2


def test_status_points_at_it(desk: Desk) -> None:
    desk.tell(receipt=receipt("failed", "oom"), postmortem=BOX)
    gone(desk)
    assert f"just why {RUN}" in script("check_status", env=environment(desk)).stdout
