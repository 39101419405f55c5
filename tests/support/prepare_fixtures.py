"""Shared by tests/launch/test_prepare*.py."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nanolan.checklist import Check
from nanolan.code.check import code_here
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared, prepare
from nanolan.launch.rent import rent
from nanolan.plan import Code
from nanolan.run.ledger import Ledger
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer, Wanted, choose
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.world import World
from tests.support.core_fixtures import client
from tests.support.launch_fixtures import hub_of, settings


@cache
def bundled() -> tuple[Code, bytes, tuple[Check, ...]]:
    """This checkout, bundled once for all tests of a process: it takes seconds."""
    return code_here("0" * 8)


def sample() -> list[Offer]:
    return choose([o for entry in SAMPLE for o in offers_of(entry)], Wanted("B200", 8))[0]


OFFER = sample()[0]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


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
        code_of=lambda run_id: bundled(),
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
