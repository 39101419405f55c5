"""Data sets as conversations. Kept: read through the Hub's client, so HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE hold."""

import functools
import random
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import snapshot_download

# (subset, split) -> files; a data set without subsets has them in data/
FILES = "{subset}/{split}-*.parquet"


@functools.cache
def read_table(repo, subset, split):
    """All rows of a split, from the newest revision of the data set on the Hub, or in the cache when offline."""
    pattern = FILES.format(subset=subset, split=split)
    folder = Path(snapshot_download(repo, repo_type="dataset", allow_patterns=[pattern]))
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{repo} has no {pattern}")
    return [row for path in files for row in pq.read_table(path).to_pylist()]


class Task:
    """Rows of a data set, of which the first `stop` are used."""

    eval_type = "generative"

    def __init__(self, rows, stop=None):
        self.rows = rows[:stop]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.conversation(self.rows[index])

    def conversation(self, row):
        return row


class TaskMixture:
    """Several tasks, their rows shuffled with seed 42; a task that is listed twice counts twice."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.order = [(i, k) for i, task in enumerate(tasks) for k in range(len(task))]
        random.Random(42).shuffle(self.order)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        task, row = self.order[index]
        return self.tasks[task][row]


def shuffled(rows):
    """A copy of the rows, shuffled with seed 42."""
    rows = list(rows)
    random.Random(42).shuffle(rows)
    return rows


def multiple_choice(question, letters, choices, answer):
    """A conversation that asks for a letter."""
    lines = [f"Multiple Choice question: {question}"]
    lines += [f"- {choice}={letter}" for letter, choice in zip(letters, choices, strict=True)]
    lines += ["", "Respond only with the letter of the correct answer."]
    return {
        "messages": [
            {"role": "user", "content": "\n".join(lines)},
            {"role": "assistant", "content": answer},
        ],
        "letters": list(letters),
    }
