"""Shared by tests/launch/test_prepare*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.hub.client import Hub
from nanolan.launch.prepare import (
    Prepared,
    prepare,
)
from nanolan.launch.rent import rent
from nanolan.redact import Secret
from nanolan.run.ledger import Ledger
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import offers_of
from nanolan.shadeform.offers import Offer, Wanted, choose
from nanolan.sim.hub.state import WRITER
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import QUICK, client, forget


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
