"""A nanochat checkout beside our trainer: its own scripts on the bench's shapes, in the same session, step by step.

Its model is made by its own code, untrained; its data sets hold made-up conversations of the lengths that ours have, and
for rl made-up questions. What its scripts mix in besides (a few rows of ARC and MMLU, spelling) stays in.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nanolan.errors import UsageProblem
from nanolan.model.tokenizer import Tokenizer
from nanolan.phases import DATASETS, IDENTITY_FILE
from nanolan.settings.settings import ROOT
from nanolan.sim.seed import ROWS, SHARD, identity_conversations, write_data
from nanolan.trainers.adapter.base_folder import lay_out, write_words
from nanolan.trainers.rows import TrainerRow, recognise, script_of, uses_task_data
from nanolan.trainers.scripts.options import apply, read_script
from nanolan.trainers.source import source_of
from tests.bench.cases import PLAIN_ROWS
from tests.bench.workload import (
    EXAMPLES,
    PLAIN_EXAMPLES,
    Shape,
    conversations,
    made_encoding,
    made_word,
    questions,
    words_of,
)

TINY_BASE = ROOT / "nanolan/trainers/inside/tiny_base.py"
OPTIMIZER_STEPS = ROOT / "nanolan/trainers/inside/optimizer_steps.py"
GUEST = Path(__file__).with_name("guest.py")
MOST_STEPS = 100_000  # more than are made: no script comes to its end, where it evaluates
CONVERSATIONS = 10_200  # nanochat takes the first 10,000 for sft
FEW = {name: (8, 8) for name in ROWS}
MAKE_S = 300.0
MORE_STEPS = 8  # questions of rl are there for so many steps more than are counted


@dataclass(frozen=True)
class Checkout:
    """A nanochat checkout on this machine."""

    root: Path
    row: TrainerRow
    fp32: bool  # its Newton-Schulz is to be computed in fp32

    @property
    def name(self) -> str:
        return self.root.name


def checkout_at(root: Path, *, fp32: bool) -> Checkout:
    """The checkout; UsageProblem when it is none, or declares phases of its own."""
    if not root.is_dir():
        raise UsageProblem(f"--against {root}: there is no such folder")
    return Checkout(root, recognise(root), fp32)


def missing(checkout: Checkout, phase: str) -> str:
    """Why the checkout has no such phase; "" if it has."""
    found = checkout.row.phases.get(phase)
    if found and found.module and (checkout.root / script_of(found.module)).is_file():
        return ""
    return checkout.row.missing.get(phase, f"it has no script for {phase}")


def options(shape: Shape, phase: str) -> dict[str, Any]:
    """The bench's shapes as options of nanochat's scripts; each is set where a script has it."""
    rows = {"mid": shape.plain_micro, "sft": PLAIN_EXAMPLES, "rl": PLAIN_ROWS}[phase]
    return {
        "run": "dummy",
        "device_type": shape.device,
        "device_batch_size": rows,
        "max_seq_len": shape.config.sequence_len,
        "total_batch_size": shape.mid_rows * shape.config.sequence_len,
        "target_examples_per_step": EXAMPLES,
        "examples_per_step": shape.questions,
        "num_samples": shape.samples,
        "max_new_tokens": shape.new_tokens,
        "num_iterations": MOST_STEPS,
        "num_epochs": 1,
        "load_optimizer": 0,
        # all that is not a step
        "eval_every": -1 if phase == "mid" else MOST_STEPS,
        "save_every": MOST_STEPS,
        "eval_metrics_every": MOST_STEPS,
        "chatcore_every": -1,
        "eval_steps": 1,
        "eval_tokens": shape.config.sequence_len * rows,
        "eval_examples": 1,
    }


def lay_out_phase(
    checkout: Checkout,
    shape: Shape,
    phase: str,
    folder: Path,
    make: Callable[[Checkout, Shape, Path], None] | None = None,
) -> Path:
    """All that a script of the checkout reads, below `folder`; the job for guest.py. `make` makes its model."""
    model, tokenizer, data = (folder / name for name in ("model", "tokenizer", "data"))
    write_tokenizer(shape, tokenizer)
    (make or make_model)(checkout, shape, model)
    write_rows(shape, phase, data)
    found, base = checkout.row.phases[phase], folder / "base"
    tag = f"d{shape.config.n_layer}"
    lay_out(base, found, tag, model, tokenizer, data, task_data=uses_task_data(checkout.root))
    write_words(base)
    script = script_of(found.module)
    wanted = options(shape, phase)
    arguments = apply(read_script(source_of(checkout.root, script), script), wanted, {})
    job = {
        "module": found.module,
        "arguments": arguments,
        "data": str(data),
        "optimizer_steps": str(OPTIMIZER_STEPS),
        "fp32": checkout.fp32,
    }
    (path := folder / "job.json").write_text(json.dumps(job))
    return path


def environment(base: Path, host: Mapping[str, str]) -> dict[str, str]:
    """The script's environment: its folder, no threads that wait busily, nothing from the network."""
    kept = {k: v for k, v in host.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {
        "NANOCHAT_BASE_DIR": str(base),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }


def guest_command(job: Path) -> list[str]:
    return [sys.executable, str(GUEST), str(job)]


def write_tokenizer(shape: Shape, folder: Path) -> None:
    """The bench's tokenizer as nanochat keeps it."""
    folder.mkdir(parents=True)
    encoding = made_encoding(shape)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(Tokenizer(encoding).token_bytes(), folder / "token_bytes.pt")


def make_model(checkout: Checkout, shape: Shape, folder: Path) -> None:
    """An untrained checkpoint of the bench's sizes by the checkout's own code; UsageProblem with its error."""
    sizes = json.dumps(asdict(shape.config))
    done = subprocess.run(
        [sys.executable, str(TINY_BASE), str(folder), str(shape.config.vocab_size), sizes],
        cwd=checkout.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=MAKE_S,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UsageProblem(
            f"{checkout.name} cannot make a model of the bench's sizes: {last[:300]}"
        )


def write_rows(shape: Shape, phase: str, data: Path) -> None:
    """The data sets: conversations or questions of the bench's lengths, and a few rows of each other one."""
    dice, most = Random(0), words_of(shape)

    def words(count: int) -> str:
        """Text of so many tokens."""
        return "".join(made_word(dice.randrange(most)) for _ in range(max(1, count)))

    chats = [chat(len(c), int((c < 0).sum()), words) for c in conversations(shape)]
    many = [chats[n % len(chats)] for n in range(CONVERSATIONS)]
    save_rows(data, "smol-smoltalk", many, many[:64])
    if phase == "rl":
        steps = islice(questions(shape), shape.rl_steps + MORE_STEPS)
        rows = [exam(len(q.prompt), words) for asked in steps for q in asked]
        save_rows(data, "gsm8k", rows, rows[:8])
    write_data(data, FEW)
    lines = [json.dumps(c) for c in identity_conversations(Random(1))]
    (data / IDENTITY_FILE).write_text("\n".join(lines) + "\n")


def save_rows(
    data: Path, name: str, train: list[dict[str, Any]], test: list[dict[str, Any]]
) -> None:
    for pattern, rows in ((DATASETS[name].train, train), (DATASETS[name].test, test)):
        path = data / DATASETS[name].repo / pattern.replace("*", SHARD)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)


def chat(length: int, untrained: int, words: Callable[[int], str]) -> dict[str, Any]:
    """A conversation of so many tokens, the first of them untrained; five are no words."""
    asked = max(1, untrained - 4)
    contents = {"user": words(asked), "assistant": words(length - asked - 5)}
    return {"messages": [{"role": role, "content": text} for role, text in contents.items()]}


def exam(length: int, words: Callable[[int], str]) -> dict[str, str]:
    """A question whose prompt has so many tokens, and an answer that no completion hits."""
    return {"question": words(length - 4), "answer": "It is.\n#### 4711"}
