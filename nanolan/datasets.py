"""The public data sets that phases train on: which repo, which files. Data only.

Launch resolves each one to a revision and a file list (pinned in the plan), the box downloads
them to `<data>/<repo>/<path>`, and nanolan/train reads them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from nanolan.errors import BadAnswer


@dataclass(frozen=True)
class DataSet:
    """One data set repo on the Hub; `train` and `test` are globs over its parquet files, "" where there are none.

    `columns` are those that are read, with their kind, as text or as a whole number.
    """

    repo: str
    train: str
    test: str
    columns: Mapping[str, str]


TEXT, NUMBER = "text", "number"
KINDS = {TEXT: ("BYTE_ARRAY",), NUMBER: ("INT32", "INT64")}  # of parquet
WRAPPED = "train."  # rows of cais/mmlu's auxiliary_train are wrapped in a field of this name
ARC = {"question": TEXT, "choices.text": TEXT, "choices.label": TEXT, "answerKey": TEXT}

DATASETS = {
    "smol-smoltalk": DataSet(
        "HuggingFaceTB/smol-smoltalk",
        "data/train-*.parquet",
        "data/test-*.parquet",
        {"messages.role": TEXT, "messages.content": TEXT},
    ),
    "mmlu": DataSet(
        "cais/mmlu",
        "auxiliary_train/train-*.parquet",
        "all/test-*.parquet",
        {"question": TEXT, "choices": TEXT, "answer": NUMBER},
    ),
    "gsm8k": DataSet(
        "openai/gsm8k",
        "main/train-*.parquet",
        "main/test-*.parquet",
        {"question": TEXT, "answer": TEXT},
    ),
    "arc-easy": DataSet(
        "allenai/ai2_arc", "ARC-Easy/train-*.parquet", "ARC-Easy/test-*.parquet", ARC
    ),
    "arc-challenge": DataSet(
        "allenai/ai2_arc", "ARC-Challenge/train-*.parquet", "ARC-Challenge/test-*.parquet", ARC
    ),
    "humaneval": DataSet(
        "openai/openai_humaneval",
        "",
        "openai_humaneval/test-*.parquet",
        {"prompt": TEXT, "test": TEXT, "entry_point": TEXT},
    ),
}
# Revisions whose rows are known to be as the trainer reads them; a Hub that has not got them gives its newest
REVISIONS = {
    "HuggingFaceTB/smol-smoltalk": "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "openai/openai_humaneval": "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
}

IDENTITY_FILE = "identity_conversations.jsonl"  # in HF_REPO, as in the guide; optional
MOST_DATA_BYTES = 256 << 20  # of it; a line of the templates takes about 300 bytes


def check_data(name: str, found: Mapping[str, str], rows: int, where: str) -> None:
    """BadAnswer unless a file of the data set `name` has rows, and the columns that are read, by plain path and parquet type."""
    if rows < 1:
        raise BadAnswer(f"{where}: does not hold a single row")
    unwrapped = {path.removeprefix(WRAPPED): kind for path, kind in found.items()}
    for path, kind in DATASETS[name].columns.items():
        if path not in unwrapped:
            raise BadAnswer(
                f"{where}: does not have the column {path} of {name} (it has {', '.join(sorted(found))[:200]}): its "
                "layout changed"
            )
        if unwrapped[path] not in KINDS[kind]:
            raise BadAnswer(
                f"{where}: the column {path} of {name} does not hold {kind} but {unwrapped[path]}: its layout changed"
            )


def data_of(repo: str, path: str) -> str:
    """The name of the data set that a file of a repo belongs to."""
    return next(
        name
        for name, d in DATASETS.items()
        if d.repo == repo and any(glob and fnmatch(path, glob) for glob in (d.train, d.test))
    )
