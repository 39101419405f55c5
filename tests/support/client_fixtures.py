"""Shared by tests/shadeform/test_client*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.launch.request import create_body
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.core_fixtures import (
    PLAN,
    QUICK,
    client,
)

BODY = create_body(PLAN, "#!/bin/bash\n")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def api(cloud: ShadeformServer) -> Shadeform:
    return client(cloud)
