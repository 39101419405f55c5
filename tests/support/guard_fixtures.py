"""Shared by tests/manage/test_guard*.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nanolan.hub.client import Hub
from nanolan.launch.request import create_body
from nanolan.manage.guard import (
    Event,
    Guard,
    deletion_recorder,
    facts_reader,
)
from nanolan.plan import Plan, new_run_id
from nanolan.redact import Secret
from nanolan.run.find import RunSearch
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import Receipt, to_json
from nanolan.settings.load import load_settings
from nanolan.shadeform.models import Instance, Limits
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import QUICK, a_plan, client, script

MINE, THEIRS = "0badcafe", "11111111"


HOUR, LONG_AGO = timedelta(hours=1), "2026-01-01T00:00:00Z"


class Post:
    """The surroundings of a guard: an account, a Hub, a ledger, and the reported events."""

    def __init__(self, root: Path) -> None:
        self.cloud = ShadeformServer(root / "cloud", delays=QUICK, boxes=False)
        self.hub = HubServer(root / "hub", tokens=WRITERS)
        self.ledger, self.said = Ledger(root / "home"), list[Event]()

    def __enter__(self) -> Post:
        self.cloud.start()
        self.hub.start()
        self.hub.put(REPO, {"README.md": b"#"})
        return self

    def __exit__(self, *exc: object) -> None:
        self.cloud.stop()
        self.hub.stop()

    def rent(
        self,
        *,
        known: bool = False,
        deadline: timedelta = HOUR,
        tags: list[str] | None = None,
        **fields: Any,
    ) -> Plan:
        """A run with a machine, its plan on the Hub; `known`: in the guard's ledger too."""
        plan = a_plan(
            **(
                {
                    "run_id": new_run_id(),
                    "created_at": iso(now_utc()),
                    "deadline": iso(now_utc() + deadline),
                    "self_delete": False,
                    "shadeform_api": self.cloud.url,
                    "hf_endpoint": self.hub.url,
                    "hf_repo": REPO,
                    "runs_repo": REPO,
                }
                | fields
            )
        )
        body = create_body(plan, "x")
        self.hub.put(REPO, {f"{plan.folder}/plan.json": plan.to_json()})
        instance_id = client(self.cloud).create(
            body
            | {
                "tags": body["tags"] if tags is None else tags,
                "auto_delete": {"spend_threshold": "150.00"},
            }
        )
        if known:
            self.ledger.put(Entry(plan, instance_id))
        return plan

    def ends(self, plan: Plan, **fields: Any) -> None:
        """Its run is over, long ago: the receipt."""
        told = Receipt(
            plan.run_id,
            **({"verdict": "succeeded", "ended": LONG_AGO, "attempt": plan.attempt} | fields),
        )
        self.hub.put(REPO, {f"{plan.folder}/receipt.json": to_json(told)})

    def guard(self, owner: str | None = MINE, *, limits: Limits | None = None, **how: Any) -> Guard:
        s = load_settings(
            {}, {"HF_REPO": REPO, "HF_ENDPOINT": self.hub.url, "SHADEFORM_API": self.cloud.url}
        )
        api = client(self.cloud, **how)
        there = RunSearch(s, Hub(self.hub.url, Secret(TOKEN), patience_s=0), api.instances)

        def info(instance_id: str) -> Instance:
            found = api.info(instance_id)
            return replace(found, limits=limits or found.limits)

        return Guard(
            api,
            facts_reader(there, self.ledger, owner, info),
            self.said.append,
            gone=deletion_recorder(self.ledger, print),
            slack_s=1.0,
            confirm_s=0.0,
            entries=self.ledger.entries,
        )

    def alive(self) -> list[bool]:
        return [
            i.status not in ("deleting", "deleted")
            for i in sorted(self.cloud.instances, key=lambda i: i.created_at)
        ]

    @property
    def words(self) -> list[str]:
        return [e.what for e in self.said]

    @property
    def text(self) -> str:
        return "\n".join(e.text for e in self.said)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    with Post(tmp_path) as made:
        yield made


def environ(post: Post) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(post.ledger.home),
        "NANOLAN_HOME": str(post.ledger.home),
        "NANOLAN_ENV_FILE": "/dev/null",
        "SHADEFORM_API": post.cloud.url,
        "SHADEFORM_API_KEY": post.cloud.key,
        "HF_ENDPOINT": post.hub.url,
        "HF_TOKEN": TOKEN,
        "HF_REPO": REPO,
    }


def guard(post: Post, *words: str) -> Any:
    return script("guard", *words, env=environ(post))
