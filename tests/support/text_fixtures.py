"""Shared by tests/status/test_text*.py."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from msgspec import structs

from nanolan.run.ledger import Attempt, Entry
from nanolan.run.record import PhaseReport, Progress, Receipt
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.text import render
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import make_plan

PLAN = make_plan(
    "",
    "",
    run_id="ab12cd34",
    phases=("mid", "sft"),
    run_name="lanbot-v3",
    limit_cents=15_000,
    created_at=iso(now_utc() - timedelta(hours=1)),
    deadline="2026-01-28T20:53:39Z",
)


PLAN = structs.replace(
    PLAN,
    offer=structs.replace(
        PLAN.offer, hourly_cents=3_360, cloud="massedcompute", region="desmoines-usa-1"
    ),
)


ENTRY = Entry(PLAN, "5b1ee5e4-9b5e-4b1e-8f2e-6d8a0ff2a2c9")


PROVEN = PhaseReport("proven", "mid_checkpoints/d20", "f" * 40, 90, 2.5, 1.25)


PROGRESS = Progress("ab12cd34", "training", {}, iso(now_utc()), "", 7, 90, 2.125, 100)


LOG = tuple(f"Traceback line {i}: " + "x" * 200 for i in range(5))


def machine(**fields: Any) -> Instance:
    return instance_of(
        dict(
            **(
                {
                    "id": ENTRY.instance_id,
                    "name": PLAN.instance_name,
                    "status": "active",
                    "ip": "203.0.113.10",
                    "ssh_user": "shadeform",
                    "ssh_port": 22,
                    "hourly_price": 3_360,
                }
                | fields
            )
        )
    )


def run(**fields: Any) -> RunView:
    return dataclasses.replace(
        RunView(
            ENTRY,
            "training",
            instance=machine(),
            progress=PROGRESS,
            spent_cents=1_234,
            phases={"mid": PROVEN, "sft": PhaseReport("training")},
        ),
        **fields,
    )


ENDED = dict(
    state="failed",
    reason="trainer_failed",
    instance=None,
    log_tail=LOG,
    receipt=Receipt(
        "ab12cd34",
        "failed",
        "trainer_failed",
        log=f"logs/error-{PLAN.instance_name}.log",
        spent_cents=1_234,
        seconds=4_000,
    ),
)


def overview(*runs: RunView, **fields: Any) -> Overview:
    return dataclasses.replace(Overview(runs, (), (), ()), **fields)


def text(o: Overview) -> str:
    return "\n".join(render(o))


EARLIER = Attempt(
    1,
    "i-1",
    85,
    "8x B200 at hyperstack/canada-1: instance 24836664-9753-4e69-aae7-7e06e6db315a did not come up: no "
    "heartbeat for 30 minutes (pending_provider). It is deleted (status deleting)",
)


AGAIN = structs.replace(ENTRY, plan=structs.replace(PLAN, attempt=2), earlier=(EARLIER,))
