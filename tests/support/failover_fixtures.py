"""Shared by tests/launch/test_failover*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.world import World
from tests.support.core_fixtures import QUICK, forget
from tests.support.launch_fixtures import B200

FIRST, SECOND, THIRD = B200  # $33.60, $35.84, $38.40 an hour


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
