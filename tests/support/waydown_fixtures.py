"""Shared by tests/promises/test_waydown*.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box_fixtures import Box, no_box_left

module = pytest.fixture(autouse=True, scope="module")(no_box_left)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        made.unpack()
        yield made
