"""Shared by tests/box/test_main*.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import NanolanError
from nanolan.plan import Rented
from nanolan.run.record import error_of, read_receipt
from tests.support.box_fixtures import REPO, Box, no_box_left
from tests.test_notify import Service, service  # noqa: F401  # a fixture

module = pytest.fixture(autouse=True, scope="module")(no_box_left)


NewBox = Callable[..., Box]


SFT, MID = "chatsft_checkpoints/d20", "mid_checkpoints/d20"


# 160 s of life: training is stopped after 150 s (twice the margin before the end), everything given up after 159 s
LIFE_S = 160.0


@pytest.fixture
def new_box(tmp_path: Path) -> Iterator[NewBox]:
    """Boxes that are ended when the test ends."""
    boxes: list[Box] = []

    def make(recipe: dict[str, float] | None = None, **how: Any) -> Box:
        boxes.append(Box(tmp_path / str(len(boxes)), recipe=recipe or {}, **how))
        return boxes[-1].__enter__()

    yield make
    for box in boxes:
        box.__exit__()


def verdict(box: Box) -> tuple[str, str, int]:
    """Verdict, reason and exit code of the receipt on the Hub."""
    receipt = read_receipt(box.hub.read(REPO, f"{box.plan.folder}/receipt.json"))
    error: NanolanError | None = error_of(receipt)
    return receipt.verdict, receipt.reason, error.exit_code if error else 0


def deletes(box: Box) -> list[float]:
    return [r.t for r in box.cloud.requests if r.path.endswith("/delete")]


def dear(cents: int = 36_000) -> dict[str, Any]:
    """An offer at $360 an hour, ten cents a second, and the limit of $16 that it reaches after LIFE_S."""
    return dict(
        offer=Rented("hyperstack", "canada-1", "H100x8", "H100", 8, 80, cents, "os"),
        limit_cents=1600,
    )
