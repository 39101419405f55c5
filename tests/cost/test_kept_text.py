"""The part of a limit that is kept for saving, in words that add up."""

from __future__ import annotations

import pytest

from nanolan.cost.kept_text import money_text, time_text


@pytest.mark.parametrize(
    "limit, kept, text",
    [
        (4000, 1568, "$40.00, $15.68 of it kept for saving"),
        (100, 1568, "$1.00 is less than the $15.68 kept for saving"),
        (1568, 1568, "$15.68 is less than the $15.68 kept for saving"),
    ],
)
def test_money(limit: int, kept: int, text: str) -> None:
    assert money_text(limit, kept) == text


@pytest.mark.parametrize(
    "limit, kept, text",
    [
        (2400, 1680, "40 minutes, 28 of them kept for saving"),
        (60, 1680, "60 seconds is less than the 28 minutes kept for saving"),
        (1, 1680, "1 seconds is less than the 28 minutes kept for saving"),
        (600, 1680, "10 minutes is less than the 28 minutes kept for saving"),
    ],
)
def test_time(limit: int, kept: int, text: str) -> None:
    assert time_text(limit, kept) == text
