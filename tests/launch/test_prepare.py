"""Launching: nothing is rented before all checks passed, and the ledger stores the intent before the create."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import (
    UsageProblem,
)
from nanolan.hub.client import Hub
from nanolan.launch.make_plan import FOREIGN, Rehearsal, own_set
from nanolan.launch.prepare import Prepared, check_gate, prepare
from nanolan.plan import Fork
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PhaseReport, Receipt
from nanolan.settings.load import load_settings
from nanolan.sim.hub.state import READER
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import REPO, World
from nanolan.version import VERSION
from tests.support.core_fixtures import LIST, a_plan, client, creates
from tests.support.prepare_fixtures import (
    OFFER,
    hub_of,
    launched,
    ledger,  # noqa: F401  # a fixture
    prepared,
    settings,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

FORK = Fork("custom", "my-nanochat", "c" * 40, None, {}, "online")


def failed(p: Prepared) -> dict[str, str]:
    return {c.name: c.text for c in p.failed}


# ---- the checks
def test_a_good_plan_passes_every_check_and_sends_nothing(world: World) -> None:
    p = prepared(world)
    assert p.plan.nanolan == VERSION
    assert p.failed == [] and {c.name for c in p.checks} >= {
        "Hub token",
        "input checkpoint",
        "data sets",
        "spend limit",
        "wallet",
        "output folder",
        "code",
    }
    assert [r.method for r in world.cloud.requests] == ["GET"] and "runs/" not in "".join(
        world.hub.files(REPO)
    )
    assert (
        p.plan.offer.hourly_cents == 3360
        and p.plan.offer.os == "ubuntu24.04_cuda13.0_shade_os"
        and p.plan.processes == 8
    )
    assert (
        p.plan.inputs
        and p.plan.datasets
        and all(len(i.revision) == 40 for i in (*p.plan.inputs, *p.plan.datasets))
    )


def test_a_limit_below_the_expected_cost_is_refused_and_the_suggested_one_passes(
    world: World,
) -> None:
    likely = prepared(world).expected.likely_cents
    least = likely + 2 * 784  # 14 minutes at $33.60/h, twice
    assert "spend limit" in failed(prepared(world, spend_limit=f"{least / 100:.2f}"))
    assert failed(prepared(world, spend_limit=f"{(least + 1) / 100:.2f}")) == {}
    p = prepared(world, spend_limit="1")
    hint = re.search(
        r"it would be cut off\. Try: spend-limit=(\d+) or --yes-really", failed(p)["spend limit"]
    )
    assert hint and failed(prepared(world, spend_limit=hint[1])) == {}


def test_a_duration_below_the_expected_time_is_refused_and_the_suggested_one_passes(
    world: World,
) -> None:
    hint = re.search(
        r"Try: max-duration=(\d+m) or --yes-really",
        failed(prepared(world, max_duration="29m"))["max duration"],
    )
    assert hint and failed(prepared(world, max_duration=hint[1])) == {}


def test_with_yes_really_both_limits_are_taken_and_noted(world: World) -> None:
    s = settings(world, spend_limit="1", max_duration="1m")
    p = prepare(s, OFFER, "0badcafe", hub_of(world), client(world.cloud).instances, yes_really=True)
    noted = [c.name for c in p.checks if c.ok is None and "--yes-really" in c.text]
    assert p.failed == [] and noted == ["spend limit", "max duration"]


def test_the_plan_carries_the_models_size_and_what_the_run_should_cost(world: World) -> None:
    p = prepared(world, phase="mid+sft", eval="full")
    assert p.plan.predicted == p.expected.predicted and set(p.plan.predicted.phase_high_cents) == {
        "mid",
        "sft",
    }
    assert p.plan.parameters and p.plan.parameters < 10_000_000 and p.plan.evaluate == "full"
    assert prepare(settings(world), OFFER, "0badcafe", None, None).plan.parameters is None
    assert prepared(world, offer=replace(OFFER, gpu="RTX4090")).plan.predicted is None


def test_earlier_runs_of_the_ledger_teach_the_forecast(world: World) -> None:
    p = prepared(world)
    plan = structs.replace(p.plan, run_id="0000000a")
    slow = Receipt(
        plan.run_id,
        "succeeded",
        seconds=7300,
        stages={"boot": 100, "sft.train": 7200},
        phases={"sft": PhaseReport("proven")},
    )
    taught = prepare(
        settings(world),
        OFFER,
        "0badcafe",
        hub_of(world),
        None,
        earlier=[Entry(plan, "i", receipt=slow)],
    )
    assert (
        taught.expected.own and not p.expected.own and "measured by earlier runs" in taught.bill()
    )
    assert 7200 < taught.expected.seconds.likely < 8000 < 3600 * 3


@pytest.mark.parametrize(
    "flags, ok, says",
    [
        ({"phase": "mid+sft", "gate": "val_bpb<0.5"}, True, "val_bpb<0.5 is tested after mid"),
        ({"phase": "all", "gate": "mmlu_acc>0.3"}, True, "is tested after mid and sft"),
        ({"phase": "sft+rl", "gate": "val_bpb<0.5"}, False, "not measured after sft"),
        ({"phase": "sft+rl", "gate": "gsm8k>0"}, False, "did you mean gsm8k_acc"),
        ({"phase": "sft+rl", "gate": "gsm8k_acc>0", "eval": "none"}, False, "eval=quick"),
        ({"phase": "sft", "gate": "val_loss<3"}, None, "no effect"),
    ],
)
def test_a_gate_that_cannot_open_is_refused_before_renting(
    world: World, flags: dict[str, str], ok: bool | None, says: str
) -> None:
    (check,) = check_gate(settings(world, **flags))
    assert (check.name, check.ok) == ("gate", ok) and says in check.text


def test_the_checks_of_a_launch_include_the_gates(world: World) -> None:
    assert "gate" in failed(prepared(world, phase="sft+rl", gate="val_bpb<0.5"))
    assert check_gate(settings(world, phase="sft+rl")) == []


def test_what_a_foreign_trainer_measures_is_not_judged(world: World) -> None:
    s = replace(settings(world, phase="sft+rl", gate="foo<1"), fork=FORK)
    (check,) = check_gate(s)
    assert check.ok is None and "not known" in check.text


def test_a_gpu_without_figures_is_reported_and_the_limit_is_the_worst_case(world: World) -> None:
    p = prepared(world, offer=replace(OFFER, gpu="RTX4090"))
    assert "expected cost unknown" in p.bill() and p.worst_cents == 15_000 and p.failed == []


def test_every_failed_check_is_listed_and_none_stops_the_others(world: World) -> None:
    def wrong_key() -> Any:
        return client(world.cloud, f"wrong-key-{MARKER}{TWIST}").instances()

    s = settings(world, hf_token=READER, model_tag="d99", spend_limit="1")
    p = prepare(s, OFFER, "0badcafe", Hub(world.hub.url, s.hf_token, patience_s=0.1), wrong_key)
    assert set(failed(p)) == {"Hub token", "input checkpoint", "spend limit", "Shadeform key"}
    assert creates(world.cloud) == 0


def test_without_a_hub_or_a_key_the_checks_say_what_was_not_checked(world: World) -> None:
    p = prepare(load_settings({"hf_token": "hf_only-the-token"}, {}), OFFER, "0badcafe", None, None)
    assert (
        p.failed == []
        and next(c for c in p.checks if c.name == "Hub").text == "not checked without HF_REPO"
    )
    assert "output folder" not in {c.name for c in p.checks}


def test_a_live_run_with_the_same_output_folder_is_refused_unless_the_tag_differs(
    world: World, ledger: Ledger
) -> None:
    launched(world, ledger)
    assert (
        "chatsft_checkpoints/d20 is being written by lanbot-sft-"
        in failed(prepared(world))["output folder"]
    )
    assert "output folder" in failed(prepared(world, phase="mid+sft"))
    assert (
        failed(prepared(world, output_tag="d20-exp1")) == {} == failed(prepared(world, phase="mid"))
    )


def test_a_finished_run_with_the_same_output_folder_is_no_conflict(
    world: World, ledger: Ledger
) -> None:
    api = client(world.cloud)
    api.delete(launched(world, ledger, api).id)
    assert prepared(world).failed == []


@pytest.mark.parametrize("action", ["status", "html", "reset"])
def test_the_output_folder_check_fails_when_it_cannot_be_made(world: World, action: str) -> None:
    world.cloud.fault(LIST, action, times=None)
    assert "cannot check whether another run writes it" in failed(prepared(world))["output folder"]


# ---- the bill
def test_deadline_and_worst_case_follow_from_the_limit_that_is_hit_first(world: World) -> None:
    p, high_s = prepared(world, max_duration="40m"), prepared(world).expected.seconds.high
    assert p.life_s == 2400 and p.worst_cents == 2240
    assert re.fullmatch(
        r"likely \$[\d.]+ in 0\.1 h, low \$[\d.]+, high \$[\d.]+ \(by the guide\); at most \$22\.40: the provider "
        rf"deletes it after 0\.7 h, at {p.plan.deadline}; the spend limit of \$150\.00 would be reached later",
        p.bill(),
    )
    assert abs(prepared(world).life_s - (3 * high_s + 3600)) < 10, (
        "three times the high estimate, and an hour"
    )
    assert prepared(world, spend_limit="30").end() == (
        "at most $30.00, the spend limit, after 0.9 h; then the provider deletes it"
    )
    assert abs(prepared(world, spend_limit="30").life_s - 3000 * 3600 / 3360) < 10, (
        "until the money is gone"
    )


def test_a_keyless_instance_gets_an_earlier_date_and_the_bill_asks_for_a_guard(
    world: World,
) -> None:
    usual, keyless = prepared(world), prepared(world, self_delete="off")
    assert usual.plan.self_delete and not keyless.plan.self_delete and keyless.life_s < usual.life_s
    assert (
        keyless.life_s >= keyless.expected.seconds.high and keyless.worst_cents < usual.worst_cents
    )  # type: ignore[union-attr]
    assert (
        f"WITHOUT A GUARD IT BILLS UNTIL {keyless.plan.deadline}. Start one: just guard"
        in keyless.bill()
    )
    assert (
        "GUARD" not in usual.bill()
        and prepared(world, self_delete="off", max_duration="4h").life_s == 4 * 3600
    )
    said = {c.text for p in (usual, keyless) for c in p.checks if c.name == "key on the machine"}
    assert len(said) == 2 and not keyless.failed


def test_the_output_tag_is_the_model_tag_unless_given(world: World) -> None:
    assert prepared(world).plan.output_tag == "d20"
    p = prepared(world, output_tag="d20-exp1", run_name="lanbot-v3-experiment-1", batch="4")
    assert (p.plan.model_tag, p.plan.output_tag, p.plan.run_name, p.plan.batch) == (
        "d20",
        "d20-exp1",
        "lanbot-v3-experiment-1",
        4,
    )


def test_wandb_is_installed_only_where_its_key_is_set(world: World) -> None:
    assert own_set(settings(world)) == {}, "the trainer's set, by default"
    assert own_set(settings(world, wandb_api_key="w-0123456789")) == {"setup": "wandb"}
    assert a_plan().setup == "train" and FOREIGN["setup"] == "box", "a fork brings its own"
    keyed = prepared(world, wandb_api_key="w-0123456789").plan
    assert (keyed.setup, prepared(world).plan.setup) == ("wandb", "train")


def test_a_rehearsal_needs_both_addresses_on_this_machine(world: World) -> None:
    there = load_settings(
        {
            "shadeform_api": "https://api.shadeform.ai/v1",
            "hf_endpoint": world.hub.url,
            "hf_repo": REPO,
        },
        {},
    )
    hub_away = load_settings(
        {
            "shadeform_api": world.cloud.url,
            "hf_endpoint": "https://huggingface.co",
            "hf_repo": REPO,
        },
        {},
    )
    for s in (there, hub_away):
        with pytest.raises(UsageProblem, match="loopback"):
            prepare(s, OFFER, "0badcafe", None, None, rehearsal=Rehearsal({}))
    p = prepare(
        settings(world), OFFER, "0badcafe", None, None, rehearsal=Rehearsal({"max_steps": 3})
    )
    assert (p.plan.device, p.plan.processes, p.plan.recipe) == ("cpu", 2, {"max_steps": 3})
    assert p.plan.predicted is None, "the figures are of GPUs"
