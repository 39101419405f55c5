"""The next attempt of a run, and an offer that sells out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import (
    MachineFailed,
    NanolanError,
    OutOfStock,
)
from nanolan.launch.make_plan import PER_ATTEMPT, Rehearsal
from nanolan.launch.prepare import next_attempt, prepare
from nanolan.launch.rent import rent, with_next_offer
from nanolan.redact import Secret
from nanolan.run.ledger import Attempt, Ledger
from nanolan.shadeform.client import Shadeform
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import CREATE, Waits, client
from tests.support.prepare_fixtures import (
    OFFER,
    hub_of,
    ledger,  # noqa: F401  # a fixture
    prepared,
    sample,
    settings,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


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
    assert files == {"plan.json", "code.bundle", "earlier.json", "launch.json", "metrics.jsonl"}


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
