"""Shared by tests/status/test_status*.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.hub.client import Hub
from nanolan.launch.request import create_body
from nanolan.redact import Secret
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PhaseReport, Progress, Receipt, to_json
from nanolan.shadeform.client import Shadeform
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.status.status import look
from nanolan.status.view import Overview
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, REPO, TOKEN, WRITERS, make_plan

RUN, SFT = "ab12cd34", "chatsft_checkpoints/d20"


TRAINING = Progress(
    RUN, "training", {"sft": PhaseReport("training")}, "2026-01-28T20:53:39Z", "words"
)


def receipt(verdict: str = "succeeded", reason: str = "") -> Receipt:
    return Receipt(RUN, verdict, reason, log="logs/x.log", spent_cents=123, seconds=60)


MODEL, META = b"weights" * 9, b"{}"


MANIFEST = Manifest(
    RUN,
    "sft",
    90,
    (hash_bytes("meta_000090.json", META), hash_bytes("model_000090.pt", MODEL)),
    extra={"loss_start": 2.0, "loss_end": 1.0},
)


class Desk:
    """A laptop with a ledger, an account and a Hub, and one run of an hour ago."""

    def __init__(self, root: Path, hub: HubServer, cloud: ShadeformServer) -> None:
        self.hub, self.cloud, self.ledger = hub, cloud, Ledger(root / "home")
        plan = make_plan(
            hub.url,
            cloud.url,
            run_id=RUN,
            owner=self.ledger.owner,
            created_at=iso(now_utc() - timedelta(minutes=30)),
        )
        self.entry = Entry(plan, self.rent(plan).id)
        self.ledger.put(self.entry)

    def rent(self, plan: Any) -> Any:
        body = create_body(plan, "") | {
            "region": "canada-1",
            "shade_instance_type": "8x_b200_pcie_192gb",
        }
        del body["os"]
        return self.cloud.instance(self.cloud.account.create(body)["id"])

    def tell(self, **files: Any) -> None:
        self.hub.put(
            REPO, {f"runs/{RUN}/{name}.json": to_json(value) for name, value in files.items()}
        )

    def look(self) -> Overview:
        return self.look_at(self.ledger.entries())

    def look_at(self, entries: list[Entry]) -> Overview:
        api = Shadeform(Secret(KEY), self.cloud.url, sleep=lambda s: None)
        return look(
            self.ledger, entries, api, lambda e: Hub(self.hub.url, Secret(TOKEN), patience_s=0.2)
        )


@contextmanager
def new_desk(root: Path) -> Iterator[Desk]:
    """A desk with servers of its own."""
    with (
        HubServer(root / "hub", tokens=WRITERS) as hub,
        ShadeformServer(
            root / "cloud", key=KEY, boxes=False, delays=replace(AT_ONCE, deleting_s=0)
        ) as cloud,
    ):
        hub.put(REPO, {"README.md": b"#"})
        yield Desk(root, hub, cloud)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made
