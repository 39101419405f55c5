"""A laptop that has exported a run, and what the run's machines write: no Shadeform account at all."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import structs

from nanolan.box.platform.attempt import begin
from nanolan.hub.client import Hub
from nanolan.plan import SKYPILOT
from nanolan.redact import Secret
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PhaseReport, Progress, Receipt, to_json
from nanolan.shadeform.client import Shadeform
from nanolan.sim.hub.server import HubServer
from nanolan.status.status import look
from nanolan.status.view import RunView
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO, TOKEN, make_plan

API = "http://127.0.0.1:1/v1"  # nothing answers there


class JobDesk:
    """A ledger with one exported run, an hour ago, and its run folder."""

    def __init__(self, root: Path, server: HubServer, **fields: Any) -> None:
        self.server, self.ledger = server, Ledger(root / "home")
        made = now_utc() - timedelta(hours=1)
        self.plan = make_plan(
            server.url,
            API,
            **{
                "platform": SKYPILOT,
                "owner": self.ledger.owner,
                "created_at": iso(made),
                "deadline": iso(made + timedelta(hours=10)),
                **fields,
            },
        )
        self.ledger.put(Entry(self.plan))
        self.put("plan.json", self.plan)

    @property
    def hub(self) -> Hub:
        return Hub(self.server.url, Secret(TOKEN), patience_s=0.2)

    @property
    def api(self) -> Shadeform:
        return Shadeform(None, API)

    @property
    def entry(self) -> Entry:
        return self.ledger.find(self.plan.run_id)

    def put(self, name: str, value: Any) -> None:
        self.server.put(REPO, {f"{self.plan.folder}/{name}": to_json(value)})

    def files(self) -> set[str]:
        folder = f"{self.plan.folder}/"
        return {p.removeprefix(folder) for p in self.server.files(REPO) if p.startswith(folder)}

    def start(self, job: str = "sky-1", minutes_ago: float = 50) -> None:
        """A machine comes up and claims the run."""
        now = ago(minutes_ago)
        begin(self.hub, self.plan, job, 300, lambda: now)

    def beat(self, attempt: int = 1, minutes_ago: float = 1, cents: int = 80) -> None:
        phases = {p: PhaseReport("training") for p in self.plan.phases}
        self.put(
            "progress.json",
            Progress(
                self.plan.run_id,
                "training",
                phases,
                iso(ago(minutes_ago)),
                "words",
                spent_cents=cents,
                attempt=attempt,
                step=7,
            ),
        )

    def end(self, verdict: str, reason: str = "", attempt: int = 1) -> None:
        receipt = Receipt(self.plan.run_id, verdict, reason, spent_cents=90, attempt=attempt)
        self.put("receipt.json", structs.replace(receipt, ended=iso(now_utc())))

    def look(self) -> RunView:
        """The run, as a laptop without a Shadeform key sees it."""
        return look(self.ledger, [self.entry], self.api, lambda _: self.hub).runs[0]


def ago(minutes: float) -> datetime:
    return now_utc() - timedelta(minutes=minutes)
