"""The box program, the real one, with a stand-in trainer: nothing lost, nothing billed without bound, no secret shown."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from nanolan.plan import Predicted
from nanolan.redact import NOTE
from nanolan.sim.marker import MARKER
from nanolan.version import VERSION
from tests.support.box_fixtures import KEY, REPO, TOKEN, Box, pin, until
from tests.support.box_main_fixtures import (
    MID,
    SFT,
    NewBox,
    module,  # noqa: F401  # an autouse fixture
    new_box,  # noqa: F401  # a fixture
    verdict,
)
from tests.test_notify import Service, service  # noqa: F401  # a fixture


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
    assert receipt["nanolan"] == VERSION

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
        < log.index("deleting this instance: everything is proven")
    )
    assert f"sft from {box.work}/trainer/out/mid_checkpoints/d20/step-000005" in log
    assert f"{MID}/model_000010.pt" not in box.files(), "the older step of that folder is gone"


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
@pytest.mark.slow  # that it runs beside the upload is in the quick set
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
    assert "sft step" not in box.log() and "nothing is left to save (gate)" in box.log()


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


@pytest.mark.slow  # tests/test_notify.py has the service
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


@pytest.mark.slow  # tests/test_notify.py has the service
def test_a_service_that_is_gone_fails_no_run(new_box: NewBox) -> None:
    box = new_box()
    box.unpack()
    secrets = box.state / "secrets.json"
    secrets.write_text(
        json.dumps(json.loads(secrets.read_text()) | {"NOTIFY_URL": f"json://127.0.0.1:1/{MARKER}"})
    )
    assert verdict(box.run()) == ("succeeded", "", 0) and box.deleted
    assert "notification 1 not sent (started)" in box.log() and MARKER not in box.log()


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
    box.power_off()
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
@pytest.mark.slow  # tests/box/test_speed_check.py decides
def test_a_machine_that_is_slow_is_given_back_by_its_first_steps_once_three_runs_have_measured(
    new_box: NewBox, runs: int, ends: tuple[str, str, int]
) -> None:
    box = new_box({"steps": 20, "seconds": 2}, usual={"sft": 1000.0}, usual_runs=runs).run()
    assert (
        verdict(box) == ends and box.deleted and "the machine is slow: 1 tok/s in sft" in box.log()
    )


@pytest.mark.slow  # the whole run is in the quick set
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
