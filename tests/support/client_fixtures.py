"""Shared by tests/shadeform/test_client*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.launch.request import create_body
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.core_fixtures import (
    QUICK,
    a_plan,
    client,
)

# PLAN's own time limit has passed: an instance with it can be deleted before a test reads it.
BODY = create_body(a_plan(deadline="2099-01-01T00:00:00Z"), "#!/bin/bash\n")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def api(cloud: ShadeformServer) -> Shadeform:
    return client(cloud)
