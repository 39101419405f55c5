"""Shared by tests/scripts/test_setup*.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.sim.world import offline_packages

ROOT = Path(__file__).resolve().parents[2]


FILES = (
    "just",
    "justfile",
    "pyproject.toml",
    "constraints.txt",
    "constraints-cu12.txt",
    "constraints-cu13.txt",
    "README.md",
    "LICENSE",
    "scripts/setup.sh",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup needs of the project, in a folder with a space in its name."""
    folder = tmp_path / "a folder"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "nanolan", folder / "nanolan", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


@pytest.fixture
def env() -> dict[str, str]:
    """No network: what is installed comes from this machine's package cache."""
    packages = offline_packages(os.environ)
    if not packages:
        pytest.skip("no uv here to install with from the cache")
    return {
        k: v for k, v in os.environ.items() if k.startswith(("PATH", "HOME", "PIP_", "SSL"))
    } | packages


def setup(
    checkout: Path, env: dict[str, str], what: str = "light"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/setup.sh", what],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def stub_uv(folder: Path, fails: str) -> str:
    """A uv that makes a folder for `venv`, fails a command that holds `fails`, and writes down what it was asked."""
    path = folder / "uv"
    path.write_text(
        f'#!/bin/sh\necho "$*" >> "{folder}/asked"\ncase "$*" in *"{fails}"*) exit 1 ;; esac\n'
        f'[ "$1" != venv ] || {{ mkdir -p .venv/bin && ln -s "{sys.executable}" .venv/bin/python; }}\n'
    )
    path.chmod(0o755)
    return str(path)
