"""Talking to a checkpoint: the stream is the engine's own completion, whole characters only, long talks fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanolan.model.chat import Chat, stream, texts
from nanolan.model.checkpoint import load
from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.data.tiny_model import write_tiny

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    write_tiny(folder, ["Hello there, naïve café 12 + 34 日本"] * 3, n_merges=40, sequence_len=64)
    path = next(
        folder.glob("base_checkpoints/d20/model_*.pt")
    )  # a fresh model is all zero: shake it
    dice = torch.Generator().manual_seed(3)
    torch.save(
        {
            k: v + 0.3 * torch.randn(v.shape, generator=dice)
            for k, v in torch.load(path, weights_only=True).items()
        },
        path,
    )
    return folder


@pytest.fixture(scope="module")
def engine(base: Path) -> Engine:
    return Engine(
        load(base / "base_checkpoints/d20").model.eval(),
        load_tokenizer(base / "tokenizer"),
        look_every=1,
    )


def test_what_streams_is_what_the_engine_completes(engine: Engine) -> None:
    sampling = Sampling(max_new_tokens=40, temperature=1.0, top_k=50, seed=7)
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("Hello")]
    assert (
        list(stream(engine, prompt, sampling, key=3))
        == engine.complete([prompt], sampling, keys=[3])[0][0].ids
    )


def test_a_character_of_several_tokens_comes_out_whole(engine: Engine) -> None:
    ids = list("é日".encode())  # the first 256 ids are the bytes
    assert list(texts(iter(ids), engine.tokenizer)) == ["é", "日"]


def test_a_calculator_call_shows_as_text(engine: Engine) -> None:
    t = engine.tokenizer
    ids = [
        t.special("python_start"),
        *t.encode("12+34"),
        t.special("python_end"),
        t.special("output_start"),
        *t.encode("46"),
        t.special("output_end"),
    ]
    assert "".join(texts(iter(ids), t)) == "[12+34 = 46]"


def test_a_talk_longer_than_the_model_drops_its_oldest_exchanges(engine: Engine) -> None:
    chat = Chat(engine, Sampling(max_new_tokens=8, temperature=1.0, top_k=50, seed=1))
    for _ in range(60):
        list(chat.say("Hello there, naïve café, how are you today?"))
    assert len(chat.messages) < 120 and chat.messages[0]["role"] == "user"
    list(chat.say("x" * 5000))  # one message that is too long alone is cut from its start


def test_the_command_answers_one_prompt_and_says_what_is_missing(base: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "scripts/chat.py", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        )

    done = run("-p", "Hello", "--device=cpu", "--max-new-tokens=5")
    assert done.returncode == 0, done.stderr
    missing = run("source=sft")
    assert missing.returncode == 2 and "just pull sft" in missing.stderr
