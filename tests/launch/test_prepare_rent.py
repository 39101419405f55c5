"""From an agreed plan to a rented instance, and the next attempt."""

from __future__ import annotations

import base64
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
    MayBeBilling,
    NanolanError,
    OutOfStock,
    PreflightFailed,
    RunFailed,
)
from nanolan.hub.client import Hub
from nanolan.launch.prepare import check_ssh_key
from nanolan.launch.rent import rent
from nanolan.plan import read_plan
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.shadeform.client import Shadeform
from nanolan.sim.hub.state import READER
from nanolan.sim.world import REPO, World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, INFO, LIST, Waits, client, creates
from tests.support.launch_fixtures import Launch
from tests.support.prepare_fixtures import (
    hub_of,
    launched,
    ledger,  # noqa: F401  # a fixture
    prepared,
    settings,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


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
