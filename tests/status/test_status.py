"""Where a run is: decided from what was seen; a look that failed is never "none", and proven means proven now."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.errors import MayBeBilling
from nanolan.hub.client import Hub, Tree
from nanolan.plan import PinnedFile
from nanolan.redact import Secret
from nanolan.run.ledger import STOPPED_BY_USER, Entry
from nanolan.run.presence import NOT_ASKED, NOT_SHOWN
from nanolan.run.record import PhaseReport, Progress, Receipt
from nanolan.run.state import SETTLE_S, decide_state
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.one_run import phase_state
from nanolan.status.status import look
from nanolan.status.view import RunView
from tests.support.box_fixtures import KEY, REPO, TOKEN, make_plan
from tests.support.run_fixtures import state as saved_state
from tests.support.status_fixtures import (
    MANIFEST,
    RUN,
    SFT,
    TRAINING,
    Desk,
    desk,  # noqa: F401  # a fixture
    receipt,
)

PLAN = make_plan("http://127.0.0.1:1", "http://127.0.0.1:1/v1", run_id=RUN)


LIVE = Entry(PLAN, "i-1")


def machine(status: str, details: str = "") -> Instance:
    return instance_of(
        dict(
            id="i-1",
            name=f"lanbot-sft-20260128-2053-{RUN}",
            status=status,
            status_details=details,
            hourly_price=100,
        )
    )


STOPPED = structs.replace(LIVE, gone=True, note=STOPPED_BY_USER)


UNCLEAR = structs.replace(LIVE, instance_id=None)


REFUSED = structs.replace(LIVE, instance_id=None, gone=True, note="create refused: sold out")


@pytest.mark.parametrize(
    "entry, instance, unknown, progress, ended, age_s, state, reason",
    [
        # an account that could not be read never means that the run is over
        (LIVE, None, NOT_ASKED, None, None, 9999, "pending", "Shadeform could not be asked"),
        (LIVE, None, NOT_ASKED, TRAINING, None, 9999, "training", "Shadeform could not be asked"),
        (LIVE, None, NOT_ASKED, TRAINING, receipt(), 9999, "succeeded", ""),
        # the machine's way up
        (LIVE, machine("creating"), "", None, None, 5, "pending", "creating"),
        (LIVE, machine("pending", "downloading"), "", None, None, 5, "pending", "downloading"),
        (LIVE, machine("some_new_word"), "", None, None, 5, "pending", "some_new_word"),
        (LIVE, machine("active"), "", None, None, 60, "booting", ""),
        (LIVE, machine("active"), "", TRAINING, None, 600, "training", "words"),
        (
            LIVE,
            machine("error", "no capacity"),
            "",
            None,
            None,
            60,
            "failed",
            "no capacity; stop it: just stop",
        ),
        (LIVE, machine("error"), "", TRAINING, None, 60, "failed", "error; stop it: just stop"),
        # its way down
        (
            LIVE,
            machine("active"),
            "",
            TRAINING,
            receipt(),
            600,
            "stopping",
            "deleting the instance",
        ),
        (LIVE, machine("deleting"), "", TRAINING, receipt(), 600, "succeeded", ""),
        (
            LIVE,
            None,
            "",
            TRAINING,
            receipt("stopped", "spend_limit"),
            600,
            "stopped",
            "spend_limit",
        ),
        (LIVE, None, "", TRAINING, None, 600, "lost", "left no receipt"),
        (LIVE, machine("deleting"), "", TRAINING, None, 30, "lost", "left no receipt"),
        (LIVE, machine("deleted"), "", TRAINING, None, 600, "lost", "left no receipt"),
        # a young machine may be missing from a listing; one that was never seen is lost
        (LIVE, None, "", None, None, SETTLE_S - 1, "pending", "not listed yet"),
        (
            structs.replace(LIVE, instance_id=None),
            None,
            "",
            None,
            None,
            SETTLE_S - 1,
            "pending",
            "not listed yet",
        ),
        (UNCLEAR, None, "", None, None, SETTLE_S + 1, "lost", "no instance was ever seen"),
        # a create whose answer was lost is no "none", however old it is; its date and limit end it
        (UNCLEAR, None, NOT_SHOWN, None, None, SETTLE_S - 1, "pending", "not listed yet"),
        (UNCLEAR, None, NOT_SHOWN, None, None, SETTLE_S + 1, "unknown", "may bill"),
        (UNCLEAR, None, NOT_SHOWN, None, receipt(), 600, "unknown", "may bill"),
        (UNCLEAR, machine("active"), "", None, None, 600, "booting", ""),
        # what the ledger knows
        (STOPPED, None, "", TRAINING, None, 5, "stopped", STOPPED_BY_USER),
        (STOPPED, machine("deleting"), "", TRAINING, None, 5, "stopped", STOPPED_BY_USER),
        (STOPPED, machine("active"), "", TRAINING, None, 5, "training", "words"),
        (STOPPED, None, "", TRAINING, receipt(), 5, "succeeded", ""),
        (REFUSED, None, "", None, None, 5, "failed", "create refused: sold out"),
    ],
)
def test_the_state_of_a_run_is_what_was_seen_of_it(
    entry: Entry,
    instance: Instance | None,
    unknown: str,
    progress: Progress | None,
    ended: Receipt | None,
    age_s: float,
    state: str,
    reason: str,
) -> None:
    got = decide_state(entry, instance, unknown, progress, ended, age_s)
    assert got[0] == state and reason in got[1] and bool(got[1]) == bool(reason)


@pytest.mark.parametrize(
    "view, code",
    [
        (RunView(LIVE, "succeeded", receipt=receipt()), 0),
        (RunView(LIVE, "failed", receipt=receipt("failed", "trainer_failed")), 5),
        (RunView(LIVE, "stopped", receipt=receipt("stopped", "spend_limit")), 6),
        (RunView(LIVE, "stopped", receipt=receipt("stopped", "limit_lost")), 7),
        (RunView(LIVE, "lost", "left no receipt"), 5),
        (RunView(STOPPED, "stopped", STOPPED_BY_USER), 5),
        (RunView(LIVE, "failed", "no capacity", machine("error")), 8),
    ],
)
def test_a_run_that_ended_has_its_verdict(view: RunView, code: int) -> None:
    error = view.verdict()
    assert view.ended and (error.exit_code if error else 0) == code
    assert not isinstance(error, MayBeBilling) or (
        "i-1" in str(error) and "$1.00/h" in str(error) and f"just stop {RUN}" in str(error)
    )


@pytest.mark.parametrize(
    "view",
    [
        RunView(LIVE, "training", instance=machine("active")),
        RunView(LIVE, "stopping", instance=machine("active"), receipt=receipt()),
        RunView(LIVE, "succeeded", receipt=receipt(), problems=("the Hub did not answer",)),
    ],
)
def test_a_run_of_which_something_could_not_be_seen_or_still_goes_on_has_not_ended(
    view: RunView,
) -> None:
    assert not view.ended


HERE = Tree(
    REPO,
    "model",
    "f" * 40,
    True,
    {
        f"{SFT}/{e.path}": PinnedFile(f"{SFT}/{e.path}", e.size, e.sha256, "x")
        for e in MANIFEST.files
    }
    | {f"{SFT}/manifest.json": PinnedFile(f"{SFT}/manifest.json", 9, None, "x")},
)


WITHOUT_MODEL = replace(HERE, files={p: f for p, f in HERE.files.items() if not p.endswith(".pt")})


EMPTY = replace(HERE, files={})


UPLOADING, TOLD = (
    PhaseReport("uploading", SFT, step=90),
    PhaseReport("proven", SFT, "e" * 40, 90, 2.5, 1.5),
)


# ---- phases
@pytest.mark.parametrize(
    "tree, manifest, told, state",
    [
        (HERE, MANIFEST, None, "proven"),
        (HERE, MANIFEST, UPLOADING, "proven"),
        (HERE, MANIFEST, TOLD, "proven"),
        (WITHOUT_MODEL, MANIFEST, UPLOADING, "unproven"),
        (WITHOUT_MODEL, MANIFEST, TOLD, "unproven"),
        (HERE, replace(MANIFEST, run_id="00000000"), None, "none"),
        (HERE, replace(MANIFEST, run_id="00000000"), UPLOADING, "uploading"),
        (HERE, replace(MANIFEST, run_id="00000000"), TOLD, "replaced"),
        (HERE, replace(MANIFEST, phase="mid"), None, "none"),
        (EMPTY, None, None, "none"),
        (EMPTY, None, UPLOADING, "uploading"),
        (EMPTY, None, TOLD, "replaced"),
        # what could not be read now is what the box told
        (None, None, TOLD, "proven"),
        (None, MANIFEST, TOLD, "proven"),
        (HERE, None, TOLD, "proven"),
        (None, MANIFEST, None, "none"),
    ],
)
def test_a_phase_is_proven_only_by_the_files_of_this_very_run_as_they_are_now(
    tree: Tree | None, manifest: Manifest | None, told: PhaseReport | None, state: str
) -> None:
    got = phase_state(LIVE, "sft", tree, manifest, told)
    assert got.state == state
    if tree is HERE and manifest is MANIFEST:
        assert (got.folder, got.revision, got.step) == (SFT, "f" * 40, 90)
        assert (got.loss_start, got.loss_end) == (
            2.0,
            1.0,
        )  # of the manifest that is there, whatever the box told


def attempt_2(desk: Desk) -> None:
    """The run of the desk is resumed: its machine is of the second attempt."""
    desk.entry = structs.replace(desk.entry, plan=structs.replace(desk.entry.plan, attempt=2))
    desk.ledger.put(desk.entry)


# ---- attempts, and what is saved
@pytest.mark.parametrize(
    "run_id, attempt, counts",
    [(RUN, 2, True), (RUN, 1, False), (RUN, 3, False), ("ffffffff", 2, False)],
)
def test_what_another_attempt_told_says_nothing_about_this_one(
    desk: Desk, run_id: str, attempt: int, counts: bool
) -> None:
    attempt_2(desk)
    desk.tell(progress=structs.replace(TRAINING, run_id=run_id, attempt=attempt))
    run = desk.look().runs[0]
    assert (run.state, bool(run.progress)) == (("training", True) if counts else ("booting", False))
    desk.tell(receipt=structs.replace(receipt(), run_id=run_id, attempt=attempt))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert (run.state, bool(run.receipt)) == (("succeeded", True) if counts else ("lost", False))


@pytest.mark.parametrize("verdict", ["failed", "stopped", "lost", "succeeded"])
def test_of_a_run_that_ended_short_the_saved_state_is_shown(desk: Desk, verdict: str) -> None:
    saved_state(desk.hub, desk.entry.plan, "sft", step=40)
    if verdict != "lost":
        desk.tell(receipt=receipt(verdict, "hang"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert run.state == verdict and run.resumable == (verdict != "succeeded")
    assert (
        ((run.saved.phase, run.saved.step) == ("sft", 40)) if run.saved else verdict == "succeeded"
    )


def test_a_saved_state_that_cannot_be_seen_is_a_problem_and_not_none(desk: Desk) -> None:
    saved_state(desk.hub, desk.entry.plan, "sft")
    desk.tell(receipt=receipt("failed", "hang"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.hub.fault(r"saved/sft/manifest.json", status=503, times=50)
    run = desk.look().runs[0]
    assert run.problems and run.saved is None and not run.resumable


PROVEN, NONE = PhaseReport("proven"), PhaseReport("none")


@pytest.mark.parametrize(
    "view, resumable",
    [
        (RunView(LIVE, "failed", phases={"mid": PROVEN, "sft": NONE}), True),
        (RunView(LIVE, "lost", phases={"mid": NONE}), False),
        (RunView(LIVE, "failed", phases={"mid": PROVEN}), False),
        (RunView(LIVE, "training", phases={"mid": PROVEN, "sft": NONE}), False),
        (
            RunView(LIVE, "failed", phases={"mid": PROVEN, "sft": NONE}, instance=machine("error")),
            False,
        ),
        (
            RunView(
                LIVE, "failed", phases={"mid": PROVEN, "sft": NONE}, problems=("the Hub is away",)
            ),
            False,
        ),
    ],
)
def test_there_is_something_to_go_on_from_when_the_run_is_over_short_of_its_end_and_something_is_proven(
    view: RunView, resumable: bool
) -> None:
    assert view.resumable is resumable


def test_a_run_that_was_not_asked_for_is_no_stray(desk: Desk) -> None:
    other = structs.replace(desk.entry.plan, run_id="ffffffff")
    desk.ledger.put(Entry(other, desk.rent(other).id))
    api = Shadeform(Secret(KEY), desk.cloud.url, sleep=lambda s: None)
    seen = look(
        desk.ledger, [desk.entry], api, lambda e: Hub(desk.hub.url, Secret(TOKEN), patience_s=0.2)
    )
    assert len(seen.runs) == 1 and seen.strays == () == seen.others


def test_a_run_that_is_not_in_the_ledger_is_not_written_there(desk: Desk) -> None:
    desk.tell(receipt=receipt())
    desk.cloud.account.delete(desk.entry.instance_id or "")
    (desk.ledger.runs / f"{RUN}.json").unlink()
    api = Shadeform(Secret(KEY), desk.cloud.url, sleep=lambda s: None)
    assert (
        look(
            desk.ledger,
            [desk.entry],
            api,
            lambda e: Hub(desk.hub.url, Secret(TOKEN), patience_s=0.2),
        )
        .runs[0]
        .ended
    )
    assert desk.ledger.entries() == []


def test_what_was_measured_after_the_checkpoint_was_proven_is_shown_with_it() -> None:
    manifest = Manifest(
        PLAN.run_id, "sft", 90, (hash_bytes("model_000090.pt", b"m"),), extra={"val_loss": 1.5}
    )
    files = {
        f"{SFT}/{f.path}": PinnedFile(f"{SFT}/{f.path}", f.size, f.sha256, f.git_sha1)
        for f in manifest.files
    }
    tree = Tree(
        "me/it",
        "model",
        "e" * 40,
        True,
        files | {f"{SFT}/manifest.json": PinnedFile(f"{SFT}/manifest.json", 1, None, "x")},
    )
    told = PhaseReport("proven", SFT, measured={"val_loss": 1.5, "chatcore": 0.25})
    assert phase_state(Entry(PLAN), "sft", tree, manifest, told).measured == {
        "val_loss": 1.5,
        "chatcore": 0.25,
    }
