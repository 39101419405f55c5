"""A model of a given size with random weights, and a tokenizer with as many tokens: what the parts of a GPU check train.

write(folder, size)   ->  folder/model/{model_000001.pt,meta_000001.json}, folder/tokenizer/{tokenizer.pkl,token_bytes.pt}
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import tiktoken
import torch

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.model.checkpoint import write_files
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanolan.train.data.tiny_model import PATTERN

STEP = 1
SEED = 7


def config_of(size: Mapping[str, int]) -> GPTConfig:
    """The model's config from {"sequence_len", "vocab_size", "n_layer", "n_head", "n_embd"}."""
    return GPTConfig(
        size["sequence_len"],
        size["vocab_size"],
        size["n_layer"],
        size["n_head"],
        size["n_head"],
        size["n_embd"],
    )


def tokenizer_of(vocab_size: int) -> Tokenizer:
    """256 bytes, then pairs of bytes (of letters first, so that text is shorter), then the special tokens."""
    return Tokenizer(_encoding(vocab_size))


def _encoding(vocab_size: int) -> tiktoken.Encoding:
    letters = b" etaoinshrdlcumwfgypbvk"
    order = bytes([*letters, *(b for b in range(256) if b not in letters)])
    pairs = [bytes((order[i], order[n - i])) for n in range(511) for i in range(n + 1)
             if i < 256 and n - i < 256]  # fmt: skip
    merged = pairs[: vocab_size - 256 - len(SPECIAL_TOKENS)]
    tokens = [bytes([b]) for b in range(256)] + merged
    ranks = {token: i for i, token in enumerate(tokens)}
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding(
        name="rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )


def write(folder: Path, size: Mapping[str, int]) -> None:
    """Write model and tokenizer; equal bytes for equal sizes and versions of torch."""
    config = config_of(size)
    encoding = _encoding(config.vocab_size)
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer/tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(Tokenizer(encoding).token_bytes(), folder / "tokenizer/token_bytes.pt")
    meta = {
        "step": STEP,
        "val_bpb": None,
        "model_config": asdict(config),
        "user_config": {},
        "device_batch_size": 1,
        "max_seq_len": config.sequence_len,
    }
    (folder / "model").mkdir(exist_ok=True)
    write_files(folder / "model", STEP, GPT.fresh(config, SEED), meta)
