"""The tiny checkpoint that a rehearsal makes of a fork's own architecture."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanolan.trainers.inside import tiny_base

torch = pytest.importorskip("torch")


@dataclass
class Usual:
    sequence_len: int = 2048
    vocab_size: int = 65536
    n_layer: int = 20
    n_head: int = 10
    n_kv_head: int = 10
    n_embd: int = 1280
    window_pattern: str = "SSSL"


@dataclass
class Own:
    """An architecture without layers to count."""

    vocab_size: int = 65536
    n_embd: int = 1280
    loops: int = 4


class GPT(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, config: Usual | Own) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)

    def init_weights(self) -> None: ...


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Usual, Usual(128, 300, 2, 2, 2, 64)),
        (Own, Own(300, 64)),
    ],
)
def test_it_sets_the_sizes_that_an_architecture_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: type, expected: Usual | Own
) -> None:
    gpt = types.ModuleType("nanochat.gpt")
    gpt.__dict__.update(GPT=GPT, GPTConfig=config)
    monkeypatch.setitem(sys.modules, "nanochat", types.ModuleType("nanochat"))
    monkeypatch.setitem(sys.modules, "nanochat.gpt", gpt)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert tiny_base.main([str(tmp_path), "300"]) == 0
    meta = json.loads((tmp_path / "meta_000010.json").read_bytes())
    assert config(**meta["model_config"]) == expected
    state = torch.load(tmp_path / "model_000010.pt", weights_only=True)
    assert state["wte.weight"].shape == (300, 64)
