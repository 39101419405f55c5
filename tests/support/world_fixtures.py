"""A rehearsal's world without boxes, one for a file's tests, as new for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.world import World
from tests.support.core_fixtures import QUICK, forget


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("world"), cache=seed_cache, delays=QUICK, boxes=False
    ) as world:
        yield world


@pytest.fixture
def world(one_world: World) -> World:
    one_world.hub.faults.clear()
    return forget(one_world)
