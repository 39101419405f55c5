"""Files of tensors: their size is known beforehand, and a failing disk is named."""

from __future__ import annotations

import resource
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanolan.checkpoint.manifest import Cancelled, hash_file
from nanolan.model.checkpoint import (
    read_state,
    saved_size,
    weights_of,
    write_files,
    write_tensors,
)
from nanolan.model.gpt import GPT, GPTConfig

TENSORS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "a number": {"t": torch.tensor(3)},
    "many kinds": {
        "w": torch.randn(33, 7),
        "h": torch.randn(5).bfloat16(),
        "rng": torch.get_rng_state(),
        "losses": torch.zeros(3, dtype=torch.float64),
        "nothing": torch.zeros(0, 4),
        "turned": torch.randn(4, 9).mT,
    },
    "ordered": OrderedDict(a=torch.ones(2), b=torch.ones(3)),
    "a model": dict(weights_of(GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32)))),
    "of a model": OrderedDict(weights_of(GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32)))),
    "long names and many": {f"layer.{i}.{'x' * 40}": torch.ones(i) for i in range(120)},
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_are_written_and_hashed_in_one_pass(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    entry = write_tensors(path, TENSORS[kind])
    assert entry == hash_file(path)
    assert entry.size == saved_size(TENSORS[kind]), "else it would be read once more"
    again = read_state(path)
    assert again.keys() == TENSORS[kind].keys()
    assert all(torch.equal(again[key], t) for key, t in TENSORS[kind].items())


def test_a_part_of_a_larger_tensor_is_hashed_right_all_the_same(tmp_path: Path) -> None:
    part = {"a": torch.arange(100)[10:20]}  # torch.save writes all of its memory
    assert write_tensors(tmp_path / "a.pt", part) == hash_file(tmp_path / "a.pt")


def test_the_entries_of_a_checkpoint_are_those_of_its_files(tmp_path: Path) -> None:
    model = GPT.fresh(GPTConfig(16, 64, 1, 2, 2, 16))
    entries = write_files(tmp_path, 3, model, {"step": 3})
    assert entries == tuple(hash_file(tmp_path / e.path) for e in entries)


def test_a_write_of_tensors_is_given_up_when_asked(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        write_tensors(tmp_path / "a.pt", {"w": torch.zeros(1 << 20)}, lambda: True)


def test_what_the_disk_does_not_take_is_said_in_its_own_words(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "a.pt", {"w": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
