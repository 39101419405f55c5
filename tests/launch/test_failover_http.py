"""Fail-over against the local Shadeform over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import MachineFailed, NanolanError, OutOfStock
from nanolan.hub.client import Hub
from nanolan.plan import read_plan
from nanolan.redact import Secret
from nanolan.run.ledger import Attempt
from nanolan.sim.hub.state import WRITER
from nanolan.sim.world import REPO, World
from nanolan.times import parse_time
from tests.support.core_fixtures import CREATE, creates
from tests.support.failover_fixtures import (
    FIRST,
    SECOND,
)
from tests.support.launch_fixtures import Launch, fails, silent, trains
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


class Recording(Hub):
    """A Hub client that notes which files it committed."""

    added: list[set[str]]

    def commit(
        self,
        repo: str,
        add: dict[str, bytes | Path],
        message: str,
        delete: Iterable[str] = (),
        *,
        parent: str | None = None,
    ) -> str:
        self.added = [*getattr(self, "added", []), set(add)]
        return super().commit(repo, add, message, delete, parent=parent)


def sent(world: World) -> list[dict[str, Any]]:
    return [r.body for r in world.cloud.requests if r.path.endswith("/create")]


def test_a_stock_out_is_followed_by_the_next_attempt_of_the_same_run(
    world: World, tmp_path: Path
) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)
    launched = launch.run()
    first, second = sent(world)
    plan, entry = launched.prepared.plan, launch.ledger.entries()[0]
    assert (plan.attempt, plan.offer.cloud, entry.plan) == (
        2,
        "datacrunch",
        plan,
    ) and entry.instance_id == launched.instance.id
    assert (
        entry.earlier
        == launched.earlier
        == (Attempt(1, None, 0, f"{FIRST.where}: just sold out; nothing was rented"),)
    )
    assert first["name"].endswith(f"-{plan.run_id}") and second["name"] == plan.instance_name
    assert second["name"].endswith(f"-a2-{plan.run_id}") and "nanolan-attempt=2" in second["tags"]
    assert len(launch.boxes) == 1 == len(launch.live)
    assert (
        f"attempt 1: {FIRST.where}: just sold out" in launch.text
        and f"attempt 2: {SECOND.where}" in launch.text
    )


def test_the_next_attempt_has_a_new_deadline_and_script_and_uploads_only_the_plan_again(
    world: World, tmp_path: Path
) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)
    launch.hub = Recording(world.hub.url, Secret(WRITER))
    plan = launch.run().prepared.plan
    first, second = sent(world)
    scripts = [
        base64.b64decode(
            b["launch_configuration"]["script_configuration"]["base64_script"]
        ).decode()
        for b in (first, second)
    ]
    assert scripts[0] != scripts[1] and f"/runs/{plan.run_id}\n" in scripts[1]
    assert read_plan(world.hub.read(REPO, f"{plan.folder}/plan.json")) == plan
    assert (
        second["auto_delete"]["date_threshold"]
        == plan.deadline
        != first["auto_delete"]["date_threshold"]
    )
    life = parse_time(plan.deadline) - parse_time(plan.created_at)
    assert life.total_seconds() == 15_000 * 3600 // SECOND.hourly_cents
    assert launch.hub.added == [
        {f"{plan.folder}/plan.json", f"{plan.folder}/code.bundle"},
        {f"{plan.folder}/{name}.json" for name in ("plan", "earlier", "launch")},
    ]
    assert world.hub.read(REPO, f"{plan.folder}/code.bundle") == b"code"


@pytest.mark.parametrize(
    "fault", ["price_differs", "goes_to_error", "vanishes", "stuck_in_pending_provider"]
)
def test_a_bad_instance_is_deleted_before_the_next_create_and_its_cost_counts(
    world: World, tmp_path: Path, fault: str
) -> None:
    world.cloud.switch(fault, {"price_differs": 500_000, "vanishes": 0.3}.get(fault, True), times=1)
    launch = Launch(world, tmp_path, silent, trains)
    launched = launch.run()
    bad, good = launch.boxes
    assert launch.never_two() and launch.live == [good] and launched.instance.id == good.id
    (failed,) = launched.earlier
    assert failed.instance_id == bad.id and failed.number == 1 and failed.spent_cents
    limit = 15_000 - failed.spent_cents
    assert launched.prepared.plan.limit_cents == limit
    assert good.spec["auto_delete"]["spend_threshold"] == f"{limit // 100}.{limit % 100:02d}"


@pytest.mark.parametrize("reason", ["boot_failed", "probation_failed"])
def test_a_box_that_fails_its_own_probation_is_followed_by_the_next_offer(
    world: World, tmp_path: Path, reason: str
) -> None:
    launch = Launch(world, tmp_path, fails(reason), trains)
    assert launch.run().prepared.plan.attempt == 2
    assert (
        launch.never_two()
        and len(launch.live) == 1
        and reason.replace("_", " ") in launch.ledger.entries()[0].earlier[0].note
    )


def test_after_the_agreed_number_of_offers_the_error_names_the_tries_and_the_next_command(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("goes_to_error")
    launch = Launch(world, tmp_path, failover="1")
    with pytest.raises(MachineFailed) as e:
        launch.run(typed=("phase=sft",))
    text = str(e.value)
    assert (
        text.startswith("2 offers tried for $0.0")
        and "none is rented now" in text
        and "(failover=1)" in text
    )
    assert text.endswith(
        "just launch phase=sft cloud=tensordock region=us-east instance-type=B200x8"
    )
    entry = launch.ledger.entries()[0]
    assert (
        launch.live == []
        and len(launch.boxes) == 2
        and launch.never_two()
        and entry.gone
        and "the provider says" in entry.note
    )
    assert e.value.exit_code == 5


def test_when_every_offer_is_sold_out_it_is_a_stock_out(world: World, tmp_path: Path) -> None:
    world.cloud.fault(CREATE, "out_of_stock", times=None)
    launch = Launch(world, tmp_path)
    with pytest.raises(
        OutOfStock, match="3 offers tried for .0.00.*just offers --all-configs"
    ) as e:
        launch.run()
    assert creates(world.cloud) == 3 and e.value.exit_code == 3 and launch.ledger.entries()[0].gone


@pytest.mark.parametrize(
    "action, params",
    [
        ("insufficient_funds", {}),
        ("unauthorized", {}),
        ("forbidden", {}),
        ("rate_limit", {}),
        ("status", {"status": 413}),
        ("internal_error", {}),
        ("reset", {}),
        ("html", {}),
        ("status", {"status": 409, "body": {"error_code": "NEW_ONE"}}),
    ],
    ids=str,
)
def test_other_errors_of_the_create_try_no_other_offer(
    world: World, tmp_path: Path, action: str, params: dict[str, Any]
) -> None:
    world.cloud.fault(CREATE, action, **params)
    launch = Launch(world, tmp_path)
    with pytest.raises(NanolanError):
        launch.run()
    assert creates(world.cloud) == 1 and launch.live == []


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422])
def test_a_refused_offer_rents_nothing_and_the_next_one_is_tried(
    world: World, tmp_path: Path, status: int
) -> None:
    world.cloud.fault(CREATE, "status", status=status, body={"error": "os not supported"})
    launch = Launch(world, tmp_path)
    launch.run()
    assert (
        creates(world.cloud) == 2
        and len(launch.boxes) == 1
        and "nothing was rented" in launch.ledger.entries()[0].earlier[0].note
    )


def test_an_offer_with_another_number_of_gpus_is_named_and_not_taken(
    world: World, tmp_path: Path
) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    small = replace(FIRST, instance_type="small", num_gpus=1, hourly_cents=400)
    launch = Launch(world, tmp_path)
    with pytest.raises(OutOfStock, match="instance-type=small"):
        launch.run(offers=[small, FIRST], first=FIRST)
    assert creates(world.cloud) == 1
