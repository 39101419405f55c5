"""Before a run with a foreign trainer goes on: its bundle is still there, and its batch fits the number of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.checkpoint.manifest import hash_bytes
from nanolan.hub.client import Hub
from nanolan.manage.pinned import bundle_checks, gpu_checks
from nanolan.plan import Code, Fork
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import TOKEN, WRITERS
from tests.support.resume_fixtures import PLAN

BUNDLE = b"a bundle"
CODE = Code("c" * 40, hash_bytes("x", BUNDLE).sha256, len(BUNDLE), False)
FOREIGN = structs.replace(PLAN, fork=Fork("custom", "my-nanochat", "c" * 40, CODE, {}, "online"))
PATH = f"{PLAN.folder}/fork.bundle"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:  # type: ignore[arg-type]
        hub.put(PLAN.runs_repo, {"README.md": b"hello"})
        yield hub


@pytest.mark.parametrize(
    ("files", "ok", "says"),
    [
        ({PATH: BUNDLE}, True, "of commit cccccccc"),
        ({PATH: b"another"}, False, "is not the run's; launch again"),
        ({}, False, "launch again"),
    ],
    ids=["there", "changed", "gone"],
)
def test_the_bundle_is_looked_for_before_anything_is_rented(
    server: HubServer, files: dict[str, bytes | Path], ok: bool, says: str
) -> None:
    server.put(PLAN.runs_repo, files)
    (check,) = bundle_checks(Hub(server.url, Secret(TOKEN), patience_s=1), FOREIGN)
    assert check.ok is ok and says in check.text


def test_nanolans_own_trainer_has_no_second_bundle(server: HubServer) -> None:
    assert bundle_checks(Hub(server.url, Secret(TOKEN), patience_s=1), PLAN) == ()


def test_another_number_of_gpus_is_refused_for_a_foreign_trainer_only() -> None:
    fewer = structs.replace(FOREIGN, processes=FOREIGN.processes - 1)
    (check,) = gpu_checks(FOREIGN, fewer)
    assert check.ok is False and f"num-gpus={FOREIGN.processes}" in check.text
    assert gpu_checks(FOREIGN, FOREIGN) == () == gpu_checks(PLAN, fewer)
