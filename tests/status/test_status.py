"""Where a run is: decided from what was seen; a look that failed is never "none", and proven means proven now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.errors import MayBeBilling
from nanolan.hub.client import Hub, Tree
from nanolan.launch.request import create_body
from nanolan.plan import PinnedFile
from nanolan.redact import Secret
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Entry, Ledger
from nanolan.run.presence import NOT_ASKED, NOT_SHOWN
from nanolan.run.record import PhaseReport, Progress, Receipt, to_json
from nanolan.run.state import SETTLE_S, decide_state
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, instance_of
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.status.one_run import phase_state
from nanolan.status.status import look
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, REPO, TOKEN, WRITERS, make_plan
from tests.support.run_fixtures import state as saved_state

RUN, SFT = "ab12cd34", "chatsft_checkpoints/d20"
PLAN = make_plan("http://127.0.0.1:1", "http://127.0.0.1:1/v1", run_id=RUN)
LIVE = Entry(PLAN, "i-1")
TRAINING = Progress(
    RUN, "training", {"sft": PhaseReport("training")}, "2026-01-28T20:53:39Z", "words"
)


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


def receipt(verdict: str = "succeeded", reason: str = "") -> Receipt:
    return Receipt(RUN, verdict, reason, log="logs/x.log", spent_cents=123, seconds=60)


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


# ---- phases

MODEL, META = b"weights" * 9, b"{}"
MANIFEST = Manifest(
    RUN,
    "sft",
    90,
    (hash_bytes("meta_000090.json", META), hash_bytes("model_000090.pt", MODEL)),
    extra={"loss_start": 2.0, "loss_end": 1.0},
)
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


# ---- all together, over HTTP


class Desk:
    """A laptop with a ledger, an account and a Hub, and one run of an hour ago."""

    def __init__(self, root: Path, hub: HubServer, cloud: ShadeformServer) -> None:
        self.hub, self.cloud, self.ledger = hub, cloud, Ledger(root / "home")
        plan = make_plan(
            hub.url,
            cloud.url,
            run_id=RUN,
            owner=self.ledger.owner,
            created_at=iso(now_utc() - timedelta(hours=1)),
        )
        self.entry = Entry(plan, self.rent(plan).id)
        self.ledger.put(self.entry)

    def rent(self, plan: Any) -> Any:
        body = create_body(plan, "") | {
            "region": "canada-1",
            "shade_instance_type": "8x_b200_pcie_192gb",
        }
        del body["os"]
        return self.cloud.instance(self.cloud.account.create(body)["id"])

    def tell(self, **files: Any) -> None:
        self.hub.put(
            REPO, {f"runs/{RUN}/{name}.json": to_json(value) for name, value in files.items()}
        )

    def look(self) -> Overview:
        return self.look_at(self.ledger.entries())

    def look_at(self, entries: list[Entry]) -> Overview:
        api = Shadeform(Secret(KEY), self.cloud.url, sleep=lambda s: None)
        return look(
            self.ledger, entries, api, lambda e: Hub(self.hub.url, Secret(TOKEN), patience_s=0.2)
        )


@contextmanager
def new_desk(root: Path) -> Iterator[Desk]:
    """A desk with servers of its own."""
    with (
        HubServer(root / "hub", tokens=WRITERS) as hub,
        ShadeformServer(
            root / "cloud", key=KEY, boxes=False, delays=replace(AT_ONCE, deleting_s=0)
        ) as cloud,
    ):
        hub.put(REPO, {"README.md": b"#"})
        yield Desk(root, hub, cloud)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made


def test_a_live_run_is_seen_with_its_machine_its_money_and_its_progress_in_one_round_trip(
    desk: Desk,
) -> None:
    desk.tell(progress=TRAINING)
    before = len(desk.hub.log)
    run = desk.look().runs[0]
    assert (
        (run.state, run.reason) == ("training", "words")
        and run.instance
        and run.instance.id == desk.entry.instance_id
    )
    assert (
        run.spent_cents is not None and run.phases["sft"].state == "training" and not run.problems
    )
    asked = [line["path"].rsplit("/", 1)[-1] for line in desk.hub.log[before:]]
    assert len(asked) == len(set(asked)) == 5, "each thing is asked for once"


def test_an_account_of_thousands_of_machines_is_sorted_in_a_moment(desk: Desk) -> None:
    def crowd(body: Any) -> None:
        body["instances"] += [
            body["instances"][0] | {"id": f"x{n}", "name": f"n{n}", "tags": []} for n in range(8000)
        ]

    desk.cloud.fault("GET /v1/instances$", "edit", change=crowd)
    begun = time.process_time()
    seen = desk.look()
    assert len(seen.others) == 8000 and seen.runs[0].instance and time.process_time() - begun < 6


def test_after_the_end_the_receipt_the_proof_and_the_log_are_still_there(desk: Desk) -> None:
    desk.hub.put(
        REPO,
        {
            f"{SFT}/model_000090.pt": MODEL,
            f"{SFT}/meta_000090.json": META,
            f"{SFT}/manifest.json": MANIFEST.to_json().encode(),
            f"logs/error-{desk.entry.plan.instance_name}.log": "".join(
                f"line {i}\n" for i in range(20)
            ).encode(),
        },
    )
    desk.tell(progress=TRAINING, receipt=receipt("failed", "trainer_failed"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert run.state == "failed" and run.ended and run.instance is None and run.spent_cents == 123
    assert run.phases["sft"].state == "proven" and run.log_tail == tuple(
        f"line {i}" for i in range(15, 20)
    )
    assert desk.ledger.find(RUN).gone


def test_a_receipt_that_was_seen_is_kept_in_the_ledger_also_before_the_machine_is_gone(
    desk: Desk,
) -> None:
    told = structs.replace(receipt(), stages={"boot": 9}, metered_cents=120, provider_cents=None)
    desk.tell(receipt=told)
    desk.look()
    assert desk.ledger.find(RUN) == structs.replace(desk.entry, receipt=told), (
        "the machine is still there"
    )
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.look()
    assert desk.ledger.find(RUN) == structs.replace(desk.entry, receipt=told, gone=True)
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=503, times=50)
    assert desk.look().runs[0].problems and desk.ledger.find(RUN).receipt == told, (
        "a look that failed takes nothing back"
    )


def test_the_receipt_of_an_earlier_attempt_is_not_kept_as_that_of_this_one(desk: Desk) -> None:
    desk.ledger.put(structs.replace(desk.entry, plan=structs.replace(desk.entry.plan, attempt=2)))
    desk.tell(receipt=receipt())
    desk.look()
    assert desk.ledger.find(RUN).receipt is None
    desk.tell(receipt=structs.replace(receipt(), attempt=2))
    desk.look()
    assert desk.ledger.find(RUN).receipt


@pytest.mark.parametrize(
    "fault",
    [
        dict(action="status", status=500, times=4),
        dict(action="unauthorized"),
        dict(action="html"),
        dict(action="status", status=200, body={}),
        dict(action="status", status=200, body={"instances": None}),
    ],
    ids=str,
)
def test_an_account_that_cannot_be_read_is_a_named_problem_and_ends_no_run(
    desk: Desk, fault: dict[str, Any]
) -> None:
    desk.tell(receipt=receipt())
    desk.cloud.fault("GET /v1/instances$", **fault)
    seen = desk.look()
    assert (
        "Shadeform" in seen.problems[0]
        and seen.runs[0].instance
        and seen.others == seen.strays == ()
    ), "it is seen by its id"
    assert (
        not desk.ledger.find(RUN).gone
        and not seen.runs[0].ended
        or seen.runs[0].state == "stopping"
    )
    for path in ("GET /v1/instances$", "GET /v1/instances/.*/info"):
        desk.cloud.fault(path, **fault)
    seen = desk.look()
    assert seen.runs[0].instance is None and seen.runs[0].unknown.startswith(NOT_ASKED)
    assert not desk.ledger.find(RUN).gone, "not seen is not gone"


def test_a_hub_that_cannot_be_read_is_a_named_problem_and_ends_no_run(desk: Desk) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=503, times=50)
    run = desk.look().runs[0]
    assert (
        any("receipt.json" in p for p in run.problems)
        and not run.ended
        and not desk.ledger.find(RUN).gone
    )


def test_a_receipt_that_comes_between_the_two_looks_is_still_found(desk: Desk) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.tell(receipt=receipt())
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=404)  # not there at the first look
    assert desk.look().runs[0].state == "succeeded"


def test_a_run_that_left_nothing_but_its_result_says_so(desk: Desk) -> None:
    desk.hub.put(
        REPO,
        {
            f"{SFT}/model_000090.pt": MODEL,
            f"{SFT}/meta_000090.json": META,
            f"{SFT}/manifest.json": MANIFEST.to_json().encode(),
        },
    )
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert run.state == "lost" and "every phase is proven" in run.reason


def test_other_peoples_instances_are_only_counted_and_ours_outside_the_ledger_are_named(
    desk: Desk,
) -> None:
    desk.cloud.add_foreign("somebody-elses", 250)
    stray = desk.rent(structs.replace(desk.entry.plan, run_id="ffffffff"))
    seen = desk.look()
    assert [i.name for i in seen.others] == ["somebody-elses"] and [i.id for i in seen.strays] == [
        stray.id
    ]
    stray.delete(0, "asked")
    assert desk.look().strays == (), "one that is gone is no stray"


def second_attempt(desk: Desk) -> tuple[Any, Any]:
    """(the first machine, the second one) of a run whose launch has gone on to the next offer."""
    first = desk.cloud.instance(desk.entry.instance_id or "")
    plan = structs.replace(desk.entry.plan, attempt=2, created_at=iso(now_utc()))
    second = desk.rent(plan)
    desk.entry = Entry(plan, second.id, earlier=(Attempt(1, first.id, 85, "it did not come up"),))
    desk.ledger.put(desk.entry)
    return first, second


def test_what_an_earlier_attempt_told_says_nothing_about_this_one(desk: Desk) -> None:
    first, second = second_attempt(desk)
    first.delete(0, "asked")
    desk.tell(
        progress=structs.replace(TRAINING, state="stopping"),
        receipt=receipt("failed", "boot_failed"),
    )
    run = desk.look().runs[0]
    assert (
        (run.state, run.receipt, run.progress) == ("booting", None, None)
        and run.instance
        and run.instance.id == second.id
    )
    desk.tell(
        progress=structs.replace(TRAINING, attempt=2), receipt=receipt("failed", "boot_failed")
    )
    assert desk.look().runs[0].state == "training"


def test_what_is_left_of_an_earlier_attempt_is_not_the_run_while_the_new_machine_is_not_listed(
    desk: Desk,
) -> None:
    first, second = second_attempt(desk)
    first.delays = replace(AT_ONCE, deleting_s=60)
    first.delete(time.time(), "asked")
    second.fate["list_lag"] = 60.0
    run = desk.look().runs[0]
    assert run.state == "booting" and run.instance and run.instance.id == second.id, "by its id"


def test_an_earlier_attempts_machine_that_bills_is_named(desk: Desk) -> None:
    first, second = second_attempt(desk)
    first.fate["tags_not_stored"] = True
    seen = desk.look()
    assert (
        [i.id for i in seen.strays] == [first.id]
        and seen.runs[0].instance
        and seen.runs[0].instance.id == second.id
    )


def test_a_look_does_not_overwrite_what_a_launch_has_noted_meanwhile(desk: Desk) -> None:
    first, api = (
        desk.cloud.instance(desk.entry.instance_id or ""),
        Shadeform(Secret(KEY), desk.cloud.url, sleep=lambda s: None),
    )
    old = desk.ledger.entries()
    second_attempt(desk)
    with desk.cloud.account.lock:
        desk.cloud.account.instances.clear()
    desk.tell(receipt=receipt("failed", "boot_failed"))
    look(desk.ledger, old, api, lambda e: Hub(desk.hub.url, Secret(TOKEN), patience_s=0.2))
    assert desk.ledger.entries() == [desk.entry] and first.id != desk.entry.instance_id


def test_an_attempt_that_failed_is_not_the_end_while_its_launch_may_rent_the_next_offer(
    desk: Desk,
) -> None:
    desk.tell(receipt=receipt("failed", "boot_failed"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    with desk.ledger.launching(RUN):
        v = desk.look().runs[0]
        assert (v.state, v.ended) == (
            "pending",
            False,
        ) and "attempt 1 failed: boot_failed; its launch may rent the next" in v.reason
    assert desk.look().runs[0].ended
    desk.tell(receipt=receipt("succeeded"))
    with desk.ledger.launching(RUN):
        assert desk.look().runs[0].state == "succeeded"


def test_of_two_machines_of_one_run_the_one_that_bills_is_shown(desk: Desk) -> None:
    first = desk.cloud.instance(desk.entry.instance_id or "")
    first.delays = replace(AT_ONCE, deleting_s=60)  # still listed, as deleting
    first.delete(time.time(), "asked")
    second = desk.rent(desk.entry.plan)
    run = desk.look().runs[0]
    assert run.instance and run.instance.id == second.id and run.state == "booting"


def test_two_runs_are_looked_at_together(desk: Desk) -> None:
    other = structs.replace(desk.entry.plan, run_id="ffffffff", created_at=iso(now_utc()))
    desk.ledger.put(Entry(other, desk.rent(other).id))
    desk.tell(progress=TRAINING)
    seen = desk.look()
    assert [v.entry.plan.run_id for v in seen.runs] == ["ffffffff", RUN] and seen.strays == ()
    assert [v.state for v in seen.runs] == ["booting", "training"] and not any(
        v.problems for v in seen.runs
    )


# ---- attempts, and what is saved


def attempt_2(desk: Desk) -> None:
    """The run of the desk is resumed: its machine is of the second attempt."""
    desk.entry = structs.replace(desk.entry, plan=structs.replace(desk.entry.plan, attempt=2))
    desk.ledger.put(desk.entry)


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
