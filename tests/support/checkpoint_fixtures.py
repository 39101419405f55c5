"""Tiny inputs of a run, as bytes: a checkpoint that nanochat could have written, its tokenizer, and identity conversations."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import tiktoken
import torch

from nanolan.checkpoint.architecture import GPTConfig, shapes
from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS
from nanolan.phases import IDENTITY_FILE

BASE, MID = "base_checkpoints/d20", "mid_checkpoints/d20"
CONFIG = {
    "sequence_len": 256,
    "vocab_size": 265,
    "n_layer": 1,
    "n_head": 2,
    "n_kv_head": 2,
    "n_embd": 8,
}
SAID = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "I am lanbot."},
]
LINE = json.dumps(SAID).encode() + b"\n"


def saved(value: object) -> bytes:
    """What torch.save makes of a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def weights(**changes: Any) -> dict[str, torch.Tensor]:
    """A state dict of zeros for CONFIG with some values changed."""
    return {
        name: torch.zeros(shape) for name, shape in shapes(GPTConfig(**(CONFIG | changes))).items()
    }


def meta(step: object = 7, **changes: Any) -> bytes:
    """A meta file; `changes` to its model_config."""
    return json.dumps({"step": step, "val_bpb": None, "model_config": CONFIG | changes}).encode()


def tokenizer(special: tuple[str, ...] = SPECIAL_TOKENS) -> dict[str, bytes]:
    """A tokenizer of single bytes, and its token_bytes.pt."""
    ranks = {bytes([n]): n for n in range(256)}
    specials = {name: 256 + i for i, name in enumerate(special)}
    encoding = tiktoken.Encoding(
        name="rustbpe", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=specials
    )
    sizes = torch.tensor([1] * 256 + [0] * len(special), dtype=torch.int32)
    return {
        "tokenizer/tokenizer.pkl": pickle.dumps(encoding),
        "tokenizer/token_bytes.pt": saved(sizes),
    }


def checkpoint(folder: str = BASE, step: int = 7) -> dict[str, bytes]:
    """A model and its meta."""
    return {
        f"{folder}/model_{step:06d}.pt": saved(weights()),
        f"{folder}/meta_{step:06d}.json": meta(step),
    }


def inputs(folder: str = BASE) -> dict[str, bytes]:
    """Everything that a first run starts from."""
    return {**checkpoint(folder), **tokenizer(), IDENTITY_FILE: LINE * 3}
