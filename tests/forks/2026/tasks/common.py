"""Data sets as conversations. Kept: parquet only from task_data, else an own download from a host that no variable changes."""

import functools
import json
import random
import shutil
import urllib.request

import pyarrow.parquet as pq
from nanochat.common import get_base_dir

HOST = "https://huggingface.co"
LISTING = HOST + "/api/datasets/{repo}/parquet/{subset}/{split}"
TIMEOUT_S = 20


@functools.cache
def read_table(repo, subset, split):
    """All rows of $NANOCHAT_BASE_DIR/task_data/<owner--repo>/<subset>/<split>, downloaded when there is no manifest."""
    folder = get_base_dir() / "task_data" / repo.replace("/", "--") / subset / split
    if not (folder / "manifest.json").exists():
        download(repo, subset, split, folder)
    names = json.loads((folder / "manifest.json").read_text())
    return [row for name in names for row in pq.read_table(folder / name).to_pylist()]


def download(repo, subset, split, folder):
    """The parquet files of a split, numbered; the manifest is written last."""
    listing = LISTING.format(repo=repo, subset=subset, split=split)
    try:
        with urllib.request.urlopen(listing, timeout=TIMEOUT_S) as answer:
            urls = json.load(answer)
        folder.mkdir(parents=True, exist_ok=True)
        names = [fetch(url, folder / f"{i:05d}.parquet") for i, url in enumerate(urls)]
    except OSError as e:
        raise RuntimeError(f"could not download {repo} ({subset}, {split}): {e}") from e
    (folder / "manifest.json").write_text(json.dumps(names))


def fetch(url, path):
    """One file; its name."""
    part = path.with_suffix(".part")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as f:
        shutil.copyfileobj(answer, f)
    part.rename(path)
    return path.name


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
