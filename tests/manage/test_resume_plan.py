"""The plan of a resumed run."""

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
from nanolan.errors import PreflightFailed
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared
from nanolan.manage.pinned import run_code
from nanolan.manage.resume import (
    OVERRIDABLE,
    NextAttempt,
    check_addresses,
    check_ended,
    next_attempt,
)
from nanolan.manage.run_budget import (
    RunBudget,
)
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Code, Limits, Plan, Predicted, Rented
from nanolan.redact import Secret
from nanolan.run.remaining import Remaining
from nanolan.settings.load import load_settings
from nanolan.sim.hub.server import HubServer
from nanolan.status.view import Overview, RunView
from nanolan.times import iso
from nanolan.version import VERSION
from tests.checkpoint.test_parquet import SCHEMAS, written
from tests.status.test_status import machine
from tests.support.box_fixtures import DATA, REPO, SEED, TOKEN, WRITERS, make_plan, pin
from tests.support.checkpoint_fixtures import LINE, checkpoint, tokenizer
from tests.support.prepare_fixtures import OFFER
from tests.support.resume_fixtures import (
    KEPT,
    LIVE,
    NOW,
    PLAN,
    REST,
    ROWS_PIN,
    SAVED,
    TOKENIZER,
    settings,
)
from tests.support.run_fixtures import result, state

OWN_CODE = (PLAN.code, b"bundle", Check("code", True, "the run's own"))


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


# ---- the plan
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


def test_the_next_machine_installs_wandb_if_its_key_is_there_now() -> None:
    new = prepared()
    keyed = replace(new, plan=structs.replace(new.plan, setup="wandb"))
    assert next_of().apply(keyed).plan.setup == "wandb"


def test_its_code_is_the_runs_own_unless_this_checkouts_is_asked_for() -> None:
    p = next_of().apply(prepared())
    assert (p.plan.code, p.bundle, p.plan.nanolan) == (PLAN.code, b"bundle", PLAN.nanolan)
    here = (Code("2" * 40, "2" * 64, 9, False), b"here", Check("code", True, "this"))
    new = prepared()
    new = replace(new, plan=structs.replace(new.plan, nanolan=VERSION))
    p = next_of(code=here).apply(new)
    assert (p.plan.code, p.bundle, p.plan.nanolan) == (here[0], b"here", VERSION)


@pytest.mark.parametrize(
    "before, here, kept",
    [(Limits(), False, True), (None, True, True), (None, False, False)],
    ids=["a run that has them", "this checkout's code", "code that may not know them"],
)
def test_its_plan_has_limits_only_for_code_that_reads_them(
    before: Limits | None, here: bool, kept: bool
) -> None:
    mine, new = Limits(max_price=3000), prepared()
    new = replace(new, plan=structs.replace(new.plan, limits=mine))
    code = (Code("2" * 40, "2" * 64, 9, False), b"here", Check("code", True, "this"))
    old = structs.replace(PLAN, limits=before)
    plan = next_of(plan=old, code=code if here else OWN_CODE).apply(new).plan
    assert plan.limits == (mine if kept else None)


def test_a_field_that_was_typed_anew_is_the_new_one() -> None:
    plan = next_of(overrides={"evaluate": "quick", "output_tag": "d21"}).apply(prepared()).plan
    assert (plan.evaluate, plan.output_tag, plan.run_name) == ("quick", "d21", "mine")
    assert set(OVERRIDABLE.values()) <= set(structs.asdict(PLAN))


@pytest.mark.parametrize("processes, model_only", [(2, False), (1, True), (4, True), (8, True)])
def test_another_number_of_gpus_deals_the_optimizer_anew_and_says_so(
    processes: int, model_only: bool
) -> None:
    p = next_of().apply(prepared(processes))
    said = [c.text for c in p.checks if c.name == "optimizer"]
    assert p.plan.model_only is model_only and bool(said) is model_only
    assert (
        not said
        or f"saved by 2 processes, there will be {processes}" in said[0]
        and "dealt anew" in said[0]
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


# ---- what stays pinned
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
