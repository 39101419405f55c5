"""A rented machine's work folder, and a Python that the trainer's user may run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.box.sandbox import UID

PYTHONS = ("/usr/bin/python3", sys.executable)  # the first has no nanolan in it: "no code" is told
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run a trainer as another user"
)


def runs(python: str) -> bool:
    try:
        return (
            subprocess.run(
                [python, "-c", ""], user=UID, group=UID, extra_groups=[], cwd="/", check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.fixture
def python() -> str:
    """A Python that the trainer's user may run."""
    if found := next(filter(runs, PYTHONS), ""):
        return found
    pytest.skip(f"{' and '.join(PYTHONS)} lie where another user may not look")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine's work folder as boot.sh leaves it, with the code beside; all of root's, for everybody to read."""
    with tempfile.TemporaryDirectory(
        prefix="nanolan-tests-"
    ) as folder:  # pytest's own are closed to other users
        root = Path(folder)
        for name in ("work/model", "work/data", "code/nanolan", "state"):
            (root / name).mkdir(parents=True)
        (root / "work/model/model_000001.pt").write_bytes(b"weights")
        (root / "code/nanolan/__init__.py").touch()
        (root / "state/secrets.json").write_text("{}")
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)
        (root / "state").chmod(0o700)
        (root / "state/secrets.json").chmod(0o600)
        monkeypatch.chdir(root / "code")
        yield root / "work"
