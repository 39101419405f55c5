"""Shared by tests/cloud/test_rescue*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box_fixtures import KEY, TOKEN, Box, no_box_left

module = pytest.fixture(autouse=True, scope="module")(no_box_left)


LIST = "GET /v1/instances$"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        made.unpack()
        made.log_file.write_text(f"boot: started\nwith {TOKEN} and {KEY}\n")
        yield made


def rescue(box: Box, *words: str) -> int:
    """Run it as boot.sh does; its exit code."""
    return box.program("/usr/bin/env", "python3", str(box.state / "rescue.py"), *words).wait(30)
