"""Shared by tests/manage/test_resume*.py."""

from __future__ import annotations

from datetime import timedelta

from nanolan.plan import Pinned, PinnedFile
from nanolan.run.ledger import Entry
from nanolan.run.remaining import Remaining, SavedWork
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import DATA, REPO, make_plan

NOW = now_utc().replace(microsecond=0)


FILE = PinnedFile("base_checkpoints/d20/model_000009.pt", 7, "a" * 64, "b" * 40)


TOKENIZER = Pinned(
    REPO, "model", "e" * 40, (PinnedFile("tokenizer/tokenizer.pkl", 7, "c" * 64, "d" * 40),)
)


ROWS_PIN = Pinned(
    DATA, "dataset", "e" * 40, (PinnedFile("main/train-0.parquet", 7, "c" * 64, "d" * 40),)
)


PLAN = make_plan(
    "http://127.0.0.1:1",
    "http://127.0.0.1:2/v1",
    run_id="ab12cd34",
    run_name="mine",
    phases=("mid", "sft"),
    created_at=iso(NOW - timedelta(hours=2)),
    deadline=iso(NOW + timedelta(hours=3)),
    output_tag="d20-x",
    evaluate="full",
    gate="val_bpb<0.5",
    batch=4,
    recipe={"max_steps": 7},
    upload_minutes=3.0,
    identity=False,
    wandb_project="w",
    inputs=(Pinned(REPO, "model", "e" * 40, (FILE,)), TOKENIZER),
    datasets=(ROWS_PIN,),
    keep_old=True,
    probation_cents=300,
)


LIVE = Entry(PLAN, "i-1")


KEPT = SavedWork(
    "mid",
    90,
    "mid_checkpoints/d20-x",
    Pinned(
        REPO,
        "model",
        "f" * 40,
        tuple(
            PinnedFile(f"mid_checkpoints/d20-x/{name}", 7, "a" * 64, "b" * 40)
            for name in ("manifest.json", "model_000090.pt", "optim_000090_rank0.pt")
        ),
    ),
)


SAVED = SavedWork(
    "sft",
    40,
    "runs/ab12cd34/saved/sft",
    Pinned(
        REPO,
        "model",
        "f" * 40,
        tuple(
            PinnedFile(f"runs/ab12cd34/saved/sft/{name}", 7, "a" * 64, "b" * 40)
            for name in (
                "manifest.json",
                "model_000040.pt",
                "optim_000040_rank0.pt",
                "optim_000040_rank1.pt",
            )
        ),
    ),
)


REST = Remaining(("sft",), KEPT, SAVED)


def settings(**flags: str) -> Settings:
    return load_settings(
        flags,
        {
            "RUN_NAME": "from-env",
            "GPU": "A100",
            "EVAL": "none",
            "SPEND_LIMIT": "99",
            "CLOUD": "hyperstack",
        },
    )
