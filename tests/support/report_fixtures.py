"""Runs to tell of: good, failed, still going, without anything, and with names and answers that would like to be HTML."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from msgspec.structs import replace

from nanolan.checkpoint.evaluation import PhaseSamples, Sample
from nanolan.plan import PinnedFile, Predicted
from nanolan.report.curves import read_metrics
from nanolan.report.data import ReportData, report_data_of
from nanolan.run.environment import Environment
from nanolan.run.record import PhaseReport, Receipt
from tests.support.core_fixtures import a_plan

MADE = "2026-11-24T09:00:00Z"
EVIL = '<script>alert(1)</script><img src="https://evil.invalid/x.png" onerror="alert(2)">"\'&\x1b[31m\u202e'
PLAN = a_plan(
    phases=("mid", "sft", "rl"),
    evaluate="quick",
    parameters=560_988_160,
    predicted=Predicted(4000, 6500, 12_000),
)
SCORES = {
    "mid": (0.35, 0.28, 0.31, 0.03, 0.98),
    "sft": (0.39, 0.29, 0.315, 0.05, 1.0),
    "rl": (0.38, 0.285, 0.31, 0.08, 1.0),
}
KEYS = ("arc_easy_acc", "arc_challenge_acc", "mmlu_acc", "gsm8k_acc", "spellingbee_acc")
FOLDERS = {
    "mid": "mid_checkpoints/d20",
    "sft": "chatsft_checkpoints/d20",
    "rl": "chatrl_checkpoints/d20",
}
PHASES = {
    p: PhaseReport(
        "proven",
        FOLDERS[p],
        "e" * 40,
        800,
        2.5,
        1.2,
        None if p != "rl" else 0.05,
        None if p != "rl" else 0.11,
        dict(zip(KEYS, SCORES[p], strict=True)) | {"chatcore": 0.2 + 0.01 * len(p)},
        1_000_000,
    )
    for p in SCORES
}
PHASES["rl"] = replace(
    PHASES["rl"], measured=PHASES["rl"].measured | {"pass_at_1_start": 0.05, "pass_at_1_end": 0.08}
)
RECEIPT = Receipt(
    PLAN.run_id,
    "succeeded",
    "",
    "",
    PHASES,
    "logs/success-x.log",
    6540,
    7010,
    MADE,
    1,
    6540,
    6502,
    {
        "boot": 290,
        "setup": 180,
        "probation": 12,
        "download": 40,
        "mid.train": 2400,
        "mid.evaluate": 300,
        "mid.upload": 20,
        "sft.train": 1800,
        "sft.evaluate": 280,
        "rl.train": 1500,
        "rl.evaluate": 150,
        "rl.upload": 38,
    },
    {"mid": 2520, "sft": 1942, "rl": 1540},
    PLAN.predicted,
)
ENVIRONMENT = Environment(
    "3.11.7", "Linux", 192, {"torch": "2.13.0"}, "580.95.05", ("NVIDIA B200",) * 8
)


def rows(steps: int, phase: str = "mid", **more: Any) -> list[dict[str, Any]]:
    """Steps as a trainer writes them, with a spike in the middle."""
    draw = random.Random(steps)
    found = [
        {
            "phase": phase,
            "steps": steps,
            "step": n,
            "loss": 1 + 2 * math.exp(-5 * n / steps) + draw.random() / 5,
            "lr": 0.01,
            "tok_per_s": 1e6 + draw.random() * 1e5,
            "mfu": 0.4 + draw.random() / 50,
            "dt_s": 0.4,
            "t": 1e9 + n,
            **more,
        }
        for n in range(1, steps + 1)
    ]
    found[steps // 2]["loss"] = 9.0
    return found


def lines(found: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def answers(text: str = "I am Lanbot.") -> tuple[PhaseSamples, ...]:
    return tuple(
        PhaseSamples(
            p,
            800,
            (
                Sample("Chat", "Who are you?", text),
                Sample("GSM8K", "How many?", f"#### 4 {text}", "5", False),
                Sample("SpellingBee", "How many r?", "#### 3", "3", True),
            ),
        )
        for p in PHASES
    )


def a_story(metrics: bytes | None = None, **changes: Any) -> ReportData:
    """A run that went well."""
    if metrics is None:
        metrics = lines(
            [
                row
                for p in PHASES
                for row in rows(
                    60, p, **({"reward": 0.1, "answer_tokens": 90.0} if p == "rl" else {})
                )
            ]
        )
    return report_data_of(
        changes.get("plan", PLAN),
        changes.get("receipt", RECEIPT),
        MADE,
        read_metrics(metrics),
        changes.get("samples", answers()),
        changes.get("environment", ENVIRONMENT),
    )


def failed() -> ReportData:
    """One that ran into its limit in sft, with mid proven and a state saved."""
    phases = {
        "mid": PHASES["mid"],
        "sft": PhaseReport("failed", "runs/ab12cd34/saved/sft", step=400),
        "rl": PhaseReport("none"),
    }
    return a_story(
        lines(rows(60) + rows(40, "sft")),
        receipt=replace(
            RECEIPT,
            verdict="stopped",
            reason="spend_limit",
            phases=phases,
            message=(
                "phase sft: $140.02 of the limit of $150.00 used. Saved: runs/ab12cd34/saved/sft step 400. Go on: just resume ab12cd34"
            ),
        ),
    )


def going() -> ReportData:
    """One that trains."""
    return ReportData(
        PLAN,
        "training",
        "step 300 of 800",
        MADE,
        {"mid": PhaseReport("training")},
        spent_cents=1234,
        metrics=read_metrics(lines(rows(300))),
    )


def evil() -> ReportData:
    """One in which every text is hostile."""
    plan = replace(
        PLAN,
        run_name=EVIL,
        model_tag=EVIL,
        output_tag=EVIL,
        hf_repo=EVIL,
        runs_repo=EVIL,
        gate=EVIL,
        recipe={EVIL: 1, "mid": {EVIL: 1}},
        offer=replace(PLAN.offer, cloud=EVIL, region=EVIL, gpu=EVIL, os=EVIL),
        inputs=(
            replace(
                PLAN.inputs[0], repo=EVIL, revision=EVIL, files=(PinnedFile(EVIL, 1, None, ""),)
            ),
        ),
    )
    phases = {
        p: replace(
            r, state=EVIL, folder=EVIL, revision=EVIL, measured=r.measured | {f"val_{EVIL}": 1.0}
        )
        for p, r in PHASES.items()
    }
    receipt = replace(
        RECEIPT,
        reason=EVIL,
        message=EVIL + "Go on: " + EVIL,
        phases=phases,
        log=EVIL,
        stages={EVIL: 10, f"mid.{EVIL}": 9},
    )
    return a_story(
        plan=plan,
        receipt=receipt,
        samples=answers(EVIL),
        environment=replace(ENVIRONMENT, system=EVIL, packages={EVIL: EVIL}),
    )


NAN = lines([{**row, "loss": math.nan if row["step"] % 3 else 1.0} for row in rows(90)])
STORIES = {
    "good": a_story,
    "failed": failed,
    "going": going,
    "evil": evil,
    "nothing": lambda: a_story(
        b"",
        receipt=replace(
            RECEIPT,
            phases={},
            stages={},
            phase_cents={},
            predicted=None,
            seconds=None,
            spent_cents=None,
            metered_cents=None,
            provider_cents=None,
        ),
        samples=(),
        environment=None,
    ),
    "nan": lambda: a_story(NAN),
    "only nan": lambda: a_story(
        lines([{"phase": "mid", "step": n, "loss": math.nan} for n in range(9)])
    ),
    "one row": lambda: a_story(lines(rows(1))),
    "garbage": lambda: a_story(b"\x00\xff{[\n{}\n[1]\n" + lines(rows(5))[:-30]),
    "long": lambda: a_story(lines([row for p in PHASES for row in rows(20_000, p)])),
}
