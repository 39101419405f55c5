"""The records that a run writes into its run folder: progress while it runs, a receipt at the end."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from nanolan.checkpoint.evaluation import numbers
from nanolan.checkpoint.manifest import Manifest
from nanolan.errors import (
    BadAnswer,
    LimitHitLost,
    LimitHitSaved,
    NanolanError,
    RunFailed,
)
from nanolan.plan import MOST, UNREADABLE, Plan, Predicted, check_numbers
from nanolan.times import parse_time

PENDING = "pending"
BOOTING = "booting"
PREPARING = "preparing"
TRAINING = "training"
UPLOADING = "uploading"
STOPPING = "stopping"
UNKNOWN = "unknown"  # whether it has an instance
SUCCEEDED, FAILED, STOPPED, LOST = "succeeded", "failed", "stopped", "lost"
MEASURED = ("val_", "pass_at_")  # prefixes of the trainer's measurements in a manifest's extra
ENDED = {SUCCEEDED, FAILED, STOPPED, LOST}


class PhaseReport(msgspec.Struct, frozen=True):
    """One phase; `state` is none, training, uploading, proven or failed."""

    state: str
    folder: str = ""  # in HF_REPO
    revision: str = ""
    step: int | None = None
    loss_start: float | None = None
    loss_end: float | None = None
    reward_start: float | None = None  # rl only
    reward_end: float | None = None
    # val_bpb, val_loss, and after the evaluation accuracies and chatcore
    measured: dict[str, float] = {}
    # trained on this instance, or generated in rl; with the stage's seconds they give the speed
    tokens: int | None = None


def phase_report(state: str, folder: str, manifest: Manifest, revision: str = "") -> PhaseReport:
    """The report of a phase that has a checkpoint, with the trainer's numbers in its manifest."""
    noted = numbers(manifest.extra)
    ends = {
        name: noted.get(name) for name in ("loss_start", "loss_end", "reward_start", "reward_end")
    }
    tokens = manifest.extra.get("tokens")
    measured = {name: value for name, value in noted.items() if name.startswith(MEASURED)}
    return PhaseReport(
        state,
        folder,
        revision,
        manifest.step,
        **ends,
        measured=measured,
        tokens=tokens if type(tokens) is int and 0 <= tokens < MOST else None,
    )


class Progress(msgspec.Struct, frozen=True):
    """progress.json: the heartbeat of a run."""

    run_id: str
    state: str
    phases: dict[str, PhaseReport]
    updated: str  # ISO-8601 UTC
    message: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    spent_cents: int | None = None
    attempt: int = 1
    stage: str = ""  # of the trainer: load, compile, train, save, evaluate ...
    phase: str = ""  # of the last step reported
    tok_per_s: float | None = None
    left_s: float | None = None  # until the run's end, counted from `updated`; None: no forecast
    # until the end of the phase's training, by the trainer's estimate
    phase_left_s: float | None = None
    limit_cents: int | None = None  # the limit that the box uses
    soft_cents: int | None = None  # the bill at which it saves and stops
    trouble: str = ""  # the last error of an upload that is being retried
    trouble_since: str = ""  # ISO-8601 UTC


class Receipt(msgspec.Struct, frozen=True):
    """receipt.json: how the run ended and what it cost. The verdict is that of the whole run."""

    run_id: str
    verdict: str
    reason: str = ""
    message: str = ""
    phases: dict[str, PhaseReport] = {}
    log: str = ""  # path of the whole log in RUNS_REPO
    # at the moment of deletion; the provider's bill may add a few seconds
    spent_cents: int | None = None
    seconds: int | None = None
    ended: str = ""
    attempt: int = 1  # of the plan; a receipt counts only for its own attempt
    metered_cents: int | None = None  # price x age
    provider_cents: int | None = None  # Shadeform's figure; None if it reported none
    # seconds by stage: boot, setup, download, train, evaluate, upload, idle ...; together the whole time
    stages: dict[str, int] = {}
    phase_cents: dict[str, int] = {}  # what each phase's training and evaluation cost
    predicted: Predicted | None = None
    warning: str = ""  # also part of the message; shown with every verdict
    nanolan: str = ""  # the version of nanolan on the box; "" in receipts of the rescue program
    spot: bool = False  # the instance was a spot instance


def leak_warning(plan: Plan) -> str:
    """The warning for a public log in which a secret was masked. cloud/rescue.py repeats this text."""
    return (
        f"A SECRET WAS PRINTED INTO THE LOG and masked before the upload, and {plan.runs_repo} is public: look what printed it "
        "(***), and make new keys if you doubt the mask"
    )


def read_receipt(data: bytes) -> Receipt:
    """Decode a Receipt from JSON; raises BadAnswer."""
    try:
        return check_numbers(msgspec.json.decode(data, type=Receipt), "receipt.json")
    except UNREADABLE as e:
        raise BadAnswer(f"receipt.json cannot be read: {str(e)[:200]}") from None


def read_progress(data: bytes) -> Progress:
    """Decode a Progress from JSON; raises BadAnswer."""
    try:
        progress = check_numbers(msgspec.json.decode(data, type=Progress), "progress.json")
        parse_time(progress.updated)
        return progress
    except (*UNREADABLE, BadAnswer) as e:
        raise BadAnswer(f"progress.json cannot be read: {str(e)[:200]}") from None


def to_json(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def log_path(plan: Plan, verdict: str, reason: str = "") -> str:
    """The path of the whole log in RUNS_REPO. A run that its user stopped is no error."""
    kind = "success" if verdict == SUCCEEDED else "stopped" if reason == "user" else "error"
    return f"logs/{kind}-{plan.instance_name}.log"


def part_path(plan: Plan, number: int | None = None) -> str:
    """The path in RUNS_REPO of a part of the log while the run goes on; without a number, the prefix of all parts."""
    start = f"{plan.folder}/log/a{plan.attempt}-part-"
    return start if number is None else f"{start}{number:04d}.log"


def error_of(receipt: Receipt) -> NanolanError | None:
    """The error whose exit code matches the run's verdict, or None for a success."""
    if receipt.verdict == SUCCEEDED:
        return None
    kinds = {
        "spend_limit": LimitHitSaved,
        "max_duration": LimitHitSaved,
        "gate": LimitHitSaved,
        "limit_lost": LimitHitLost,
    }
    return kinds.get(receipt.reason, RunFailed)(
        f"run {receipt.run_id} {receipt.verdict}: {receipt.message or receipt.reason}"
    )


# four heartbeats: a box that is silent for this long does not read requests either
SILENT_S = 20 * 60
AFTER_REPORT_S = 600  # two heartbeats: the assumed life of a vanished instance after its last one


class StopReason(NamedTuple):
    """Why something ends early: a reason from nanolan/run/causes.py, and a text for the user."""

    reason: str
    text: str
