"""Shared by tests/shadeform/test_lifecycle*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.launch.request import create_body
from nanolan.plan import Plan
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import (
    create_once,
)
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import QUICK, a_plan, client

FOR_EVER = "2099-01-01T00:00:00Z"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def api(cloud: ShadeformServer) -> Shadeform:
    return client(cloud)


@pytest.fixture
def plan() -> Plan:
    return a_plan(created_at=iso(now_utc()), deadline=FOR_EVER)


def rented(api: Shadeform, plan: Plan) -> tuple[str, bool]:
    return create_once(api, create_body(plan, "#!/bin/bash\n"), plan, say=lambda _: None)
