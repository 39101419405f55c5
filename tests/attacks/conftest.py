"""Every attack is made in an empty folder: nothing may be written there, and no `pwned` may appear anywhere near."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs in spite of all would leave `pwned` in the current folder, or above it by `../`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir()) and not list(tmp_path.rglob("pwned*")), (
        "something was run or written"
    )
