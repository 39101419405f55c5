"""Shared by tests/status/test_why*.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.hub.client import Hub
from nanolan.plan import Pinned, PinnedFile
from nanolan.redact import Secret
from nanolan.run.ledger import Entry
from nanolan.run.postmortem import Postmortem
from nanolan.run.record import PhaseReport, Progress, Receipt
from nanolan.run.remaining import SavedWork
from nanolan.sim.hub.server import HubServer
from nanolan.status.view import RunView
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan

BORN = now_utc() - timedelta(hours=1)


PLAN = make_plan(
    "",
    "",
    run_id="ab12cd34",
    phases=("mid", "sft"),
    limit_cents=15_000,
    created_at=iso(BORN),
    deadline=iso(BORN + timedelta(hours=4)),
)


ENTRY = Entry(PLAN, "i-1")


PROVEN = PhaseReport("proven", "mid_checkpoints/d20", "f" * 40, 90)


KEPT = SavedWork(
    "sft",
    40,
    "runs/ab12cd34/saved/sft",
    Pinned(REPO, "model", "f" * 40, (PinnedFile("a", 1, None, "b"),)),
)


def receipt(verdict: str, reason: str, message: str = "") -> Receipt:
    return Receipt(
        "ab12cd34",
        verdict,
        reason,
        message,
        log="logs/error-x.log",
        spent_cents=310,
        seconds=600,
        stages={"boot": 100, "sft.train": 500},
    )


def progress(step: int | None = 57, stage: str = "train") -> Progress:
    return Progress("ab12cd34", "training", {}, iso(now_utc()), "", step, 90, 2.0, 300, 1, stage)


def run(state: str, reason: str = "", **fields: Any) -> RunView:
    base = RunView(
        ENTRY,
        state,
        reason,
        phases={"mid": PROVEN, "sft": PhaseReport("failed")},
        spent_cents=310,
        saved=KEPT,
    )
    return replace(base, **fields)


def ended(verdict: str, reason: str, message: str = "", **fields: Any) -> RunView:
    return run(verdict, reason, receipt=receipt(verdict, reason, message), **fields)


def box(reason: str, cause: str, step: int | None = 57, **fields: Any) -> Postmortem:
    return Postmortem("ab12cd34", reason, cause, phase="sft", stage="train", step=step, **fields)


TORCHRUN = 'Traceback (most recent call last):\n  File "a.py", line 1\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n'


ALL = {"mid": PROVEN, "sft": PhaseReport("proven", "chatsft_checkpoints/d20", "f" * 40, 90)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {"README.md": b"#"})
        yield hub


def at(server: HubServer, view: RunView) -> tuple[Hub, RunView]:
    plan = structs.replace(PLAN, hf_endpoint=server.url)
    return Hub(server.url, Secret(TOKEN), patience_s=0.1), replace(
        view, entry=structs.replace(ENTRY, plan=plan)
    )


LOST = (
    "the instance is gone and left no receipt: a limit of the provider, or it was deleted by hand"
)
