"""What goes wrong with the trainer, the Hub or the box program itself, and what is saved then."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.box.main import run
from nanolan.box.phase import _cause, save_s
from nanolan.cost.budget import ASSUMED
from nanolan.run.postmortem import read_postmortem
from tests.support.box_fixtures import REPO, until
from tests.support.box_main_fixtures import (
    LIFE_S,
    MID,
    SFT,
    NewBox,
    dear,
    deletes,
    module,  # noqa: F401  # an autouse fixture
    new_box,  # noqa: F401  # a fixture
    verdict,
)
from tests.support.saver_fixtures import machine
from tests.test_notify import Service, service  # noqa: F401  # a fixture

DELETE, COMMIT, PUT = (
    r"POST /v1/instances/.*/delete",
    rf"POST /api/models/{REPO}/commit",
    r"PUT /__lfs__/",
)


# ---- the trainer fails
def test_a_trainer_that_fails_leaves_its_log_and_its_last_whole_state(new_box: NewBox) -> None:
    box = new_box({"steps": 4, "save_at": 3, "exit_code": 1}).run()
    assert verdict(box) == ("failed", "trainer_failed", 5) and box.deleted
    saved = f"{box.plan.folder}/saved/sft"
    assert (
        box.log().count("sft step 4/4") == 2
        and "training again from the state of step 3" in box.log()
    )
    assert box.holds(saved, 3) and not [p for p in box.files() if p.startswith(SFT)]
    assert "sft step 4/4" in box.uploaded_log("error") and "exit code 1" in box.receipt()["message"]
    assert f"Saved: {saved} step 3" in box.receipt()["message"]
    phase = box.receipt()["phases"]["sft"]
    assert (phase["state"], phase["folder"], phase["step"], phase["loss_end"]) == (
        "failed",
        saved,
        3,
        2.0,
    )


def test_exit_0_without_a_checkpoint_is_a_failure(new_box: NewBox) -> None:
    box = new_box({"no_save": 1}, phases=("mid", "sft")).run()
    assert verdict(box) == ("failed", "trainer_failed", 5) and box.deleted
    assert "exit code 0" in box.receipt()["message"] and "sft step" not in box.log(), (
        "the next phase was not begun"
    )


def test_a_trainer_that_is_killed_is_started_once_more(new_box: NewBox) -> None:
    box = new_box({"die": 1}).run()
    assert (
        verdict(box)[0] == "succeeded"
        and box.log().count("step 5/5") == 2
        and "killed by signal 9" in box.log()
    )


def test_a_trainer_that_hangs_shows_its_stacks_and_goes_on_from_its_last_state(
    new_box: NewBox,
) -> None:
    box = new_box({"save_at": 3, "hang": 4, "once": 1}, watch_s={"train": 1.0}).run()
    assert verdict(box) == ("succeeded", "", 0) and box.holds(SFT, 5)
    log = box.log()
    assert (
        "no progress for 1 s in stage train at step 4; training again" in log
        and "Current thread" in log
    )
    assert "sft goes on from" in log and log.count("sft step 2/5") == 1, "it did not begin anew"


@pytest.mark.slow  # one hang is in the quick set
def test_a_trainer_that_hangs_twice_is_stopped_with_its_state_saved(new_box: NewBox) -> None:
    box = new_box({"save_at": 3, "hang": 4, "no_save": 1}, watch_s={"train": 1.0}).run()
    assert (
        verdict(box) == ("failed", "hang", 5)
        and box.deleted
        and box.holds(f"{box.plan.folder}/saved/sft", 3)
    )
    assert box.log().count("no progress for") == 3, "once more, then the verdict"
    left = read_postmortem(box.hub.read(REPO, f"{box.plan.folder}/postmortem.json"))
    assert left.cause == "the trainer made no progress in training at step 4" and (
        left.phase,
        left.step,
    ) == ("sft", 4)
    assert any("Current thread" in line for line in left.stacks) and any(
        "standin_trainer.py" in line for line in left.stacks
    )
    assert left.seen[
        "gpus"
    ] and "postmortem: cause: the trainer made no progress" in box.uploaded_log("error")


def test_a_stopped_trainer_gets_the_time_for_its_save_that_the_meter_keeps_back() -> None:
    for saved_s, want in ((2.0, 40.0), (120.0, 240.0), (300.0, 600.0)):
        m: Any = SimpleNamespace(
            meter=SimpleNamespace(margin=replace(ASSUMED["cuda"], checkpoint_s=saved_s))
        )
        assert save_s(m) == want


def test_an_evaluation_without_memory_says_where_it_was() -> None:
    tails = {
        "torch.OutOfMemoryError: CUDA out of memory. Tried": "CUDA out of memory in evaluation at step 900",
        "nanolan.train: the evaluation failed": "the evaluation failed",
        "words": "exit code 1",
    }
    for tail, want in tails.items():
        m: Any = SimpleNamespace(heartbeat=SimpleNamespace(log_tail=lambda size, tail=tail: tail))
        assert _cause(m, 1, 900) == want


@pytest.mark.slow  # the second loss is in the quick set
def test_numbers_that_are_lost_get_one_more_try_from_the_last_state(new_box: NewBox) -> None:
    box = new_box({"save_at": 3, "say_nan": 4, "once": 1}).run()
    assert verdict(box) == ("succeeded", "", 0) and "the loss is nan at step 4 of 5" in box.log()


def test_numbers_that_are_lost_again_end_the_run_and_keep_the_last_good_state(
    new_box: NewBox,
) -> None:
    box = new_box({"save_at": 3, "say_nan": 4}).run()
    assert verdict(box) == ("failed", "nan", 5) and box.holds(f"{box.plan.folder}/saved/sft", 3)
    message = box.receipt()["message"]
    assert (
        "the loss is nan at step 4 of 5" in message and f"just resume {box.plan.run_id}" in message
    )


# ---- the Hub is in trouble
@pytest.mark.slow  # tests/promises/test_insistence.py has it without a process
def test_a_hub_that_refuses_a_commit_gets_it_again(new_box: NewBox) -> None:
    box = new_box()
    box.start()
    box.wait_for("sft step 4/5")
    box.hub.fault(COMMIT, status=503, times=3)  # heartbeats take some of them
    assert box.started[0].wait(60) == 0
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5) and box.deleted


def test_a_hub_that_says_yes_and_holds_something_else_is_not_believed(new_box: NewBox) -> None:
    box = new_box()
    box.unpack()
    box.trained()
    stalled = box.hub.fault(PUT, "stall", seconds=1)
    box.start()
    until(lambda: not stalled.times)
    time.sleep(0.5)  # the heartbeats are over: the next commit is the checkpoint's
    box.hub.fault(
        COMMIT,
        status=200,
        body={
            "success": True,
            "commitOid": "f" * 40,
            "commitUrl": f"{box.hub.url}/{REPO}/commit/x",
        },
    )
    assert box.started[0].wait(60) == 0
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5)
    assert box.log().count("uploading chatsft") == 2 and "not proven yet" in box.log()


@pytest.mark.slow
def test_a_manifest_that_a_disk_damages_before_its_upload_is_written_anew(new_box: NewBox) -> None:
    box = new_box()
    box.unpack()
    box.trained()
    box.hub.fault(COMMIT, status=503, times=2)
    box.start()
    box.wait_for("uploading chatsft_checkpoints")
    (box.work / "trainer/out" / SFT / "step-000005/manifest.json").write_text("z")
    assert box.started[0].wait(60) == 0 and verdict(box) == ("succeeded", "", 0) and box.deleted
    assert "was damaged; written again" in box.log() and box.holds(SFT, 5)


def test_when_the_hub_takes_nothing_until_the_money_is_gone_the_log_says_what_was_lost(
    new_box: NewBox,
) -> None:
    box = new_box(age_s=LIFE_S - 6, life_s=10 * LIFE_S, **dear())
    box.unpack()
    box.trained()
    box.hub.fault(PUT, status=503, times=10_000)
    started = time.monotonic()
    box.run()
    assert (
        verdict(box) == ("failed", "limit_lost", 7)
        and box.deleted
        and time.monotonic() - started < 15
    )
    assert "NOT saved: sft step 5" in box.receipt()[
        "message"
    ] and "NOT saved: sft step 5" in box.uploaded_log("error")
    assert "deleting this instance: the money or time for saving is used up" in box.log()


@pytest.mark.slow  # the Hub's own client alone tries for 23 s
def test_a_hub_that_is_gone_for_good_does_not_keep_the_machine(new_box: NewBox) -> None:
    box = new_box(age_s=3 * LIFE_S - 8, life_s=36_000, **dear(12_000))
    box.instance.spec["auto_delete"]["spend_threshold"] = (
        "17.00"  # the provider is not in a hurry: it is the machine that must be
    )
    box.unpack()
    box.trained()
    box.hub.stop()
    box.run()
    assert (
        box.deleted
        and "NOT saved: sft step 5" in box.log()
        and "the log could not be uploaded" in box.log()
    )


# ---- the box program is killed, or started twice
def test_killed_in_mid_training_and_started_again_it_never_has_two_trainers(
    new_box: NewBox,
) -> None:
    box = new_box({"seconds": 3.0, "fork": 1})
    box.start()
    box.wait_for("sft step 2/5")
    first = {p.pid for p in box.trainers()}
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    assert {p.pid for p in box.trainers()} == first, (
        "the trainer lives on: its box program was killed"
    )
    second = box.start()
    box.wait_for("training (attempt 2)")
    until(lambda: {p.pid for p in box.trainers()} - first)
    assert not {p.pid for p in box.trainers()} & first
    assert second.wait(60) == 0
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5) and box.deleted


def test_killed_between_upload_and_delete_it_trains_nothing_again_and_ends_proven(
    new_box: NewBox,
) -> None:
    box = new_box()
    box.cloud.fault(DELETE, "stall", seconds=60)
    box.start()
    box.wait_for("deleting this instance: everything is proven")
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    box.run()
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5) and box.deleted
    assert box.log().count("step 5/5") == 1 and "step 5 is here already" in box.log()


@pytest.mark.slow  # two kills are in the quick set
def test_a_failure_stands_when_the_program_is_killed_before_it_could_delete(
    new_box: NewBox,
) -> None:
    box = new_box({"exit_code": 1, "seconds": 0.05})
    box.cloud.fault(DELETE, "stall", seconds=60)
    box.start()
    box.wait_for("deleting this instance: nothing is left to save")
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    box.run()
    assert (
        verdict(box) == ("failed", "trainer_failed", 5)
        and box.deleted
        and box.log().count("step 5/5") == 2
    )


@pytest.mark.slow  # two kills are in the quick set
def test_what_an_earlier_life_left_is_saved_even_if_the_machine_is_broken_now(
    new_box: NewBox,
) -> None:
    box = new_box(phases=("mid", "sft"), gpus=7)  # after the reboot a GPU has fallen off the bus
    box.unpack()
    box.trained("mid")
    box.trained("sft", final=False)
    box.run()
    assert verdict(box) == ("failed", "boot_failed", 5) and box.deleted
    assert box.holds(MID, 5) and box.holds(f"{box.plan.folder}/saved/sft", 5)
    assert [box.receipt()["phases"][p]["state"] for p in ("mid", "sft")] == ["proven", "failed"]


def test_a_second_copy_ends_at_once(new_box: NewBox) -> None:
    box = new_box({"seconds": 1.2})
    box.start()
    box.wait_for("sft step 1/5")
    started = time.monotonic()
    assert box.start().wait(20) == 0 and time.monotonic() - started < 3
    assert "another copy of the box program is running" in box.log()
    assert box.started[0].wait(60) == 0
    assert verdict(box)[0] == "succeeded" and box.log().count("training (attempt") == 1
    assert len(deletes(box)) == 2, "of the first copy, which looked again"


def test_three_box_programs_that_die_over_a_phase_are_enough(new_box: NewBox) -> None:
    box = new_box({"seconds": 0.05})
    box.unpack()
    (box.state / "attempts-sft").write_text("3")
    box.run()
    assert (
        verdict(box) == ("failed", "trainer_failed", 5)
        and box.deleted
        and "sft step" not in box.log()
    )


def test_the_error_that_ended_a_run_is_not_the_context_of_an_error_while_saving(
    tmp_path: Path,
) -> None:
    """Errors are explained by their chain of contexts: an older one in it would be named as the reason."""
    seen: list[BaseException | None] = []

    def hub(*args: object, **options: object) -> None:
        seen.append(sys.exc_info()[1])

    def inspect(*args: object, **options: object) -> str:
        raise MemoryError

    ended = machine(tmp_path, None, deps={"hub": hub, "inspect": inspect})
    ended.timeline = SimpleNamespace(enter=lambda stage: None)  # type: ignore[assignment]
    (ended.state / "attempts-sft").touch()
    with ThreadPoolExecutor(1) as pool, suppress(AttributeError):  # no bill for a receipt
        run(ended, pool)
    assert seen == [None]
