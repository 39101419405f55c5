"""Launching: nothing is rented before all checks passed, and the ledger stores the intent before the create."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    InsufficientFunds,
    LedgerProblem,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    OutOfStock,
    PreflightFailed,
    RunFailed,
    UsageProblem,
)
from nanolan.hub.client import Hub
from nanolan.launch.prepare import (
    PER_ATTEMPT,
    Prepared,
    Rehearsal,
    check_ssh_key,
    next_attempt,
    prepare,
)
from nanolan.launch.rent import rent, with_next_offer
from nanolan.plan import read_plan
from nanolan.redact import Secret
from nanolan.run.ledger import Attempt, Entry, Ledger
from nanolan.run.record import PhaseReport, Receipt
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer, Wanted, choose
from nanolan.sim.hub.state import READER, WRITER
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.world import REPO, World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, INFO, LIST, QUICK, Waits, client, creates, forget
from tests.support.launch_fixtures import Launch


def sample() -> list[Offer]:
    return choose([o for entry in SAMPLE for o in offers_of(entry)], Wanted("B200", 8))[0]


OFFER = sample()[0]


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("world"), cache=seed_cache, delays=QUICK, boxes=False
    ) as world:
        yield world


@pytest.fixture
def world(one_world: World) -> World:
    return forget(one_world)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def settings(world: World, **flags: str) -> Settings:
    return load_settings(
        flags,
        {
            "SHADEFORM_API": world.cloud.url,
            "SHADEFORM_API_KEY": world.cloud.key,
            "HF_ENDPOINT": world.hub.url,
            "HF_TOKEN": WRITER,
            "HF_REPO": REPO,
        },
    )


def hub_of(world: World, **more: Any) -> Hub:
    return Hub(world.hub.url, Secret(WRITER), **more)


def prepared(
    world: World,
    api: Shadeform | None = None,
    offer: Offer = OFFER,
    hub: Hub | None = None,
    **flags: str,
) -> Prepared:
    return prepare(
        settings(world, **flags),
        offer,
        "0badcafe",
        hub or hub_of(world),
        (api or client(world.cloud)).instances,
    )


def launched(
    world: World,
    ledger: Ledger,
    api: Shadeform | None = None,
    said: list[str] | None = None,
    **flags: str,
) -> Any:
    api = api or client(world.cloud)
    p = prepared(world, api, **flags)
    assert p.failed == []
    return rent(
        p,
        settings(world, **flags),
        api,
        hub_of(world),
        ledger,
        (said if said is not None else []).append,
    )


def failed(p: Prepared) -> dict[str, str]:
    return {c.name: c.text for c in p.failed}


# ---- the checks


def test_a_good_plan_passes_every_check_and_sends_nothing(world: World) -> None:
    p = prepared(world)
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
        r"likely \$[\d.]+ in 0\.1 h, low \$[\d.]+, high \$[\d.]+ \(by the guide\); at worst \$22\.40 in 0\.7 h, then the "
        "provider deletes it",
        p.bill(),
    )
    assert abs(prepared(world).life_s - (3 * high_s + 3600)) < 10, (
        "three times the high estimate, and an hour"
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


# ---- renting


def test_the_run_folder_is_uploaded_before_renting_and_the_script_names_it(
    world: World, ledger: Ledger
) -> None:
    said: list[str] = []
    instance = launched(world, ledger, said=said)
    plan = ledger.entries()[0].plan
    assert read_plan(world.hub.read(REPO, f"runs/{plan.run_id}/plan.json")) == plan
    assert len(world.hub.read(REPO, f"runs/{plan.run_id}/code.bundle")) == plan.code.size
    script = base64.b64decode(world.cloud.instances[0].script or "").decode()
    assert f"/resolve/{hub_of(world).tree(REPO).revision}/runs/{plan.run_id}\n" in script
    assert world.cloud.instances[0].name == plan.instance_name == instance.name and instance.billing


PUBLIC = "ssh-ed25519 " + "A" * 68 + " me@home"


def test_the_users_own_key_is_uploaded_once_and_named_in_the_create(
    world: World, tmp_path: Path
) -> None:
    Launch(world, tmp_path / "a", ssh_public_key=PUBLIC).run()
    Launch(world, tmp_path / "b", ssh_public_key=PUBLIC, output_tag="b").run()
    mine = [k for k in world.cloud.account.keys.all.values() if k.public_key == PUBLIC]
    assert len(mine) == 1 and {i.spec["ssh_key_id"] for i in world.cloud.instances} == {mine[0].id}
    Launch(world, tmp_path / "c", output_tag="c").run()
    managed = world.cloud.account.keys.default.id
    assert sorted(i.spec["ssh_key_id"] == managed for i in world.cloud.instances) == [
        False,
        False,
        True,
    ]


def test_a_key_that_cannot_be_uploaded_rents_nothing_and_notes_nothing(
    world: World, tmp_path: Path
) -> None:
    world.cloud.fault("GET /v1/sshkeys", "forbidden", times=None)
    launch = Launch(world, tmp_path, ssh_public_key=PUBLIC.replace("A", "B"))
    with pytest.raises(AuthProblem):
        launch.run()
    assert creates(world.cloud) == 0 and launch.ledger.entries() == []


@pytest.mark.parametrize("text, ok", [(PUBLIC, True), ("/nonexistent.pub", False)])
def test_an_invalid_key_fails_its_check_before_anything_is_rented(text: str, ok: bool) -> None:
    assert check_ssh_key(text).ok is ok


def test_the_intent_is_in_the_ledger_before_the_create_is_sent(
    world: World, ledger: Ledger
) -> None:
    class Dies(Shadeform):
        def create(self, body: dict[str, Any]) -> str:
            (entry,) = ledger.entries()
            assert (
                entry.instance_id is None
                and not entry.gone
                and entry.plan.instance_name == body["name"]
            )
            raise SystemExit("the laptop is off")

    with pytest.raises(SystemExit):
        launched(world, ledger, Dies(Secret(world.cloud.key), world.cloud.url))
    assert len(ledger.entries()) == 1


def test_the_id_is_said_and_written_before_any_further_call(world: World, ledger: Ledger) -> None:
    calls: list[int] = []

    class Says(list[str]):
        def append(self, text: str) -> None:
            super().append(text)
            if text.startswith("instance "):
                assert (
                    ledger.entries()[0].instance_id == world.cloud.instances[0].id
                    and ledger.entries()[0].instance_id in text
                )
                calls.append(len(world.cloud.requests))

    launched(world, ledger, said=Says())
    assert calls and world.cloud.requests[calls[0] - 1].path.endswith("/create")


def test_a_full_ledger_after_the_create_hides_no_instance_and_before_it_rents_none(
    world: World, ledger: Ledger
) -> None:
    def full(body: Any) -> None:
        ledger.runs.rename(ledger.home / "away")
        ledger.runs.touch()

    said: list[str] = []
    world.cloud.fault(CREATE, "edit", change=full)
    instance = launched(world, ledger, said=said)
    assert instance.id == world.cloud.instances[0].id and any(
        text.startswith(f"instance {instance.id} (") for text in said
    )
    assert any(text.startswith("NOT RECORDED: ") for text in said)
    with pytest.raises(LedgerProblem):
        launched(world, ledger, output_tag="another")
    assert creates(world.cloud) == 1


@pytest.mark.parametrize(
    "action, kind",
    [
        ("out_of_stock", OutOfStock),
        ("insufficient_funds", InsufficientFunds),
        ("unauthorized", AuthProblem),
        ("rate_limit", ApiProblem),
    ],
)
def test_a_refused_create_is_noted_as_over(
    world: World, ledger: Ledger, action: str, kind: type[NanolanError]
) -> None:
    world.cloud.fault(CREATE, action)
    with pytest.raises(kind):
        launched(world, ledger)
    (entry,) = ledger.entries()
    assert entry.gone and entry.note.startswith("create refused") and creates(world.cloud) == 1


def test_a_create_with_a_lost_answer_is_adopted_and_noted(world: World, ledger: Ledger) -> None:
    world.cloud.fault(CREATE, "reset_after_effect")
    instance = launched(world, ledger)
    assert ledger.entries()[0].instance_id == instance.id and creates(world.cloud) == 1 == len(
        world.cloud.instances
    )


@pytest.mark.parametrize("look", [None, "unauthorized", "status"])
def test_an_unknown_outcome_stays_open_in_the_ledger(
    world: World, ledger: Ledger, look: str | None
) -> None:
    api = client(world.cloud)
    p = prepared(world, api)
    world.cloud.fault(CREATE, "status", status=500)
    if look:
        world.cloud.fault(LIST, look, times=None, skip=1)  # the look before the create
    with pytest.raises(MayBeBilling, match=p.plan.instance_name):
        rent(p, settings(world), api, hub_of(world), ledger, lambda _: None)
    (entry,) = ledger.entries()
    assert not entry.gone and entry.instance_id is None and creates(world.cloud) == 1


def test_an_instance_at_another_price_is_deleted_recorded_and_fails_the_run(
    world: World, ledger: Ledger
) -> None:
    world.cloud.switch("price_differs", 9999)
    with pytest.raises(RunFailed, match=r"\$99.99/h instead of \$33.60/h. It is deleted"):
        launched(world, ledger)
    (entry,) = ledger.entries()
    assert (
        entry.gone
        and entry.instance_id
        and "99.99" in entry.note
        and world.cloud.instances[0].status in ("deleting", "deleted")
    )


def test_an_instance_at_another_price_that_cannot_be_deleted_may_bill(
    world: World, ledger: Ledger
) -> None:
    class Quick(Waits):
        def __call__(self, seconds: float) -> None:
            raise MayBeBilling(
                "asked to wait"
            )  # the delete is tried again and again; we only need to see that it is

    world.cloud.switch("price_differs", 9999)
    world.cloud.switch("delete_ignored")
    with pytest.raises(MayBeBilling):
        launched(world, ledger, client(world.cloud, sleep=Quick()))
    assert not ledger.entries()[0].gone


def test_an_instance_that_cannot_be_read_back_is_named_with_price_limit_and_command(
    world: World, ledger: Ledger
) -> None:
    world.cloud.fault(INFO, "unauthorized", times=None)
    with pytest.raises(MayBeBilling) as e:
        launched(world, ledger)
    (entry,) = ledger.entries()
    for part in (str(entry.instance_id), "$33.60/h", "$150.00", f"just stop {entry.plan.run_id}"):
        assert part in str(e.value)
    assert not entry.gone


@pytest.mark.parametrize("during", ["create", "read-back"])
def test_ctrl_c_after_the_request_says_that_the_machine_goes_on(
    world: World, ledger: Ledger, during: str
) -> None:
    class Interrupted(Shadeform):
        def create(self, body: dict[str, Any]) -> str:
            made = super().create(body)
            if during == "create":
                raise KeyboardInterrupt
            return made

        def info(self, instance_id: str) -> Any:
            if during == "read-back":
                raise KeyboardInterrupt
            return super().info(instance_id)

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        launched(
            world,
            ledger,
            Interrupted(Secret(world.cloud.key), world.cloud.url, sleep=Waits()),
            said,
        )
    (entry,) = ledger.entries()
    assert entry.instance_id == world.cloud.instances[0].id and not entry.gone
    assert (
        f"instance {entry.instance_id} ($33.60/h) is rented and continues by itself, limit $150.00"
        in said[-1]
    )
    assert f"just stop {entry.plan.run_id}" in said[-1]


def test_nothing_is_rented_when_the_hub_rejects_the_run_folder(
    world: World, ledger: Ledger
) -> None:
    p = prepared(world)
    with pytest.raises(NanolanError):
        rent(
            p,
            settings(world),
            client(world.cloud),
            Hub(world.hub.url, Secret(READER), patience_s=0.1),
            ledger,
            lambda _: None,
        )
    assert creates(world.cloud) == 0 and ledger.entries() == []


def test_consent_after_a_long_time_is_for_checks_that_are_old(world: World, ledger: Ledger) -> None:
    p = prepared(world)
    old = replace(
        p, plan=structs.replace(p.plan, created_at=iso(now_utc() - timedelta(minutes=16)))
    )
    with pytest.raises(PreflightFailed, match="16 minutes old; nothing was rented"):
        rent(old, settings(world), client(world.cloud), hub_of(world), ledger, lambda _: None)
    assert creates(world.cloud) == 0 and ledger.entries() == []


# ---- the next attempt


def test_the_next_attempt_is_the_same_run_with_the_rest_of_the_limit(
    world: World,
) -> None:
    first = prepared(
        world,
        phase="mid+sft",
        max_duration="2h",
        probation_usd="3",
        batch="4",
        output_tag="d20-exp1",
    )
    kept = replace(first, plan=structs.replace(first.plan, save_minutes=7.0, gate="val_bpb<0.5"))
    other = sample()[1]
    second = next_attempt(kept, settings(world, max_duration="2h"), other, 14_000)
    plan = second.plan
    assert (plan.attempt, plan.limit_cents, plan.offer.cloud, plan.offer.hourly_cents) == (
        2,
        14_000,
        "datacrunch",
        3584,
    )
    assert (second.life_s, second.bundle, second.offer) == (
        7200,
        b"",
        other,
    ) and plan.created_at >= first.plan.created_at
    machine = {name: getattr(kept.plan, name) for name in PER_ATTEMPT}
    assert structs.replace(plan, attempt=1, **machine) == kept.plan and plan.probation_cents == 300


def test_the_next_attempt_of_a_rehearsal_stays_one(world: World) -> None:
    p = prepare(
        settings(world), OFFER, "0badcafe", None, None, rehearsal=Rehearsal({"max_steps": 3})
    )
    plan = next_attempt(p, settings(world), sample()[1], 1000).plan
    assert (plan.device, plan.processes, plan.recipe) == ("cpu", 2, {"max_steps": 3})


def test_the_ledger_has_the_earlier_attempts_from_before_the_create(
    world: World, ledger: Ledger
) -> None:
    earlier = (Attempt(1, "i-1", 85, "it did not come up"),)
    seen: list[Any] = []

    class Looks(Shadeform):
        def create(self, body: dict[str, Any]) -> str:
            seen.append(ledger.entries()[0])
            return super().create(body)

    p = next_attempt(prepared(world), settings(world), OFFER, 14_000)
    rent(
        p,
        settings(world),
        Looks(Secret(world.cloud.key), world.cloud.url, sleep=Waits()),
        hub_of(world),
        ledger,
        lambda _: None,
        earlier=earlier,
    )
    assert seen[0].earlier == earlier == ledger.entries()[0].earlier and seen[0].plan.attempt == 2


def test_the_next_attempt_keeps_earlier_attempts_and_removes_their_files(
    world: World, ledger: Ledger
) -> None:
    api, p, earlier = client(world.cloud), prepared(world), (Attempt(1, "i-0", 500, "lost"),)
    left = {
        f"{p.plan.folder}/{name}": b"{}"
        for name in ("receipt.json", "progress.json", "stop.json", "metrics.jsonl")
    }
    world.hub.put(REPO, left)
    rent(p, settings(world), api, hub_of(world), ledger, lambda _: None, earlier=earlier)
    assert ledger.entries()[0].earlier == earlier and ledger.entries()[0].instance_id
    files = {
        f.removeprefix(f"{p.plan.folder}/")
        for f in world.hub.files(REPO)
        if f.startswith(p.plan.folder)
    }
    assert files == {"plan.json", "code.bundle", "earlier.json", "metrics.jsonl"}


@pytest.mark.parametrize("action", ["out_of_stock", "reset"])
def test_earlier_attempts_are_kept_however_the_create_ends(
    world: World, ledger: Ledger, action: str
) -> None:
    world.cloud.fault(CREATE, action)
    p, earlier = prepared(world), (Attempt(1, "i-0", 500, "lost"),)
    with pytest.raises(NanolanError):
        rent(
            p,
            settings(world),
            client(world.cloud),
            hub_of(world),
            ledger,
            lambda _: None,
            earlier=earlier,
        )
    assert ledger.entries()[0].earlier == earlier


# ---- the stock-out


def test_a_stock_out_names_the_next_offer_with_the_other_settings_of_the_launch() -> None:
    first, second, *_ = offers = sample()
    told = with_next_offer(
        OutOfStock("just sold out; nothing was rented"),
        first,
        offers,
        ["phase=mid", "run-name=a b", "--yes"],
    )
    assert told.exit_code == 3
    assert str(told) == (
        "8x B200 at hyperstack/canada-1 just sold out; nothing was rented. "
        "Next: 8x B200 at datacrunch/FIN-01 for $35.84/h: "
        "just launch phase=mid 'run-name=a b' --yes cloud=datacrunch region=FIN-01 instance-type=B200_sxm6x8"
    )
    assert second.where in str(told)
    assert "just offers --all-configs" in str(
        with_next_offer(OutOfStock("sold out"), first, [first])
    )
    bad = with_next_offer(
        MachineFailed("instance i-1 did not come up", "i-1", 5), first, offers, why="dearer"
    )
    assert bad.exit_code == 5 and str(bad).startswith(
        "instance i-1 did not come up. Next: 8x B200 at datacrunch/FIN-01 for $35.84/h "
        "(dearer): just launch cloud="
    )
