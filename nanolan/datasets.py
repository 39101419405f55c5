"""The public data sets that phases train on: which repo, which files. Data only.

Launch resolves each one to a revision and a file list (pinned in the plan), the box downloads
them to `<data>/<repo>/<path>`, and nanolan/train reads them from there.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """One data set repo on the Hub; `train` and `test` are globs over its parquet files, "" where there are none."""

    repo: str
    train: str
    test: str


# Column schemas: facts of the public repos, read by nanolan/train/tasks.py
DATASETS = {
    "smol-smoltalk": DataSet("HuggingFaceTB/smol-smoltalk", "data/train-*.parquet", "data/test-*.parquet"),
    "mmlu": DataSet("cais/mmlu", "auxiliary_train/train-*.parquet", "all/test-*.parquet"),
    "gsm8k": DataSet("openai/gsm8k", "main/train-*.parquet", "main/test-*.parquet"),
    "arc-easy": DataSet("allenai/ai2_arc", "ARC-Easy/train-*.parquet", "ARC-Easy/test-*.parquet"),
    "arc-challenge": DataSet("allenai/ai2_arc", "ARC-Challenge/train-*.parquet", "ARC-Challenge/test-*.parquet"),
    "humaneval": DataSet("openai/openai_humaneval", "", "openai_humaneval/test-*.parquet"),
}

IDENTITY_FILE = "identity_conversations.jsonl"   # in HF_REPO, as in the guide; optional
MOST_DATA_BYTES = 256 << 20                      # of it; a line of the templates takes about 300 bytes
