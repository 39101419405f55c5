"""The fake device for tests: its library is compiled once, and equal cases run once, for all of pytest's workers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.support.tiny_world import REPO
from tests.train.fake_cuda import guard

QUICK = {
    "mid on 8": ("step", {"phase": "mid", "depth": 20, "size": 8}),
    "sft on 1": ("step", {"phase": "sft", "depth": 20, "size": 1}),
    "rl on 8": ("step", {"phase": "rl", "depth": 20, "size": 8}),
    # a rank's share of an rl step on 8 GPUs
    "decode": ("decode", {"depth": 20, "questions": 2, "samples": 16, "new_tokens": 256}),
}
Case = tuple[str, dict[str, Any]]  # a name of __main__.CASES and its arguments
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """fake_gpu(case, ...) -> the figures of each, from one child process."""
    if why := guard.missing():
        pytest.skip(f"no fake CUDA device: {why}")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "fake-cuda"
    folder.mkdir(exist_ok=True)

    def run(*cases: Case) -> list[dict[str, Any]]:
        words = json.dumps(cases)
        result = folder / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"
        with FileLock(f"{result}.lock"):
            if not result.exists():
                result.write_text(figures(library(folder), words))
        return json.loads(result.read_text())

    return run


@pytest.fixture(scope="session")
def quick(fake_gpu: Run) -> dict[str, dict[str, Any]]:
    """The figures of QUICK, from one process: importing torch's compiler is half of its time."""
    return dict(zip(QUICK, fake_gpu(*QUICK.values()), strict=True))


def library(folder: Path) -> Path:
    """The device's library."""
    with FileLock(folder / "library.lock"):
        built = [*folder.glob("*.so")]
        return built[0] if built else guard.build(folder)


def figures(built: Path, cases: str) -> str:
    """What a child process prints last."""
    env = {
        k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"
    }  # torch's compiler: 5 s
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.train.fake_cuda", str(built), cases],
        cwd=REPO,
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]
