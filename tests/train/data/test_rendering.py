"""Rendering on several cores: the same bytes for any number of workers, the same errors, nobody left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.data.mixtures import TRAINING, Block, Part, Source, open_mixture
from nanolan.train.data.rendering import POOL_ROWS, Rendering, render_blocks, workers_for
from nanolan.train.data.tokenised import Store, tokenise
from nanolan.train.processes import Processes
from tests.support.tiny_world import REPO, write_parquet

PATIENCE_S = 60

# A rank whose two workers are each in a block that takes for ever
RANK = """
import sys, time
from functools import partial
from pathlib import Path
from nanolan.train.data.tokenised import Rendering, render_blocks
from nanolan.train.data.mixtures import Block, Part, Source
from nanolan.model.tokenizer import load_tokenizer
slow = Source(Part("slow"), (Block(0, 1, partial(time.sleep, 600)), Block(1, 1, partial(time.sleep, 600))))
rendering = Rendering([slow], load_tokenizer(Path(sys.argv[1])), 99)
list(render_blocks(rendering, rendering.blocks(), 2))
"""


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


def stored(data: Path, tokenizer: Tokenizer, scratch: Path, workers: int | None) -> Store:
    sources = open_mixture(TRAINING["sft"], data, 42, 60)
    return tokenise(sources, tokenizer, 129, Processes(0, 1, torch.device("cpu")), scratch, workers)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_store_is_the_same_to_the_last_bit_for_any_number_of_workers(
    workers: int, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    alone, shared = (stored(tiny / "data", tokenizer, tmp_path / "s", n) for n in (1, workers))
    assert alone.first == shared.first
    for name in ("shard", "start", "length", "trained"):
        assert np.array_equal(getattr(alone, name), getattr(shared, name)), name
    assert [t.tobytes() for t in alone.tokens] == [t.tobytes() for t in shared.tokens]
    assert len(alone.tokens[0]) == alone.length.sum() > 1000


def test_few_rows_are_rendered_where_they_are(
    tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    before = psutil.Process().children()
    stored(tiny / "data", tokenizer, tmp_path / "s", None)
    assert psutil.Process().children() == before
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    assert workers_for(POOL_ROWS - 1, 1) == 1
    assert workers_for(POOL_ROWS, 1) == min(cores, 32)
    assert workers_for(10**6, 10**6) == 1, "more ranks than cores"


def test_the_rows_counted_are_those_that_are_read_not_those_that_are_chosen(
    tokenizer: Tokenizer,
) -> None:
    source = Source(
        Part("x"),
        (Block(0, 700, partial(iter, ())), Block(700, 70, partial(iter, ()))),
        frozenset({3}),
    )
    rendering = Rendering([source], tokenizer, 99)
    assert rendering.rows(rendering.blocks()) == 770


def test_workers_do_without_torch() -> None:
    code = "import sys, nanolan.train.data.rendering; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_a_mixture_can_be_sent_to_workers_and_says_the_same_there(tiny: Path) -> None:
    for source in open_mixture(TRAINING["mid"], tiny / "data", 42, 30):
        sent = pickle.loads(pickle.dumps(source))
        assert [c for b in sent.blocks for c in sent.take(b)] == [
            c for b in source.blocks for c in source.take(b)
        ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_row_is_named_whoever_finds_it(
    workers: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_parquet(
        tmp_path,
        "gsm8k",
        "train",
        [{"question": "q", "answer": "a"}] * 15 + [{"question": "q", "answer": None}],
    )
    sources = open_mixture((Part("gsm8k"),), tmp_path, 42, None)
    with pytest.raises(BadAnswer, match="row 15: not a row of gsm8k"):
        tokenise(
            sources, tokenizer, 99, Processes(0, 1, torch.device("cpu")), tmp_path / "s", workers
        )
    assert not [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_worker_that_is_killed_ends_the_phase_with_one_line(tokenizer: Tokenizer) -> None:
    deadly = Source(Part("deadly"), (Block(0, 1, partial(os._exit, 9)),))
    rendering = Rendering([deadly], tokenizer, 99)
    with pytest.raises(RunFailed, match="a process that tokenises was killed"):
        list(render_blocks(rendering, rendering.blocks(), 2))


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_workers_die_with_their_rank(kill: signal.Signals, tiny: Path) -> None:
    rank = psutil.Popen([sys.executable, "-c", RANK, str(tiny / "tokenizer")], cwd=REPO)
    children: list[psutil.Process] = []
    until = time.monotonic() + PATIENCE_S
    while sum(len(p.threads()) > 1 for p in children) < 2:  # both workers follow their parent
        assert time.monotonic() < until and rank.poll() is None
        time.sleep(0.1)
        children = rank.children()
    rank.send_signal(kill)
    rank.wait(PATIENCE_S)
    _, alive = psutil.wait_procs(children, PATIENCE_S)
    assert not alive
