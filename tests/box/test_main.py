"""The box program, the real one, with a stand-in trainer: nothing lost, nothing billed without bound, no secret shown."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.box.phase import _cause, save_s
from nanolan.cost.budget import ASSUMED
from nanolan.errors import NanolanError
from nanolan.plan import Predicted, Rented
from nanolan.redact import NOTE
from nanolan.run.postmortem import read_postmortem
from nanolan.run.record import error_of, read_receipt
from nanolan.sim.box import kill_until_none, marked
from nanolan.sim.marker import MARKER
from tests.support.box_fixtures import KEY, REPO, TOKEN, Box, no_box_left, pin, until
from tests.test_notify import Service, service  # noqa: F401  # a fixture

module = pytest.fixture(autouse=True, scope="module")(no_box_left)
NewBox = Callable[..., Box]
SFT, MID = "chatsft_checkpoints/d20", "mid_checkpoints/d20"
DELETE, COMMIT, PUT = (
    r"POST /v1/instances/.*/delete",
    rf"POST /api/models/{REPO}/commit",
    r"PUT /__lfs__/",
)
# 160 s of life: training is stopped after 150 s (twice the margin before the end), everything given up after 159 s
LIFE_S = 160.0


@pytest.fixture
def new_box(tmp_path: Path) -> Iterator[NewBox]:
    """Boxes that are ended when the test ends."""
    boxes: list[Box] = []

    def make(recipe: dict[str, float] | None = None, **how: Any) -> Box:
        boxes.append(Box(tmp_path / str(len(boxes)), recipe=recipe or {}, **how))
        return boxes[-1].__enter__()

    yield make
    for box in boxes:
        box.__exit__()


def verdict(box: Box) -> tuple[str, str, int]:
    """Verdict, reason and exit code of the receipt on the Hub."""
    receipt = read_receipt(box.hub.read(REPO, f"{box.plan.folder}/receipt.json"))
    error: NanolanError | None = error_of(receipt)
    return receipt.verdict, receipt.reason, error.exit_code if error else 0


def deletes(box: Box) -> list[float]:
    return [r.t for r in box.cloud.requests if r.path.endswith("/delete")]


def dear(cents: int = 36_000) -> dict[str, Any]:
    """An offer at $360 an hour, ten cents a second, and the limit of $16 that it reaches after LIFE_S."""
    return dict(
        offer=Rented("hyperstack", "canada-1", "H100x8", "H100", 8, 80, cents, "os"),
        limit_cents=1600,
    )


# ---- all goes well


@pytest.mark.shows(
    "file", "*/box/*", "the run is called by its secrets, so that the trainer prints them"
)
def test_a_run_trains_uploads_proves_and_deletes_its_machine(new_box: NewBox) -> None:
    box = new_box(
        run_name=f"{TOKEN}-{KEY}", public=True
    )  # the trainer prints its run name: the secrets are in its output
    box.unpack(downloaded=False)
    box.instance.spec["name"] = f"called-{TOKEN}\x1b[2J"  # which the box program itself prints
    box.run()
    assert verdict(box) == ("succeeded", "", 0) and box.holds(SFT, 5) and box.deleted
    assert f"this is instance {box.id} (called-***?[2J)" in box.log() and NOTE in box.log(), (
        "masked on the machine's own disk"
    )
    receipt = box.receipt()
    phase = receipt["phases"]["sft"]
    assert (
        phase["state"],
        phase["folder"],
        phase["step"],
        phase["loss_start"],
        phase["loss_end"],
    ) == ("proven", SFT, 5, 2.8, 2.0)
    assert box.hub.files(REPO, rev=phase["revision"])[f"{SFT}/model_000005.pt"].size == 64 * 1024
    assert (
        receipt["spent_cents"] >= 1
        and receipt["log"] == f"logs/success-{box.plan.instance_name}.log"
    )

    raw, log = box.log(), box.uploaded_log("success")
    assert TOKEN in raw and KEY in raw, "they were really printed"
    assert (
        "A SECRET WAS PRINTED" in receipt["warning"] == receipt["message"]
        and "WARNING: A SECRET" in log.splitlines()[-1]
    )
    assert "***-***: sft from" in log and "sft step 5/5" in log and "verdict: succeeded" in log
    for path in box.files():
        data = box.hub.read(REPO, path)
        assert TOKEN.encode() not in data and KEY.encode() not in data, path
    assert box.hub.read(REPO, f"{box.plan.folder}/metrics.jsonl").count(b"\n") == 5
    commits = [line["path"] for line in box.hub.log if "/commit/" in line["path"]]
    with_model = [c for c in history(box) if f"{SFT}/model_000005.pt" in c["added"]]
    assert (
        commits
        and len(with_model) == 1
        and {f"{SFT}/manifest.json", f"{SFT}/meta_000005.json"} <= with_model[0]["added"]
    )
    assert not box.trainers()


def history(box: Box) -> list[dict[str, Any]]:
    """What each commit added."""
    repo = box.hub.store.load("model", REPO)
    assert repo
    out, commit = [], repo.at("main")
    while commit.parent:
        before = repo.commits[commit.parent].files
        out.append(
            {
                "title": commit.title,
                "added": {p for p, b in commit.files.items() if before.get(p) != b},
            }
        )
        commit = repo.commits[commit.parent]
    return out


def test_the_next_phase_starts_from_the_last_when_that_is_proven(new_box: NewBox) -> None:
    box = new_box(phases=("mid", "sft")).run()
    assert verdict(box)[0] == "succeeded" and box.holds(MID, 5) and box.holds(SFT, 5)
    log = box.log()
    assert (
        log.index("phase mid: proven")
        < log.index("sft step 1/5")
        < log.index("deleting for Proven")
    )
    assert f"sft from {box.work}/trainer/out/mid_checkpoints/d20/step-000005" in log
    assert f"{MID}/model_000010.pt" not in box.files(), "the older step of that folder is gone"


# ---- the trainer fails


def test_a_trainer_that_fails_leaves_its_log_and_its_last_whole_state(new_box: NewBox) -> None:
    box = new_box({"steps": 4, "save_at": 3, "exit_code": 1}).run()
    assert verdict(box) == ("failed", "trainer_failed", 5) and box.deleted
    saved = f"{box.plan.folder}/saved/sft"
    assert (
        box.log().count("sft step 4/4") == 2 and "training again from the last state" in box.log()
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
        m: Any = SimpleNamespace(heartbeat=SimpleNamespace(log_tail=lambda tail=tail: tail))
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


# ---- after a phase


def test_the_evaluation_runs_while_the_checkpoint_is_uploaded_and_gets_into_its_meta(
    new_box: NewBox,
) -> None:
    box = new_box({"exam_seconds": 1.0}, evaluate="quick").run()
    log = box.log()
    began, ended = log.index("phase sft: evaluation (quick)"), log.index("verdict: succeeded")
    assert began < log.index("phase sft: proven") < ended and log.index("uploading chatsft") < ended
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5)
    meta = json.loads(box.hub.read(REPO, f"{SFT}/meta_000005.json"))
    assert meta["mmlu_acc"] == 0.5 and meta["evaluation"]["chatcore"] == 0.25
    phase = box.receipt()["phases"]["sft"]
    assert phase["measured"] == {"val_bpb": 0.4, "mmlu_acc": 0.5, "chatcore": 0.25}
    assert (
        box.hub.files(REPO, rev=phase["revision"])[f"{SFT}/meta_000005.json"]
        == box.files()[f"{SFT}/meta_000005.json"]
    )
    assert box.receipt()["stages"]["sft.evaluate"] >= 1


@pytest.mark.parametrize(
    "recipe", [{"exam_fails": 1}, {"exam_seconds": 30}], ids=["fails", "hangs"]
)
def test_an_evaluation_that_fails_or_hangs_fails_no_run(
    new_box: NewBox, recipe: dict[str, float]
) -> None:
    box = new_box(recipe, evaluate="quick", watch_s={"evaluate": 1.0}).run()
    assert (
        verdict(box) == ("succeeded", "", 0)
        and box.holds(SFT, 5)
        and "phase sft: not evaluated: " in box.log()
    )
    assert "evaluation" not in json.loads(box.hub.read(REPO, f"{SFT}/meta_000005.json"))


@pytest.mark.slow  # kills before and after it are in the quick set
def test_a_box_program_killed_in_the_evaluation_evaluates_again_and_trains_nothing_again(
    new_box: NewBox,
) -> None:
    box = new_box({"exam_seconds": 2.0}, evaluate="quick")
    box.start()
    box.wait_for("phase sft: proven")
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    box.run()
    assert (
        verdict(box) == ("succeeded", "", 0)
        and box.log().count("sft step 5/5") == 1
        and box.holds(SFT, 5)
    )
    assert (
        json.loads(box.hub.read(REPO, f"{SFT}/meta_000005.json"))["evaluation"]["chatcore"] == 0.25
    )


def test_a_gate_that_stays_shut_ends_the_run_cleanly_with_the_line_to_go_on(
    new_box: NewBox,
) -> None:
    box = new_box(phases=("mid", "sft"), gate="val_bpb<0.3").run()
    assert verdict(box) == ("stopped", "gate", 6) and box.holds(MID, 5) and box.deleted
    assert (
        "val_bpb is 0.4" in (message := box.receipt()["message"])
        and f"just resume {box.plan.run_id}" in message
    )
    assert "sft step" not in box.log() and "deleting for NothingToSave: gate" in box.log()


@pytest.mark.slow  # the shut gate and two phases are in the quick set
def test_an_open_gate_lets_the_next_phase_begin(new_box: NewBox) -> None:
    box = new_box(phases=("mid", "sft"), gate="val_bpb<0.5").run()
    assert verdict(box) == ("succeeded", "", 0) and box.holds(SFT, 5)


def test_a_phase_that_the_money_does_not_cover_is_not_begun(new_box: NewBox) -> None:
    box = new_box(
        phases=("mid", "sft"), predicted=Predicted(1, 2, 3, {"mid": 500, "sft": 2000})
    ).run()
    assert verdict(box) == ("stopped", "spend_limit", 6) and box.holds(MID, 5)
    assert (
        "sft was not started" in (message := box.receipt()["message"])
        and "$20.00" in message
        and "sft step" not in box.log()
    )


def test_start_phase_and_end_are_told_to_the_users_own_service_once_each_over_a_restart(
    new_box: NewBox,
    service: Service,
) -> None:
    box = new_box({"seconds": 2.0})
    box.unpack()
    secrets = box.state / "secrets.json"
    secrets.write_text(json.dumps(json.loads(secrets.read_text()) | {"NOTIFY_URL": service.url()}))
    box.start()
    box.wait_for("sft step 1/")
    box.started[0].kill()
    box.started[0].wait()
    box.run()
    told = [(g["title"].removeprefix("lanbot-v3 sft: "), g["type"]) for g in service.got]
    assert told == [("started", "info"), ("sft proven", "info"), ("succeeded", "success")]
    assert (
        "$1.00/h" in service.got[0]["message"]
        and f"{SFT} step 5 is on the Hub" in service.got[1]["message"]
    )
    assert (
        f"Proven on the Hub: {SFT} step 5" in service.got[2]["message"] and MARKER not in box.log()
    )


def test_a_service_that_is_gone_fails_no_run(new_box: NewBox) -> None:
    box = new_box()
    box.unpack()
    secrets = box.state / "secrets.json"
    secrets.write_text(
        json.dumps(json.loads(secrets.read_text()) | {"NOTIFY_URL": f"json://127.0.0.1:1/{MARKER}"})
    )
    assert verdict(box.run()) == ("succeeded", "", 0) and box.deleted
    assert "notification 1 not sent (started)" in box.log() and MARKER not in box.log()


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


def test_a_stop_request_of_an_earlier_attempt_is_not_for_this_one(new_box: NewBox) -> None:
    box = new_box({"seconds": 2.5}, attempt=2)
    box.hub.put(REPO, {f"{box.plan.folder}/stop.json": b'{"attempt": 1}'})
    box.run()
    assert verdict(box) == ("succeeded", "", 0) and box.receipt()["attempt"] == 2


# ---- states on the way


def test_states_are_uploaded_while_it_trains_and_only_the_newest_is_kept_until_the_phase_is_proven(
    new_box: NewBox,
) -> None:
    box = new_box({"steps": 40, "seconds": 8, "save_every": 8}, upload_minutes=0.01)
    saved = f"{box.plan.folder}/saved/sft"
    box.start()
    until(lambda: any(p.startswith(f"{saved}/model_") for p in box.files()), 30)
    box.wait_for("state of step 24 proven", 30)
    assert [p for p in box.files() if p.startswith(f"{saved}/model_")] in (
        [f"{saved}/model_0000{n}.pt"] for n in (24, 32)
    )
    assert box.started[0].wait(60) == 0
    assert verdict(box) == ("succeeded", "", 0) and not [
        p for p in box.files() if p.startswith(saved)
    ]


def test_a_machine_that_vanishes_leaves_its_newest_uploaded_state(new_box: NewBox) -> None:
    box = new_box({"steps": 1000, "seconds": 100, "save_every": 5}, upload_minutes=0.01)
    box.start()
    box.wait_for("proven in")
    kill_until_none(lambda: marked({box.mark}))
    manifest = json.loads(box.hub.read(REPO, f"{box.plan.folder}/saved/sft/manifest.json"))
    assert not manifest["final"] and box.holds(f"{box.plan.folder}/saved/sft", manifest["step"])


@pytest.mark.slow
def test_another_machine_goes_on_from_a_state_on_the_hub(new_box: NewBox) -> None:
    first = new_box({"save_at": 3, "exit_code": 1}).run()
    saved = f"{first.plan.folder}/saved/sft"
    second = new_box(
        run_id=first.plan.run_id,
        attempt=2,
        hub=first.hub,
        resume=pin(first.hub, REPO, only=lambda p: saved in p),
    ).run()
    assert verdict(second) == ("succeeded", "", 0) and second.holds(SFT, 5)
    assert (
        "continues from the state saved at step 3" in second.log()
        and "sft step 3/5" not in second.log()
    )


# ---- before any training


def test_another_number_of_gpus_than_rented_ends_the_run_before_it_trains(new_box: NewBox) -> None:
    box = new_box(gpus=7).run()
    assert verdict(box) == ("failed", "boot_failed", 5) and box.deleted
    assert (
        "8 GPUs were rented, nvidia-smi shows 7" in box.receipt()["message"]
        and "training (attempt" not in box.log()
    )


@pytest.mark.parametrize(
    "runs, ends", [(3, ("failed", "boot_failed", 5)), (2, ("succeeded", "", 0))]
)
def test_a_machine_that_is_slow_is_given_back_by_its_first_steps_once_three_runs_have_measured(
    new_box: NewBox, runs: int, ends: tuple[str, str, int]
) -> None:
    box = new_box({"steps": 20, "seconds": 2}, usual={"sft": 1000.0}, usual_runs=runs).run()
    assert (
        verdict(box) == ends and box.deleted and "the machine is slow: 1 tok/s in sft" in box.log()
    )


def test_a_run_says_that_it_trains_when_its_first_steps_are_done(new_box: NewBox) -> None:
    box = new_box({"steps": 40, "seconds": 6})
    box.start()
    box.wait_for("sft step 2/40")
    assert progress(box)["state"] == "preparing"
    until(lambda: progress(box)["state"] == "training")
    assert box.started[0].wait(60) == 0


def progress(box: Box) -> dict[str, Any]:
    return json.loads(box.hub.read(REPO, f"{box.plan.folder}/progress.json"))


def test_a_plan_with_an_unknown_field_is_refused_and_the_machine_deletes_itself(
    new_box: NewBox,
) -> None:
    box = new_box()
    box.unpack()
    (box.state / "plan.json").write_text(
        json.dumps(json.loads(box.plan.to_json()) | {"from_the_future": 1})
    )
    box.run()
    assert verdict(box) == ("failed", "boot_failed", 5) and box.deleted
    assert "from_the_future" in box.receipt()["message"] and "training (attempt" not in box.log()


def test_inputs_that_are_not_what_was_pinned_end_the_run_before_it_trains(new_box: NewBox) -> None:
    box = new_box()
    box.unpack(downloaded=False)
    box.hub.store.object(box.files()["tokenizer/tokenizer.pkl"].sha256).write_bytes(b"a tokenizeR")
    box.run()
    assert (
        verdict(box) == ("failed", "error", 5)
        and box.deleted
        and "other bytes" in box.receipt()["message"]
    )
    assert "training (attempt" not in box.log()


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
    assert "deleting for MoneyStop" in box.log()


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
        and len(deletes(box)) == 2
        and "deleted: status deleting" in box.log()
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
    box.wait_for("deleting for Proven")
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    box.run()
    assert verdict(box)[0] == "succeeded" and box.holds(SFT, 5) and box.deleted
    assert box.log().count("step 5/5") == 1 and "step 5 is here already" in box.log()


def test_a_failure_stands_when_the_program_is_killed_before_it_could_delete(
    new_box: NewBox,
) -> None:
    box = new_box({"exit_code": 1, "seconds": 0.05})
    box.cloud.fault(DELETE, "stall", seconds=60)
    box.start()
    box.wait_for("deleting for NothingToSave")
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    box.run()
    assert (
        verdict(box) == ("failed", "trainer_failed", 5)
        and box.deleted
        and box.log().count("step 5/5") == 2
    )


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
    assert len(deletes(box)) == 1


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
