"""A tiny model, tokenizer and data sets in the real schemas, and jobs on them: what the trainer's tests run on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanolan.phases import DATASETS, IDENTITY_FILE
from nanolan.train.data.tiny_model import write_tiny

REPO = Path(__file__).resolve().parents[2]


def write_parquet(
    data: Path, name: str, split: str, rows: list[dict[str, Any]], row_group_size: int = 10
) -> Path:
    """Rows of a data set as one parquet file where the trainer looks for it."""
    pattern = getattr(DATASETS[name], split).replace("*", "00000-of-00001")
    path = data / DATASETS[name].repo / pattern
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def sums(n: int, seed: int = 0) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(n)]


def write_data(data: Path, n: int = 40) -> list[str]:
    """All data sets, `n` rows each, plus identity; some texts to learn a tokenizer from."""
    chat = [
        {
            "messages": [
                {"role": "user", "content": f"What is the colour of number {a}?"},
                {
                    "role": "assistant",
                    "content": f"Number {a} is {'red' if a % 2 else 'blue'}, my friend.",
                },
            ],
            "source": "x",
        }
        for a, _ in sums(n)
    ]
    chat[0]["messages"] = [{"role": "system", "content": "Be kind."}, *chat[0]["messages"]]  # type: ignore[misc]
    maths = [
        {
            "question": f"Ann has {a} eggs and buys {b}. How many?",
            "answer": f"She has {a} + {b} = <<{a}+{b}={a + b}>>{a + b} eggs.\n#### {a + b}",
        }
        for a, b in sums(n, 1)
    ]
    choice = [
        {
            "question": f"Which is {a}?",
            "subject": "s",
            "choices": [str(a), "x", "y", "z"],
            "answer": 0,
        }
        for a, _ in sums(n, 2)
    ]
    arc = [
        {
            "id": "q",
            "question": f"Is it {a}?",
            "choices": {"text": ["yes", "no"], "label": ["A", "B"]},
            "answerKey": "A",
        }
        for a, _ in sums(n, 3)
    ]
    for split in ("train", "test"):
        write_parquet(data, "smol-smoltalk", split, chat)
        write_parquet(data, "gsm8k", split, maths)
        write_parquet(
            data, "mmlu", split, [{"train": row} for row in choice] if split == "train" else choice
        )
        write_parquet(data, "mmlu-all", split, choice)
        write_parquet(data, "arc-easy", split, arc)
        write_parquet(data, "arc-challenge", split, arc)
    identity = [
        [
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "I am lanbot."},
        ]
    ] * 5
    (data / IDENTITY_FILE).write_text("".join(json.dumps(line) + "\n" for line in identity))
    return [row["messages"][-1]["content"] for row in chat] + [row["answer"] for row in maths]


def write_world(folder: Path, n: int = 40) -> Path:
    """Base checkpoint, tokenizer and data in `folder`."""
    write_tiny(folder, write_data(folder / "data", n), sequence_len=128)
    return folder


def write_job(
    world: Path, out: Path, phase: str = "mid", recipe: dict[str, Any] | None = None, **more: Any
) -> Path:
    """A JOB.json in `out` for the world in `world`."""
    out.mkdir(parents=True, exist_ok=True)
    small = {"sequence_len": 64, "tokens_per_step": 512, "max_steps": 12}
    job = {
        "phase": phase,
        "run_id": "ab12cd34",
        "run_name": "test",
        "model_tag": "d20",
        "device": "cpu",
        "init_dir": str(world / "base_checkpoints" / "d20"),
        "tokenizer_dir": str(world / "tokenizer"),
        "data_dir": str(world / "data"),
        "out_dir": str(out / "out"),
        "metrics": str(out / "metrics.jsonl"),
        "heartbeat": str(out / "heartbeat.json"),
        "batch": None,
        "wandb": None,
        "recipe": small | (recipe or {}),
        **more,
    }
    (out / "JOB.json").write_text(json.dumps(job))
    return out / "JOB.json"


def metrics(job: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.parent / "metrics.jsonl").read_text().splitlines()]


def losses(job: Path) -> list[float]:
    return [row["loss"] for row in metrics(job) if "loss" in row]


def start(
    job: Path, processes: int | None = None, module: str = "nanolan.train", **more: str
) -> subprocess.Popen[str]:
    """The trainer in processes of its own: plain for None, else under torchrun; `more` goes into the environment."""
    run = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes
        else []
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TORCHELASTIC"))}
    env |= {"OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        [sys.executable, *run, "-m", module, str(job)],
        cwd=REPO,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


if __name__ == "__main__":
    write_world(Path(sys.argv[1]))
