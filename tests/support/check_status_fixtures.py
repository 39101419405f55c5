"""Shared by tests/scripts/test_check_status*.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.box_fixtures import AT_ONCE, KEY, REPO, TOKEN, WRITERS
from tests.support.status_fixtures import Desk


class Terminal:
    """A laptop with a checkout of its own, where the commands are typed."""

    def __init__(self, root: Path, hub: HubServer, cloud: ShadeformServer) -> None:
        self.checkout, self.home, self.hub, self.cloud = (
            root / "checkout",
            root / "home",
            hub,
            cloud,
        )
        shutil.copytree(
            ROOT / "nanolan",
            self.checkout / "nanolan",
            ignore=shutil.ignore_patterns("sim", "train", "__pycache__"),
        )
        shutil.copytree(
            ROOT / "scripts",
            self.checkout / "scripts",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "PYTHONPATH": str(self.checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NANOLAN_HOME": str(self.home),
            "NANOLAN_ENV_FILE": os.devnull,
            "HF_HOME": str(root / "hf"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "SHADEFORM_API": cloud.url,
            "SHADEFORM_API_KEY": KEY,
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.checkout / "scripts/check_status.py"), *words],
            cwd=self.checkout,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        child = self.start(*words, **env)
        out, err = child.communicate(timeout=30)
        return child.returncode, out, err


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with (
        HubServer(tmp_path / "hub", tokens=WRITERS) as hub,
        ShadeformServer(
            tmp_path / "cloud", key=KEY, boxes=False, delays=replace(AT_ONCE, deleting_s=0)
        ) as cloud,
    ):
        hub.put(REPO, {"README.md": b"#"})
        yield Terminal(tmp_path, hub, cloud)


@pytest.fixture
def desk(terminal: Terminal, tmp_path: Path) -> Desk:
    """One run of an hour ago, in the ledger of the terminal."""
    return Desk(tmp_path, terminal.hub, terminal.cloud)
