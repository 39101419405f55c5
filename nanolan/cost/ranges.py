"""An estimate as three numbers, and their sums. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """Three estimates of a quantity."""

    low: float
    likely: float
    high: float


NOTHING = Range(0.0, 0.0, 0.0)


def total(*ranges: Range) -> Range:
    """The sum of several estimates: of all low, all likely and all high values."""
    return Range(*(sum(r[i] for r in ranges) for i in range(3)))
