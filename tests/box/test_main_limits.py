"""Stop requests, limits and the deletion at the end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.box_fixtures import REPO
from tests.support.box_main_fixtures import (
    LIFE_S,
    NewBox,
    dear,
    deletes,
    module,  # noqa: F401  # an autouse fixture
    new_box,  # noqa: F401  # a fixture
    verdict,
)
from tests.test_notify import Service, service  # noqa: F401  # a fixture


# ---- the user's word
def test_a_stop_request_on_the_hub_saves_uploads_and_deletes(new_box: NewBox) -> None:
    box = new_box({"steps": 1000, "seconds": 100})
    box.start()
    box.wait_for("sft step 2/1000")
    box.hub.put(
        REPO, {f"{box.plan.folder}/stop.json": b'{"attempt": 1, "at": "2026-11-24T12:00:00Z"}'}
    )
    assert box.started[0].wait(60) == 0
    assert verdict(box) == ("stopped", "user", 5) and box.deleted
    step = box.receipt()["phases"]["sft"]["step"]
    assert box.holds(f"{box.plan.folder}/saved/sft", step) and "Saved: " in box.receipt()["message"]


def test_a_limit_lowered_from_afar_stops_it_in_time_and_a_raised_one_lets_it_go_on_also_after_a_restart(
    new_box: NewBox,
) -> None:
    box = new_box({"steps": 1000, "seconds": 100}, age_s=LIFE_S - 60, life_s=10 * LIFE_S, **dear())
    box.start()
    box.wait_for("sft step 2/1000")
    wide = {"attempt": 1, "limit_cents": 10**7, "deadline": box.plan.deadline, "epoch": 1}
    box.hub.put(REPO, {f"{box.plan.folder}/limit.json": json.dumps(wide).encode()})
    box.wait_for("the limit is now $100,000.00")
    box.started[0].kill()
    box.started[0].wait()
    box.start()
    box.wait_for("attempt 2")
    assert json.loads((box.state / "limit.json").read_text())["limit_cents"] == 10**7
    low = (
        int(10 * (time.time() - box.instance.created_at)) + 200
    )  # in ten seconds, what is kept for saving begins
    box.hub.put(
        REPO, {f"{box.plan.folder}/limit.json": json.dumps(wide | {"limit_cents": low}).encode()}
    )
    box.wait_for("verdict: ")
    assert (
        box.started[-1].wait(60) == 0
        and verdict(box) == ("stopped", "spend_limit", 6)
        and box.deleted
    )


@pytest.mark.slow  # tests/box/watch/ reads the request
def test_a_stop_request_of_an_earlier_attempt_is_not_for_this_one(new_box: NewBox) -> None:
    box = new_box({"seconds": 2.5}, attempt=2)
    box.hub.put(REPO, {f"{box.plan.folder}/stop.json": b'{"attempt": 1}'})
    box.run()
    assert verdict(box) == ("succeeded", "", 0) and box.receipt()["attempt"] == 2


# ---- a limit is reached
@pytest.mark.parametrize(
    "limit, reason",
    [
        pytest.param(dear(), "spend_limit", id="money"),
        pytest.param({}, "max_duration", id="time", marks=pytest.mark.slow),
    ],
)
def test_a_limit_in_mid_training_stops_it_with_its_state_saved(
    new_box: NewBox, limit: dict[str, Any], reason: str
) -> None:
    life_s = LIFE_S if reason == "max_duration" else 10 * LIFE_S
    box = new_box({"steps": 1000, "seconds": 100}, age_s=LIFE_S - 13, life_s=life_s, **limit).run()
    assert verdict(box) == ("stopped", reason, 6) and box.deleted
    step = box.receipt()["phases"]["sft"]["step"]
    assert step > 1 and box.holds(f"{box.plan.folder}/saved/sft", step)
    assert f"Saved: {box.plan.folder}/saved/sft step {step}" in box.receipt()["message"]
    assert box.receipt()["message"].count("saved/sft step") == 1, (
        "the states before it are not there any more"
    )


def test_a_limit_that_leaves_nothing_to_save_says_that_the_work_is_lost(new_box: NewBox) -> None:
    box = new_box(
        {"steps": 1000, "seconds": 100, "no_save": 1},
        age_s=LIFE_S - 12,
        life_s=10 * LIFE_S,
        **dear(),
    ).run()
    assert verdict(box) == ("stopped", "limit_lost", 7) and box.deleted


# ---- deleting
def test_a_delete_that_answers_200_while_the_machine_stays_is_sent_again_and_only_for_this_machine(
    new_box: NewBox,
) -> None:
    box = new_box()
    box.unpack()
    box.trained()
    other = box.cloud.add_foreign("lanbot-sft-20260101-0000-00000000", 100)
    box.cloud.switch("delete_ignored", 1)
    box.run()
    assert (
        other.status == "active"
        and box.deleted
        and len(deletes(box)) == 3  # the last one looks again
        and "deleted; Shadeform shows: status deleting" in box.log()
    )
