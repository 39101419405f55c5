"""What the trainer's tests share: the tiny world, built once, and the fixtures written by a real nanochat fork."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.tiny_world import REPO, write_world

torch.set_num_threads(1)  # tiny matrices on two shared cores: threads only wait for each other


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base checkpoint, tokenizer and data sets; read only."""
    return write_world(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The fixtures folder beside the checkout or further up."""
    for parent in REPO.parents:
        if (parent / "shared" / "fixtures").is_dir():
            return parent / "shared" / "fixtures"
    pytest.skip(
        "no shared/fixtures beside the checkout: parity with nanochat's own files is not tested here"
    )
