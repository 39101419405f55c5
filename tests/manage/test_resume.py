"""The next attempt of a run: settings, inputs and code stay, the money counts the whole run, and losses are reported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.checklist import Check
from nanolan.cost.forecast import Forecast, Work, forecast
from nanolan.errors import PreflightFailed
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared
from nanolan.manage.pinned import run_code
from nanolan.manage.resume import (
    OVERRIDABLE,
    NextAttempt,
    RunBudget,
    attempts,
    budget_of,
    check_addresses,
    check_ended,
    cost_of,
    next_attempt,
    settings_of,
)
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Code, Pinned, PinnedFile, Plan, Predicted, Rented
from nanolan.redact import Secret
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, Attempt, Entry
from nanolan.run.record import Progress, Receipt
from nanolan.run.remaining import Remaining, SavedWork
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.offers import Offer, wanted_from
from nanolan.sim.hub.server import HubServer
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.checkpoint.test_parquet import SCHEMAS, written
from tests.launch.test_prepare import OFFER
from tests.status.test_status import machine
from tests.support.box_fixtures import DATA, REPO, SEED, TOKEN, WRITERS, make_plan, pin
from tests.support.checkpoint_fixtures import LINE, checkpoint, tokenizer
from tests.support.run_fixtures import result, state

NOW = now_utc().replace(microsecond=0)
FILE = PinnedFile("base_checkpoints/d20/model_000009.pt", 7, "a" * 64, "b" * 40)
TOKENIZER = Pinned(
    REPO, "model", "e" * 40, (PinnedFile("tokenizer/tokenizer.pkl", 7, "c" * 64, "d" * 40),)
)
ROWS_PIN = Pinned(
    DATA, "dataset", "e" * 40, (PinnedFile("main/train-0.parquet", 7, "c" * 64, "d" * 40),)
)
PLAN = make_plan(
    "http://127.0.0.1:1",
    "http://127.0.0.1:2/v1",
    run_id="ab12cd34",
    run_name="mine",
    phases=("mid", "sft"),
    created_at=iso(NOW - timedelta(hours=2)),
    deadline=iso(NOW + timedelta(hours=3)),
    output_tag="d20-x",
    evaluate="full",
    gate="val_bpb<0.5",
    batch=4,
    recipe={"max_steps": 7},
    upload_minutes=3.0,
    identity=False,
    wandb_project="w",
    inputs=(Pinned(REPO, "model", "e" * 40, (FILE,)), TOKENIZER),
    datasets=(ROWS_PIN,),
    keep_old=True,
    probation_cents=300,
)
LIVE = Entry(PLAN, "i-1")
KEPT = SavedWork(
    "mid",
    90,
    "mid_checkpoints/d20-x",
    Pinned(
        REPO,
        "model",
        "f" * 40,
        tuple(
            PinnedFile(f"mid_checkpoints/d20-x/{name}", 7, "a" * 64, "b" * 40)
            for name in ("manifest.json", "model_000090.pt", "optim_000090_rank0.pt")
        ),
    ),
)
SAVED = SavedWork(
    "sft",
    40,
    "runs/ab12cd34/saved/sft",
    Pinned(
        REPO,
        "model",
        "f" * 40,
        tuple(
            PinnedFile(f"runs/ab12cd34/saved/sft/{name}", 7, "a" * 64, "b" * 40)
            for name in (
                "manifest.json",
                "model_000040.pt",
                "optim_000040_rank0.pt",
                "optim_000040_rank1.pt",
            )
        ),
    ),
)
OWN_CODE = (PLAN.code, b"bundle", Check("code", True, "the run's own"))


def ended(state: str = "lost", reason: str = "gone", **fields: Any) -> RunView:
    entry = structs.replace(
        LIVE,
        **{k: fields.pop(k) for k in ("gone", "note", "spent_cents", "earlier") if k in fields},
    )
    return RunView(entry, state, reason, **fields)


def told(minutes_ago: float, cents: int | None) -> Progress:
    return Progress(
        PLAN.run_id, "training", {}, iso(NOW - timedelta(minutes=minutes_ago)), spent_cents=cents
    )


# ---- money


@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=123)), 123),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=0)), 0),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=-9)), 0),
        (ended(gone=True, note=STOPPED_BY_USER, spent_cents=77), 77),
        (ended(gone=True, note=f"{REFUSED}: sold out"), 0),
        # it vanished: as long as it can have lived, at the agreed price of $1 an hour
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(60, 190)), 190),
        (ended(progress=told(0, 150)), 200),
        (ended(progress=told(60, None)), 117),
        (ended(), 200),
        (ended(receipt=Receipt(PLAN.run_id, "failed")), 200),
    ],
)
def test_an_attempts_cost_is_its_receipts_or_an_upper_estimate(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW) == cents


@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(0, 150)), 217),  # ten minutes after its last report
        (ended(), 1000),
    ],
)  # nobody can say: the provider's limit
def test_a_month_later_it_cost_no_more_than_it_can_have_lived(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW + timedelta(days=30)) == cents


def test_every_attempt_is_remembered_with_what_became_of_it() -> None:
    first = Attempt(1, "i-0", 50, "lost: gone")
    view = ended(
        "stopped",
        "spend_limit",
        earlier=(first,),
        receipt=Receipt(PLAN.run_id, "stopped", spent_cents=123),
    )
    assert attempts(view, NOW) == (first, Attempt(1, "i-1", 123, "stopped: spend_limit"))


@pytest.mark.parametrize(
    "past, whole, left",
    [
        ([400], None, 600),
        ([50, 400], None, 600),  # the old limit counted what was spent before
        ([400], 2000, 1600),
        ([50, 400], 2000, 1550),
        ([None, 400], 5000, 3600),
    ],
)  # unknown: as much as a whole limit
def test_the_limit_counts_the_whole_run(
    past: list[int | None], whole: int | None, left: int
) -> None:
    budget = budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    assert budget.left_cents == left


@pytest.mark.parametrize(
    "past, whole", [([1000], None), ([1001], None), ([50, 1000], None), ([400], 400), ([400], 399)]
)
def test_when_nothing_is_left_the_refusal_has_the_numbers_and_the_command(
    past: list[int | None], whole: int | None
) -> None:
    with pytest.raises(PreflightFailed) as e:
        budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    spent = sum(c or 0 for c in past)
    assert f"has spent ${spent / 100:.2f}" in str(e.value) and "nothing was rented" in str(e.value)
    assert f"just resume ab12cd34 spend-limit={spent // 100 + 11}" in str(e.value)


H100 = Offer("c", "r", "t", "H100", 8, 80, 2400, ())
SFT = forecast(Work(("sft",)), H100, {})  # likely $24.09; $11.20 are kept for saving


@pytest.mark.parametrize(
    "left, expected, ok",
    [
        (3530, SFT, True),
        (3529, SFT, False),
        (600, SFT, False),
        (1121, None, None),
        (1120, None, False),
    ],
)
def test_the_rest_less_saving_must_be_above_the_likely_cost(
    left: int, expected: Forecast | None, ok: bool | None
) -> None:
    check = RunBudget(left + 400, 400).check(2400, expected)
    assert (
        check.ok is ok
        and f"${left / 100:.2f} left of ${left / 100 + 4:.2f} for the whole run ($4.00 spent)"
        in check.text
    )
    assert ("Try: spend-limit=" in check.text) == (ok is False)
    if ok is False:
        tried = int(check.text.rsplit("=", 1)[1])
        assert RunBudget(100 * tried, 400).check(2400, expected).ok is not False


# ---- settings

REST = Remaining(("sft",), KEPT, SAVED)


def settings(**flags: str) -> Settings:
    return load_settings(
        flags,
        {
            "RUN_NAME": "from-env",
            "GPU": "A100",
            "EVAL": "none",
            "SPEND_LIMIT": "99",
            "CLOUD": "hyperstack",
        },
    )


def test_the_settings_are_those_of_the_run_regardless_of_the_environment() -> None:
    s = settings_of(settings(), {}, PLAN, REST, RunBudget(1000, 400))
    assert (s.phase, s.phases, s.run_name, s.model_tag, s.output_tag) == (
        "sft",
        ("sft",),
        "mine",
        "d20-x",
        "d20-x",
    )
    assert (s.gpu, s.num_gpus, s.eval, s.gate, s.batch, s.upload_minutes) == (
        "H100",
        8,
        "full",
        "val_bpb<0.5",
        4,
        3.0,
    )
    assert (s.spend_limit, s.no_identity, s.hf_repo, s.runs_repo, s.probation_usd) == (
        600,
        True,
        REPO,
        REPO,
        300,
    )
    assert s.cloud == "hyperstack", "where to look is no setting of the run"


def test_what_is_typed_anew_counts() -> None:
    typed = {"run_name": "other", "eval": "none", "gpu": "H200", "output_tag": "d21"}
    s = settings_of(settings(**typed), typed, PLAN, REST, RunBudget(1000, 400))
    assert (s.run_name, s.eval, s.gpu, s.num_gpus, s.output_tag, s.batch) == (
        "other",
        "none",
        "H200",
        8,
        "d21",
        4,
    )


@pytest.mark.parametrize(
    "run, now, typed, kept",
    [
        (True, True, {}, True),
        (False, True, {}, False),
        (True, False, {}, False),
        (False, False, {}, False),
        (False, True, {"self_delete": "yes"}, True),
        (True, False, {"self_delete": "off"}, False),
    ],
    ids=str,
)
def test_no_key_goes_to_the_box_if_run_or_settings_exclude_it_unless_typed(
    run: bool, now: bool, typed: dict[str, str], kept: bool
) -> None:
    s = load_settings(typed, {"SELF_DELETE": "yes" if now else "no"})
    assert (
        settings_of(
            s, typed, structs.replace(PLAN, self_delete=run), REST, RunBudget(1000, 400)
        ).self_delete
        is kept
    )


@pytest.mark.parametrize(
    "typed, wanted",
    [
        ({}, ("H100", 8)),
        ({"gpu": "B200"}, ("B200", 8)),
        ({"gpu": "B200:4"}, ("B200", 4)),
        ({"num_gpus": "2"}, ("H100", 2)),
        ({"instance_type": "x"}, ("", None)),
    ],
    ids=str,
)
def test_the_offer_is_like_the_last_one_unless_another_is_requested(
    typed: dict[str, str], wanted: tuple[str, int | None]
) -> None:
    s = settings_of(load_settings(typed, {}), typed, PLAN, REST, RunBudget(1000, 400))
    w = wanted_from(s)
    assert (w.gpu, w.num_gpus) == wanted


@pytest.mark.parametrize(
    "phases, phase", [(("mid", "sft", "rl"), "all"), (("sft", "rl"), "sft+rl"), (("rl",), "rl")]
)
def test_the_phases_are_those_that_are_left(phases: tuple[str, ...], phase: str) -> None:
    s = settings_of(
        settings(),
        {},
        structs.replace(PLAN, phases=phases),
        Remaining(phases),
        RunBudget(1000, 400),
    )
    assert (s.phase, s.model_tag) == (phase, "d20")


# ---- the plan


def prepared(processes: int = 2, **fields: Any) -> Prepared:
    """A launch on a new machine as `prepare` would make it: everything of the run is still missing."""
    new = make_plan(
        "http://127.0.0.1:1",
        "http://127.0.0.1:2/v1",
        run_id="ffffffff",
        owner="12345678",
        created_at=iso(NOW),
        deadline=iso(NOW + timedelta(hours=1)),
        limit_cents=600,
        processes=processes,
        phases=("sft",),
        offer=Rented("other", "r", "t", "H200", 8, 141, 200, "os"),
        code=Code("1" * 40, "1" * 64, 9, True),
        datasets=(ROWS_PIN, structs.replace(ROWS_PIN, repo="cais/mmlu")),
        predicted=Predicted(1, 2, 3),
        **fields,
    )
    checks = [
        Check(name, True, "of a launch")
        for name in (
            "Hub token",
            "input checkpoint",
            "tokenizer",
            "identity data",
            "data sets",
            "data set x",
            "spend limit",
            "wallet",
            "output folder",
            "code",
        )
    ]
    return Prepared(new, replace(OFFER, gpu="H200"), checks, b"this checkout", False)


def next_of(remaining: Remaining = REST, **fields: Any) -> NextAttempt:
    return replace(
        NextAttempt(PLAN, remaining, RunBudget(10_000, 400), (TOKENIZER,), OWN_CODE, {}), **fields
    )


def test_the_next_attempt_is_the_same_run_on_the_new_machine() -> None:
    p, new = prepared(), prepared().plan
    assert next_of().apply(prepared(self_delete=False)).plan.self_delete is False
    plan = next_of().apply(p).plan
    assert (plan.run_id, plan.attempt, plan.phases, plan.resume, plan.model_only) == (
        "ab12cd34",
        2,
        ("sft",),
        SAVED.files,
        False,
    )
    for field in (
        "owner",
        "created_at",
        "deadline",
        "limit_cents",
        "offer",
        "processes",
        "predicted",
    ):
        assert getattr(plan, field) == getattr(new, field), field
    changed = {f for f in structs.asdict(PLAN) if getattr(plan, f) != getattr(PLAN, f)}
    assert changed == {
        "owner",
        "created_at",
        "deadline",
        "limit_cents",
        "offer",
        "predicted",
        "attempt",
        "phases",
        "resume",
        "model_tag",
        "inputs",
        "datasets",
    }
    assert plan.model_tag == "d20-x", (
        "the machine looks for the first phase's input in the folder of that name"
    )
    assert [d.repo for d in plan.datasets] == [DATA, "cais/mmlu"] and plan.datasets[
        0
    ] == PLAN.datasets[0]
    assert plan.instance_name.endswith("-ab12cd34")


def test_its_code_is_the_runs_own_unless_this_checkouts_is_asked_for() -> None:
    p = next_of().apply(prepared())
    assert (p.plan.code, p.bundle) == (PLAN.code, b"bundle")
    here = (Code("2" * 40, "2" * 64, 9, False), b"here", Check("code", True, "this"))
    p = next_of(code=here).apply(prepared())
    assert (p.plan.code, p.bundle) == (here[0], b"here")


def test_a_field_that_was_typed_anew_is_the_new_one() -> None:
    plan = next_of(overrides={"evaluate": "quick", "output_tag": "d21"}).apply(prepared()).plan
    assert (plan.evaluate, plan.output_tag, plan.run_name) == ("quick", "d21", "mine")
    assert set(OVERRIDABLE.values()) <= set(structs.asdict(PLAN))


@pytest.mark.parametrize("processes, model_only", [(2, False), (1, True), (4, True), (8, True)])
def test_another_number_of_gpus_keeps_only_the_weights_and_warns(
    processes: int, model_only: bool
) -> None:
    p = next_of().apply(prepared(processes))
    said = [c.text for c in p.checks if c.name == "OPTIMIZER"]
    assert p.plan.model_only is model_only and bool(said) is model_only
    assert (
        not said
        or f"saved by 2 processes, there will be {processes}" in said[0]
        and "THE OPTIMIZER STARTS FRESH" in said[0]
    )


def test_an_earlier_attempts_model_only_is_not_kept() -> None:
    before = structs.replace(PLAN, model_only=True, resume=SAVED.files)
    assert next_of(plan=before).apply(prepared()).plan.model_only is False
    plan = next_of(Remaining(("sft",), KEPT), plan=before).apply(prepared()).plan
    assert (plan.resume, plan.model_only) == (None, False)


@pytest.mark.parametrize(
    "remaining, text",
    [
        (REST, "sft from step 40 (runs/ab12cd34/saved/sft"),
        (Remaining(("sft",), KEPT), "sft starts again from mid_checkpoints/d20-x: it has no"),
        (Remaining(("mid", "sft")), "mid starts again from base_checkpoints/d20: it has no"),
    ],
)
def test_the_checks_name_where_the_run_continues_instead_of_a_launchs_inputs(
    remaining: Remaining, text: str
) -> None:
    checks = next_of(remaining).apply(prepared()).checks
    assert text in next(c.text for c in checks if c.name == "goes on")
    assert [c.name for c in checks if c.text == "of a launch"] == [
        "Hub token",
        "wallet",
        "output folder",
    ]
    assert next(c for c in checks if c.name == "spend limit").text.startswith(
        "$96.00 left of $100.00 for the whole run"
    )


# ---- what stays pinned


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(
            REPO, SEED | checkpoint("base_checkpoints/d20", 9) | tokenizer() | {IDENTITY_FILE: LINE}
        )
        server.put(
            DATA,
            {"main/train-00000-of-00001.parquet": written(SCHEMAS["gsm8k"])},
            typ="dataset",
            private=False,
        )
        yield server


def client(hub: HubServer) -> Hub:
    return Hub(hub.url, Secret(TOKEN), patience_s=0.2)


def launched(hub: HubServer) -> Plan:
    checkpoint = pin(hub, REPO, only=lambda p: p.startswith("base_checkpoints/"))
    remaining = pin(hub, REPO, only=lambda p: p.startswith(("tokenizer/", "identity")))
    return structs.replace(
        PLAN,
        hf_endpoint=hub.url,
        output_tag="d20",
        inputs=(checkpoint, remaining),
        datasets=(pin(hub, DATA, "dataset"),),
    )


def upcoming(hub: HubServer, plan: Plan, remaining: Remaining) -> NextAttempt:
    return next_attempt(client(hub), plan, remaining, RunBudget(1000, 1), settings(), {}, OWN_CODE)


def test_the_inputs_are_those_of_the_launch_after_the_repo_has_changed(hub: HubServer) -> None:
    plan = launched(hub)
    hub.put(
        REPO,
        {"base_checkpoints/d20/model_000099.pt": b"newer", "tokenizer/tokenizer.pkl": b"another"},
    )
    hub.put(DATA, {"main/train-00000-of-00001.parquet": b"other rows"}, typ="dataset")
    made = upcoming(hub, plan, Remaining(("mid", "sft")))
    assert made.inputs == plan.inputs and [c.ok for c in made.checks] == [True, True]


def test_a_phase_after_the_first_starts_from_the_proven_result_without_its_optimizer(
    hub: HubServer,
) -> None:
    plan = launched(hub)
    made = upcoming(hub, plan, Remaining(("sft",), KEPT))
    assert [f.path.rsplit("/", 1)[1] for f in made.inputs[0].files] == [
        "manifest.json",
        "model_000090.pt",
    ]
    assert made.inputs[1:] == plan.inputs[1:], "the base checkpoint is not downloaded again"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: structs.replace(p, revision="0" * 40),
        lambda p: structs.replace(p, files=(structs.replace(p.files[0], sha256="0" * 64),)),
        lambda p: structs.replace(p, files=(structs.replace(p.files[0], path="gone"),)),
        lambda p: structs.replace(p, repo="me/nothing"),
    ],
    ids=["revision", "hash", "file", "repo"],
)
def test_a_pinned_file_that_is_no_more_is_a_failed_check(hub: HubServer, spoil: Any) -> None:
    plan = launched(hub)
    plan = structs.replace(plan, datasets=(spoil(plan.datasets[0]),))
    (check,) = upcoming(hub, plan, Remaining(("mid", "sft"))).checks
    assert check.ok is False and (DATA in check.text or "me/nothing" in check.text)


@pytest.mark.parametrize(
    "repo, path, says",
    [
        (REPO, "base_checkpoints/d20/meta_000009.json", "no model_config"),
        (REPO, "tokenizer/tokenizer.pkl", "tokenizer"),
        (REPO, IDENTITY_FILE, "line 1"),
        (DATA, "main/train-00000-of-00001.parquet", "not a parquet file"),
    ],
)
def test_pinned_inputs_that_no_trainer_can_use_fail_the_check(
    hub: HubServer, repo: str, path: str, says: str
) -> None:
    hub.put(repo, {path: b"{}"}, typ="dataset" if repo == DATA else "model")
    checks = upcoming(hub, launched(hub), Remaining(("mid", "sft"))).checks
    assert (
        [c.ok for c in checks] == [True, False]
        and says in checks[1].text
        and "launch again" in checks[1].text
    )


def test_a_hub_that_does_not_answer_is_a_failed_check_too(hub: HubServer) -> None:
    plan = launched(hub)
    hub.fault(f"GET /api/datasets/{DATA}", status=503, times=50)
    assert upcoming(hub, plan, Remaining(("mid", "sft"))).checks[0].ok is False


def test_the_code_is_checked_by_its_hash_and_untrusted_code_is_flagged(hub: HubServer) -> None:
    data = b"a bundle"
    plan = structs.replace(
        launched(hub), code=Code("c" * 40, hashlib.sha256(data).hexdigest(), len(data), False)
    )
    code, bundle, check = run_code(client(hub), plan, False)
    assert check.ok is False and "--code here" in check.text, "not there"
    hub.put(REPO, {f"{plan.folder}/code.bundle": b"something else"})
    assert run_code(client(hub), plan, False)[2].ok is False
    hub.put(REPO, {f"{plan.folder}/code.bundle": data})
    code, bundle, check = run_code(client(hub), plan, False)
    assert (code, bundle, check.ok) == (plan.code, data, True)
    check = run_code(client(hub), plan, True)[2]
    assert check.ok is None and f"anyone who may write {REPO} can change it" in check.text


# ---- is it over?


@pytest.mark.parametrize(
    "view, problems, said",
    [
        (
            RunView(LIVE, "training", instance=machine("active")),
            (),
            "still has instance i-1 ($1.00/h, training)",
        ),
        (RunView(LIVE, "failed", "error", instance=machine("error")), (), "still has instance i-1"),
        (
            RunView(LIVE, "stopped", "user", instance=machine("deleting")),
            (),
            "its instance is being deleted",
        ),
        (RunView(LIVE, "pending", "not listed yet"), (), "not listed yet"),
        (RunView(LIVE, "lost", "gone"), ("Shadeform is away",), "Shadeform is away"),
        (RunView(LIVE, "lost", "gone", problems=("the Hub is away",)), (), "the Hub is away"),
    ],
)
def test_a_run_that_is_not_seen_to_be_over_is_not_gone_on_with(
    view: RunView, problems: tuple[str, ...], said: str
) -> None:
    with pytest.raises(PreflightFailed, match="nothing was rented") as e:
        check_ended(Overview((view,), (), (), problems))
    assert said in str(e.value)


def test_a_run_that_is_over_may_go_on() -> None:
    for ending in ("failed", "stopped", "lost", "succeeded"):
        check_ended(Overview((RunView(LIVE, ending),), (), (), ()))


def test_a_run_at_another_address_is_refused() -> None:
    s = load_settings({"hf_endpoint": PLAN.hf_endpoint, "shadeform_api": PLAN.shadeform_api}, {})
    check_addresses(s, PLAN)
    for name in ("hf_endpoint", "shadeform_api"):
        with pytest.raises(PreflightFailed, match="nothing was rented"):
            check_addresses(s, structs.replace(PLAN, **{name: "https://elsewhere.example.org"}))


def test_a_real_look_gives_what_the_next_attempt_needs(hub: HubServer) -> None:
    from nanolan.run.remaining import remaining_of

    plan = launched(hub)
    result(hub, plan, "mid"), state(hub, plan, "sft", processes=2)
    made = upcoming(hub, plan, remaining_of(client(hub), plan, {})).apply(prepared()).plan
    assert made.resume and made.resume.size and made.inputs[0].proven and made.phases == ("sft",)
