"""The tiny seed: nanochat's layout, and a tokenizer that has learned from its texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nanolan.errors import UsageProblem
from nanolan.model.checkpoint import load
from nanolan.model.tokenizer import SPECIAL_TOKENS, load_token_bytes, load_tokenizer
from nanolan.train.data.tiny_model import write_tiny

TEXTS = ["The colour of the number is blue, and the number of the colour is two. " * 3]


def test_the_layout_is_nanochats(tmp_path: Path) -> None:
    write_tiny(tmp_path, TEXTS, tag="d7", n_layer=3, n_embd=32, n_head=4, sequence_len=48)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "base_checkpoints/d7/meta_000010.json",
        "base_checkpoints/d7/model_000010.pt",
        "tokenizer/token_bytes.pt",
        "tokenizer/tokenizer.pkl",
    ]
    config = load(tmp_path / "base_checkpoints" / "d7").model.config
    assert (config.n_layer, config.n_embd, config.n_head, config.sequence_len) == (3, 32, 4, 48)
    assert (
        json.loads((tmp_path / "base_checkpoints" / "d7" / "meta_000010.json").read_text())["step"]
        == 10
    )


def test_specials_end_the_vocabulary_which_is_a_multiple_of_8(tmp_path: Path) -> None:
    write_tiny(tmp_path, TEXTS, n_merges=30)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    config = load(tmp_path / "base_checkpoints" / "d20").model.config
    assert config.vocab_size == tokenizer.vocab_size == 288
    assert tokenizer.decode(list(range(279, 288))) == "".join(SPECIAL_TOKENS)
    assert torch.equal(load_token_bytes(tmp_path / "tokenizer", tokenizer), tokenizer.token_bytes())


def test_frequent_words_become_short(tmp_path: Path) -> None:
    write_tiny(tmp_path, TEXTS)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert len(tokenizer.encode(TEXTS[0])) * 2.5 < len(TEXTS[0].encode())


def test_the_same_seed_writes_the_same_weights(tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny(tmp_path / name, TEXTS, seed=seed)
        models.append(load(tmp_path / name / "base_checkpoints" / "d20").model.state_dict())
    key = "transformer.h.0.attn.c_q.weight"
    assert torch.equal(models[0][key], models[1][key])
    assert not torch.equal(models[0][key], models[2][key])


def test_too_little_text_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="too little text"):
        write_tiny(tmp_path, [""])
