"""Shared by tests/scripts/test_stop*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.launch.request import create_body
from nanolan.plan import Plan, new_run_id
from nanolan.run.ledger import Entry, Ledger
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import QUICK, a_plan, client, script


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path / "cloud", delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def environment(cloud: ShadeformServer, ledger: Ledger, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(ledger.home),
        "NANOLAN_HOME": str(ledger.home),
        "NANOLAN_ENV_FILE": "/dev/null",
        "SHADEFORM_API": cloud.url,
        "SHADEFORM_API_KEY": cloud.key,
        **more,
    }


def stop(cloud: ShadeformServer, ledger: Ledger, *words: str, **more: str) -> Any:
    """`just stop --now`, without a Hub."""
    return script("stop", "--now", *words, env=environment(cloud, ledger, **more))


def rented(cloud: ShadeformServer, ledger: Ledger, *, known: bool = True, **changes: Any) -> Plan:
    """A run with a machine; `known`: its id reached the ledger."""
    plan = a_plan(
        **(
            {
                "run_id": new_run_id(),
                "created_at": iso(now_utc()),
                "deadline": "2099-01-01T00:00:00Z",
            }
            | changes
        )
    )
    ledger.put(Entry(plan))
    instance_id = client(cloud).create(create_body(plan, "x"))
    ledger.put(Entry(plan, instance_id if known else None))
    return plan


def deleted(cloud: ShadeformServer) -> list[bool]:
    return [i.status in ("deleting", "deleted") for i in cloud.instances]
